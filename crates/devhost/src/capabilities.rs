//! `inherit_configuration`: what a dependency or middleware can import of what the host
//! provides.

use serde::Deserialize;

/// The keys of `inherit_configuration`, and the interfaces that Spin's deny adapter
/// plugs without each, up to their minor version. It leaves clocks, random numbers,
/// stdout and stderr.
///
/// Denied beyond Spin: `wasi:sockets/types`, with which a component creates sockets
/// of WASI 0.3. What is left of `wasi:sockets` needs a socket.
const CAPABILITIES: &[(&str, &[&str])] = &[
    ("ai_models", &["fermyon:spin/llm"]),
    (
        "allowed_outbound_hosts",
        &[
            "fermyon:spin/http",
            "fermyon:spin/mqtt",
            "fermyon:spin/mysql",
            "fermyon:spin/postgres",
            "fermyon:spin/rdbms-types",
            "fermyon:spin/redis",
            "spin:mqtt/",
            "spin:mysql/",
            "spin:postgres/",
            "spin:redis/",
            "wasi:http/client@0.",
            "wasi:http/outgoing-handler@0.",
            "wasi:sockets/ip-name-lookup@0.",
            "wasi:sockets/tcp-create-socket@0.",
            "wasi:sockets/types@0.",
            "wasi:sockets/udp-create-socket@0.",
        ],
    ),
    ("environment", &["wasi:cli/environment@0."]),
    ("files", &["wasi:filesystem/preopens@0."]),
    (
        "key_value_stores",
        &[
            "fermyon:spin/key-value",
            "spin:key-value/",
            "wasi:keyvalue/store@0.",
        ],
    ),
    ("sqlite_databases", &["fermyon:spin/sqlite", "spin:sqlite/"]),
    (
        "variables",
        &[
            "fermyon:spin/config",
            "fermyon:spin/variables",
            "spin:variables/",
            "wasi:config/store@0.",
        ],
    ),
];

/// The part of the configuration of its primary component that a component inherits:
/// nothing, by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "InheritConfiguration")]
pub(crate) struct Inherit(Vec<String>);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "inherit_configuration must be a boolean or a list of keys"
)]
enum InheritConfiguration {
    AllOrNothing(bool),
    Some(Vec<String>),
}

impl TryFrom<InheritConfiguration> for Inherit {
    type Error = String;

    fn try_from(configuration: InheritConfiguration) -> Result<Self, String> {
        let keys = CAPABILITIES.iter().map(|(key, _)| (*key).to_owned());
        match configuration {
            InheritConfiguration::AllOrNothing(true) => Ok(Self(keys.collect())),
            InheritConfiguration::AllOrNothing(false) => Ok(Self::default()),
            InheritConfiguration::Some(inherited) => {
                let all: Vec<_> = keys.collect();
                match inherited.iter().find(|key| !all.contains(key)) {
                    None => Ok(Self(inherited)),
                    Some(unknown) => Err(format!(
                        "inherit_configuration has no {unknown:?}, only {}",
                        all.join(", ")
                    )),
                }
            }
        }
    }
}

impl Inherit {
    /// Returns whether an import of a composed component is denied.
    pub(crate) fn denies(&self, import: &str) -> bool {
        CAPABILITIES
            .iter()
            .filter(|(key, _)| !self.0.iter().any(|inherited| inherited == key))
            .any(|(_, interfaces)| interfaces.iter().any(|denied| import.starts_with(denied)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_denied_and_other_interfaces_are_not() {
        for (import, expected) in [
            ("wasi:cli/environment@0.2.6", true),
            ("wasi:cli/environment@0.3.0", true),
            ("wasi:filesystem/preopens@0.2.12", true),
            ("wasi:http/client@0.3.0", true),
            ("spin:redis/redis@3.0.0", true),
            ("spin:variables/variables@3.0.0", true),
            ("fermyon:spin/llm@2.0.0", true),
            ("wasi:sockets/types@0.3.0", true),
            ("wasi:sockets/tcp-create-socket@0.2.6", true),
            ("wasi:sockets/udp-create-socket@0.2.6", true),
            ("wasi:cli/exit@0.2.6", false),
            ("wasi:cli/stderr@0.2.6", false),
            ("wasi:clocks/monotonic-clock@0.2.6", false),
            ("wasi:random/random@0.2.6", false),
            ("wasi:http/types@0.3.0", false),
        ] {
            let denied = Inherit::default().denies(import);
            assert_eq!(denied, expected, "{import}");
        }
    }
}
