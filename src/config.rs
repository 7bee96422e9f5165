//! The service's options, from Spin variables.

use std::{cell::RefCell, time::Duration};

use functional_scaffold_metering::{
    Config as MeteringConfig,
    log::Level,
    variables::{self, Reader, VariableError},
};

/// The largest `max_body_bytes` and `max_output_bytes`, 64 MiB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The longest `body_timeout_ms`, ten minutes.
const MAX_BODY_TIMEOUT_MS: u64 = 600_000;

/// Every option of the component. Read once an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The options of the metric path.
    pub metering: MeteringConfig,
    /// Access to the details of `/readyz`.
    pub access: Access,
    /// The longest request body, in bytes, up to 64 MiB.
    pub max_body_bytes: u64,
    /// The deadline for a request's body, up to ten minutes.
    pub body_timeout: Duration,
    /// The longest output of the algorithm that is sent, in bytes, up to 64 MiB.
    pub max_output_bytes: u64,
    /// The least severe level that is logged.
    pub log_level: Level,
}

/// Access to the details of `/readyz`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The API key that `/invoke`, `/metrics` and the details of `/readyz` require.
    /// Without one, the first two need none, and the details are not shown.
    pub api_key: Option<String>,
    /// Whether `/readyz` shows its details to everyone.
    pub readyz_details_are_public: bool,
}

/// A configuration that cannot be used.
pub struct Misconfigured {
    /// Everything that is wrong with it.
    pub problems: Vec<String>,
    /// The clients that may see the problems.
    pub access: Access,
}

impl Config {
    /// Reads the variables that the manifest sets. The others have their
    /// defaults.
    ///
    /// # Errors
    /// A variable has an unusable value, or the host could not resolve it.
    pub async fn load() -> Result<Self, Misconfigured> {
        let access = RefCell::default();
        let config = variables::load(|reader| {
            let config = Self::read(reader);
            access.replace(config.access.clone());
            config
        });
        config.await.map_err(|errors| Misconfigured {
            problems: errors.iter().map(VariableError::to_string).collect(),
            access: access.take(),
        })
    }

    fn read(reader: &mut Reader) -> Self {
        let levels = Level::ALL.map(|level| (level.name(), level));
        Self {
            metering: MeteringConfig::read(reader),
            access: Access {
                api_key: Some(reader.text("api_key", "")).filter(|key| !key.is_empty()),
                readyz_details_are_public: reader.choice(
                    "readyz_details",
                    false,
                    &[("key", false), ("public", true)],
                ),
            },
            max_body_bytes: reader.integer("max_body_bytes", "1048576", 1..=MAX_BYTES),
            body_timeout: reader.millis("body_timeout_ms", "30000", 1..=MAX_BODY_TIMEOUT_MS),
            max_output_bytes: reader.integer("max_output_bytes", "8388608", 1..=MAX_BYTES),
            log_level: reader.choice("log_level", Level::Info, &levels),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, iter, path::Path};

    use super::*;

    fn config(values: &[(&'static str, &str)]) -> Result<Config, Vec<VariableError>> {
        let values = values.iter().map(|&(name, value)| (name, value.to_owned()));
        let mut reader = Reader::new(values.collect());
        let config = Config::read(&mut reader);
        reader.finish(config)
    }

    /// Every variable of the component, with its default.
    fn declared() -> BTreeMap<String, String> {
        let mut reader = Reader::default();
        Config::read(&mut reader);
        let mut declared = BTreeMap::new();
        for (name, default) in reader.declared() {
            let before = declared.insert((*name).to_owned(), (*default).to_owned());
            assert_eq!(before, None, "{name} is declared once");
        }
        declared
    }

    fn repository_file(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The variables that the manifest declares, with their defaults.
    fn in_manifest() -> BTreeMap<String, String> {
        let manifest = repository_file("spin.toml");
        let lines = manifest.lines().filter_map(|line| {
            let (name, declaration) = line.split_once(" = { default = \"")?;
            Some((name.to_owned(), declaration.split('"').next()?.to_owned()))
        });
        lines.collect()
    }

    #[test]
    fn unset_and_empty_values_have_defaults() {
        let config = config(&[("api_key", ""), ("redis_tls", "")]).expect("nothing is wrong");
        assert_eq!(config.max_body_bytes, 1 << 20);
        assert_eq!(config.max_output_bytes, 8 << 20);
        assert_eq!(config.access.api_key, None);
        assert!(!config.access.readyz_details_are_public);
        assert_eq!(config.body_timeout, Duration::from_secs(30));
        assert_eq!(config.log_level, Level::Info);
    }

    #[test]
    fn all_wrong_values_are_refused_by_name() {
        for (name, value) in [
            ("max_body_bytes", "1MiB"),
            ("max_body_bytes", "67108865"),
            ("max_output_bytes", "0"),
            ("max_output_bytes", "67108865"),
            ("body_timeout_ms", "0"),
            ("body_timeout_ms", "600001"),
            ("readyz_details", "none"),
            ("log_level", "loud"),
        ] {
            let errors = config(&[(name, value)]).err().expect("it is refused");
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].name, name);
            assert!(errors[0].reason.contains(value), "{}", errors[0]);
        }
        let both = config(&[("redis_port", "x"), ("log_level", "y")]);
        assert_eq!(both.err().map(|errors| errors.len()), Some(2));
    }

    #[test]
    fn the_manifest_declares_variables_with_the_components_defaults_but_for_guards() {
        let (declared, in_manifest) = (declared(), in_manifest());
        assert!(!in_manifest.is_empty());
        for (name, default) in &in_manifest {
            // The component's own default is right for any algorithm. The manifest's
            // algorithms in Rust are guarded, for which `batched` counts crashes, too.
            let expected = match name.as_str() {
                "metrics_durability" => "batched",
                name => &declared[name],
            };
            assert_eq!(default, expected, "{name} in spin.toml");
        }
        // `allowed_outbound_hosts` is built from these.
        for name in ["redis_host", "redis_port", "pushgateway_url"] {
            assert!(in_manifest.contains_key(name), "{name} in spin.toml");
        }
    }

    #[test]
    fn the_env_example_has_the_manifests_variables() {
        let example = repository_file(".env.example");
        let shown = example.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("#SPIN_VARIABLE_")?.split_once('=')?;
            Some((name.to_lowercase(), value.to_owned()))
        });
        assert_eq!(shown.collect::<BTreeMap<_, _>>(), in_manifest());
    }

    #[test]
    fn the_readme_lists_every_variable_with_its_default() {
        let declared = declared();
        for readme in ["README.md", "README.zh-CN.md"] {
            let text = repository_file(readme);
            let rows = text.lines().filter_map(|line| {
                let mut cells = line.strip_prefix('|')?.split('|');
                let [names, defaults] = [cells.next()?, cells.next()?].map(in_code);
                let is_variable =
                    !names.is_empty() && names.iter().all(|name| declared.contains_key(name));
                is_variable.then(|| {
                    let defaults = defaults.into_iter().chain(iter::repeat(String::new()));
                    names.into_iter().zip(defaults).collect::<Vec<_>>()
                })
            });
            let listed: BTreeMap<_, _> = rows.flatten().collect();
            assert_eq!(listed, declared, "{readme}");
        }
    }

    /// The parts of a table's cell that are in backticks.
    fn in_code(cell: &str) -> Vec<String> {
        let parts = cell.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    }
}
