//! The Spin manifest, version 2: the part of it that the dev host supports.
//!
//! Everything else is refused by name, so that a manifest which starts here means
//! the same on Spin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::capabilities::Inherit;

/// A manifest and the folder of its relative paths.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) manifest: Manifest,
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    spin_manifest_version: u32,
    pub(crate) application: Application,
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, Variable>,
    pub(crate) trigger: Triggers,
    #[serde(default)]
    pub(crate) component: BTreeMap<String, Component>,
}

/// The application's description of itself. Serialised for
/// `/.well-known/spin/info`, as on Spin.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Application {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, rename = "description", skip_serializing)]
    _description: IgnoredAny,
    #[serde(default, rename = "authors", skip_serializing)]
    _authors: IgnoredAny,
    #[serde(default, rename = "targets", skip_serializing)]
    _targets: IgnoredAny,
    #[serde(default, rename = "tool", skip_serializing)]
    _tool: IgnoredAny,
}

/// An application variable: either `required` or with a `default`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variable {
    #[serde(default)]
    pub(crate) required: bool,
    pub(crate) default: Option<String>,
    /// Has no effect: the dev host prints no values of variables.
    #[serde(default, rename = "secret")]
    _secret: bool,
    #[serde(default, rename = "description")]
    _description: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Triggers {
    pub(crate) http: Vec<HttpTrigger>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpTrigger {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    pub(crate) route: String,
    pub(crate) component: String,
    #[serde(default)]
    pub(crate) dependencies: TriggerDependencies,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriggerDependencies {
    /// The outermost first.
    #[serde(default)]
    pub(crate) middleware: Vec<Middleware>,
}

/// Middleware of a route, and what it has of the configuration of the component it
/// wraps.
#[derive(Debug, Deserialize)]
#[serde(try_from = "MiddlewareTable")]
pub(crate) struct Middleware {
    pub(crate) source: MiddlewareSource,
    pub(crate) inherit: Inherit,
}

#[derive(Debug)]
pub(crate) enum MiddlewareSource {
    /// Relative to the manifest.
    File(PathBuf),
    /// A component of the manifest, by its id.
    Component(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MiddlewareTable {
    path: Option<PathBuf>,
    component: Option<String>,
    #[serde(default)]
    inherit_configuration: Inherit,
}

impl TryFrom<MiddlewareTable> for Middleware {
    type Error = &'static str;

    fn try_from(table: MiddlewareTable) -> Result<Self, &'static str> {
        let source = match (table.path, table.component) {
            (Some(path), None) => MiddlewareSource::File(path),
            (None, Some(id)) => MiddlewareSource::Component(id),
            _ => return Err("middleware needs either a `path` or a `component`"),
        };
        Ok(Self {
            source,
            inherit: table.inherit_configuration,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    /// A path relative to the manifest.
    pub(crate) source: PathBuf,
    #[serde(default)]
    pub(crate) description: String,
    /// Values are templates over the application's variables.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Entries are templates over the application's variables.
    #[serde(default)]
    pub(crate) allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    pub(crate) dependencies: BTreeMap<String, Dependency>,
    #[serde(default, rename = "build")]
    _build: IgnoredAny,
    #[serde(default, rename = "targets")]
    _targets: IgnoredAny,
    #[serde(default, rename = "tool")]
    _tool: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dependency {
    /// A path relative to the manifest.
    pub(crate) path: PathBuf,
    /// The export of the dependency, if its name is not that of the import.
    pub(crate) export: Option<String>,
}

impl App {
    /// Reads and checks a manifest. A folder means the `spin.toml` in it.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no version 2 manifest, or uses something that
    /// the dev host does not have.
    pub(crate) fn load(from: &Path) -> Result<Self> {
        let path = if from.is_dir() {
            from.join("spin.toml")
        } else {
            from.to_owned()
        };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read manifest {}", path.display()))?;
        let manifest = Manifest::parse(&text)
            .with_context(|| format!("cannot run manifest {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { manifest, folder })
    }
}

impl Manifest {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text).context(
            "the dev host supports only a part of Spin's manifest (HTTP triggers, local \
             components and dependencies, variables, environment, outbound hosts)",
        )?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.spin_manifest_version == 2,
            "spin_manifest_version must be 2, not {}",
            self.spin_manifest_version
        );
        for (name, variable) in &self.variables {
            ensure!(
                variable.required ^ variable.default.is_some(),
                "variable `{name}` must be `required` or have a `default`, and not both"
            );
        }
        for trigger in &self.trigger.http {
            ensure!(
                self.component.contains_key(&trigger.component),
                "route {:?} names component `{}`, which the manifest does not define",
                trigger.route,
                trigger.component
            );
            for middleware in &trigger.dependencies.middleware {
                if let MiddlewareSource::Component(id) = &middleware.source {
                    self.check_middleware(id)
                        .with_context(|| format!("middleware of route {:?}", trigger.route))?;
                }
            }
        }
        for (id, component) in &self.component {
            for host in &component.allowed_outbound_hosts {
                if host.contains(".spin.internal") {
                    bail!("component `{id}` allows {host:?}: the dev host has no service chaining");
                }
            }
        }
        Ok(())
    }

    /// Refuses what Spin refuses, too: a component's own configuration has no effect
    /// where it is middleware.
    fn check_middleware(&self, id: &str) -> Result<()> {
        let component = self.component.get(id);
        let component =
            component.with_context(|| format!("the manifest does not define component `{id}`"))?;
        let settings = [
            ("variables", component.variables.is_empty()),
            ("environment", component.environment.is_empty()),
            (
                "allowed_outbound_hosts",
                component.allowed_outbound_hosts.is_empty(),
            ),
            ("dependencies", component.dependencies.is_empty()),
        ];
        for (name, is_empty) in settings {
            ensure!(
                is_empty,
                "component `{id}` must not have `{name}`: middleware has the configuration of \
                 the component it wraps"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"
        spin_manifest_version = 2
        [application]
        name = "app"
        version = "0.1.0"
        authors = ["someone"]
        description = "an application"
        [[trigger.http]]
        route = "/..."
        component = "api"
    "#;
    const API: &str = "[component.api]\nsource = \"api.wasm\"\n";

    #[test]
    fn accepts_what_the_scaffold_uses() {
        let manifest = Manifest::parse(&format!(
            "{HEAD}{API}{}",
            r#"
            description = "the API"
            allowed_outbound_hosts = ["redis://{{ host }}:6379"]
            environment = { A = "b" }
            [component.api.variables]
            host = "{{ host }}"
            [component.api.build]
            command = "cargo build"
            [component.api.dependencies]
            "a:b/c@0.1.0" = { path = "c.wasm" }
            [variables]
            host = { default = "localhost" }
            password = { required = true, secret = true }
            "#
        ))
        .expect("manifest is accepted");
        let api = &manifest.component["api"];
        assert_eq!(
            api.dependencies["a:b/c@0.1.0"].path,
            PathBuf::from("c.wasm")
        );
        assert_eq!(
            manifest.variables["host"].default.as_deref(),
            Some("localhost")
        );
        assert!(manifest.variables["password"].required);
    }

    #[test]
    fn refuses_the_rest_by_name() {
        let cases = [
            ("key_value_stores = [\"default\"]", "key_value_stores"),
            ("sqlite_databases = [\"default\"]", "sqlite_databases"),
            ("ai_models = [\"llama\"]", "ai_models"),
            ("files = [\"*.html\"]", "files"),
            (
                "dependencies_inherit_configuration = true",
                "dependencies_inherit_configuration",
            ),
            (
                "[component.api.dependencies]\n\"a:b\" = { path = \"x\", inherit_configuration = true }",
                "inherit_configuration",
            ),
            ("[component.api.dependencies]\n\"a:b\" = \"1.0\"", "\"1.0\""),
            (
                "[[trigger.redis]]\nchannel = \"c\"\ncomponent = \"api\"",
                "redis",
            ),
            (
                "[[trigger.http]]\nroute = { private = true }\ncomponent = \"api\"",
                "private",
            ),
            (
                "[[trigger.http]]\nroute = \"/x\"\nstatic_response = {}",
                "static_response",
            ),
            (
                "[[trigger.http]]\nroute = \"/x\"\ncomponent = \"other\"",
                "other",
            ),
            (
                "[variables]\nboth = { required = true, default = \"\" }",
                "both",
            ),
            ("[variables]\nneither = { secret = true }", "neither"),
            (
                "allowed_outbound_hosts = [\"http://x.spin.internal\"]",
                "service chaining",
            ),
        ];
        for (extra, name) in cases {
            let error = Manifest::parse(&format!("{HEAD}{API}{extra}"))
                .err()
                .unwrap_or_else(|| panic!("{extra} is accepted"));
            let message = format!("{error:#}");
            assert!(message.contains(name), "{extra}: {message}");
        }
    }

    #[test]
    fn refuses_middleware_by_name() {
        const MIDDLEWARE: &str = "[component.plain]\nsource = \"plain.wasm\"\n\
             [component.own]\nsource = \"own.wasm\"\nvariables = { a = \"b\" }\n";
        for (dependencies, name) in [
            (
                "middleware = [{ url = \"https://x/y.wasm\", digest = \"sha256:0\" }]",
                "url",
            ),
            (
                "middleware = [{ version = \"1.0.0\", package = \"a:b\" }]",
                "version",
            ),
            ("middleware = [\"1.0.0\"]", "1.0.0"),
            ("middleware = { path = \"x.wasm\" }", "expected a sequence"),
            (
                "middleware = [{ path = \"x.wasm\", component = \"plain\" }]",
                "either",
            ),
            ("middleware = [{}]", "either a `path` or a `component`"),
            (
                "middleware = [{ path = \"x.wasm\", exports = \"y\" }]",
                "exports",
            ),
            (
                "middleware = [{ path = \"x.wasm\", inherit_configuration = [\"secrets\"] }]",
                "\"secrets\"",
            ),
            (
                "middleware = [{ path = \"x.wasm\", inherit_configuration = \"variables\" }]",
                "inherit_configuration",
            ),
            (
                "middleware = [{ component = \"other\" }]",
                "component `other`",
            ),
            ("middleware = [{ component = \"own\" }]", "`variables`"),
            ("authorizer = [{ path = \"x.wasm\" }]", "authorizer"),
        ] {
            let text = format!("{HEAD}dependencies.{dependencies}\n{API}{MIDDLEWARE}");
            let error = Manifest::parse(&text)
                .err()
                .unwrap_or_else(|| panic!("{dependencies} is accepted"));
            let message = format!("{error:#}");
            assert!(message.contains(name), "{dependencies}: {message}");
        }
        let accepted = "middleware = [{ path = \"x.wasm\", inherit_configuration = true }, \
             { component = \"plain\", inherit_configuration = [\"variables\"] }]";
        let text = format!("{HEAD}dependencies.{accepted}\n{API}{MIDDLEWARE}");
        let manifest = Manifest::parse(&text).expect("manifest is accepted");
        let middleware = &manifest.trigger.http[0].dependencies.middleware;
        assert!(matches!(&middleware[1].source, MiddlewareSource::Component(id) if id == "plain"));
    }

    #[test]
    fn refuses_other_manifest_versions() {
        let text = format!("{HEAD}{API}").replace("version = 2", "version = 1");
        let error = Manifest::parse(&text).expect_err("version 1 is refused");
        assert!(format!("{error:#}").contains("must be 2, not 1"));
    }
}
