//! A Prometheus.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, on_free_port},
    program::Program,
};

/// The program.
pub const PROMETHEUS: Program = Program {
    name: "Prometheus",
    executables: &["prometheus"],
    package: "prometheus",
};

/// The addresses that a Prometheus scrapes, by the name of their scheme: each has
/// a file `targets/<scheme>.yml`.
pub type Targets<'a> = &'a [(&'a str, Vec<String>)];

/// Completes a command that runs the program with this configuration: it listens
/// there and keeps its data in `data`.
pub fn command(
    mut program: Command,
    configuration: &Path,
    data: &Path,
    listen: SocketAddr,
) -> Command {
    program
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={listen}"))
        .arg("--log.level=warn");
    program
}

/// Copies the configuration in `monitoring` to `folder`, with these targets and,
/// if given, another interval of scrapes and evaluations; returns the path of
/// `prometheus.yml` in it.
///
/// # Errors
/// A file cannot be read or written, the intervals are not the expected ones, or
/// there is no such scheme.
pub fn configure(
    monitoring: &Path,
    folder: &Path,
    targets: Targets<'_>,
    interval: Option<Duration>,
) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    copy_tree(monitoring, folder)?;
    let configuration = folder.join("prometheus.yml");
    if let Some(interval) = interval {
        set_interval(&configuration, interval)?;
    }
    let mut written = 0;
    for file in fs::read_dir(folder.join("targets"))? {
        let file = file?.path();
        let mut targets = targets.iter();
        let named = targets.find(|(scheme, _)| file.file_stem() == Some(scheme.as_ref()));
        let groups = match named {
            Some((_, addresses)) => format!("- targets: {addresses:?}\n"),
            None => "[]\n".to_owned(),
        };
        written += usize::from(named.is_some());
        fs::write(file, groups)?;
    }
    ensure!(
        written == targets.len(),
        "a scheme of {targets:?} has no file"
    );
    Ok(configuration)
}

/// Makes a `prometheus.yml` scrape and evaluate in this interval, of whole seconds.
///
/// # Errors
/// The file has other intervals than expected.
pub fn set_interval(file: &Path, interval: Duration) -> anyhow::Result<()> {
    let mut configuration = fs::read_to_string(file)?;
    for name in ["scrape_interval", "evaluation_interval"] {
        let committed = format!("{name}: 15s");
        ensure!(
            configuration.contains(&committed),
            "no `{committed}` in {}",
            file.display()
        );
        let set = format!("{name}: {}s", interval.as_secs());
        configuration = configuration.replace(&committed, &set);
    }
    Ok(fs::write(file, configuration)?)
}

/// Copies what is in a folder to a folder that exists.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A running Prometheus. Stopped on drop.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one with the configuration of the repository's `monitoring/`, these
    /// targets, and this interval of scrapes and evaluations.
    ///
    /// # Errors
    /// There is no program, or it refuses the configuration.
    pub fn start(targets: Targets<'_>, interval: Duration) -> anyhow::Result<Self> {
        Self::start_from(&crate::repository().join("monitoring"), targets, interval)
    }

    /// Like [`Self::start`], with another folder in the place of `monitoring/`.
    ///
    /// # Errors
    /// There is no program, or it refuses the configuration.
    pub fn start_from(
        monitoring: &Path,
        targets: Targets<'_>,
        interval: Duration,
    ) -> anyhow::Result<Self> {
        Self::start_configured(|folder| configure(monitoring, folder, targets, Some(interval)))
    }

    /// Starts one with this `prometheus.yml`.
    ///
    /// # Errors
    /// There is no program, or it refuses the configuration.
    pub fn start_with(configuration: &str) -> anyhow::Result<Self> {
        Self::start_configured(|folder| {
            let file = folder.join("prometheus.yml");
            fs::write(&file, configuration)?;
            Ok(file)
        })
    }

    fn start_configured(
        configure: impl Fn(&Path) -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<Self> {
        on_free_port(|port| {
            let folder = TempDir::new()?;
            let configuration = configure(folder.path())?;
            let data = folder.path().join("data");
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let program = Command::new(PROMETHEUS.find()?);
            let mut process =
                Process::start(&mut command(program, &configuration, &data, address))?;
            process.wait_until(START_TIMEOUT, |_| http::check_ok(address, "/-/ready"))?;
            Ok(Self {
                address,
                _process: process,
                _folder: folder,
            })
        })
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(feature = "client")]
mod client {
    use std::collections::BTreeMap;

    use anyhow::{Context as _, bail, ensure};
    use serde_json::Value;

    use super::Prometheus;
    use crate::http;

    /// One sample of a query's result.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Sample {
        /// The labels, the metric's name among them as `__name__`.
        pub labels: BTreeMap<String, String>,
        /// The value.
        pub value: f64,
    }

    /// A rule that was loaded.
    #[derive(Debug, Clone)]
    pub struct Rule {
        /// The name of the alert or of the recorded series.
        pub name: String,
        /// The expression.
        pub expression: String,
        /// The annotations of an alert.
        pub annotations: BTreeMap<String, String>,
        /// Whether it is an alert.
        pub is_alert: bool,
    }

    impl Prometheus {
        /// Evaluates an expression now.
        ///
        /// # Errors
        /// The expression is not valid.
        pub fn query(&self, expression: &str) -> anyhow::Result<Vec<Sample>> {
            let data = self.get("query", &[("query", expression)])?;
            match data["resultType"].as_str() {
                Some("vector") => {
                    let samples = data["result"].as_array().context("no result")?.iter();
                    samples
                        .map(|found| sample(&found["metric"], &found["value"]))
                        .collect()
                }
                // A scalar's result has the form of a sample's `value`.
                Some("scalar") => Ok(vec![sample(&Value::Null, &data["result"])?]),
                other => bail!("{expression} gives a {other:?}"),
            }
        }

        /// The value of an expression that has at most one sample.
        ///
        /// # Errors
        /// The expression is not valid, or has several samples.
        pub fn value(&self, expression: &str) -> anyhow::Result<Option<f64>> {
            let samples = self.query(expression)?;
            ensure!(samples.len() <= 1, "{expression} gives {samples:?}");
            Ok(samples.first().map(|sample| sample.value))
        }

        /// The names of all metrics that it stores.
        ///
        /// # Errors
        /// It does not respond.
        pub fn metric_names(&self) -> anyhow::Result<Vec<String>> {
            Ok(serde_json::from_value(
                self.get("label/__name__/values", &[])?,
            )?)
        }

        /// The rules that it has loaded.
        ///
        /// # Errors
        /// It does not respond, or could not evaluate a rule.
        pub fn rules(&self) -> anyhow::Result<Vec<Rule>> {
            let data = self.get("rules", &[])?;
            let groups = data["groups"].as_array().context("no groups")?;
            let rules = groups.iter().flat_map(|group| group["rules"].as_array());
            rules.flatten().map(rule).collect()
        }

        /// The `data` of a response of the API below `/api/v1/`.
        ///
        /// # Errors
        /// The API's own.
        pub fn get(&self, endpoint: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
            let parameters: Vec<_> = parameters
                .iter()
                .map(|(name, value)| format!("{name}={}", percent_encode(value)))
                .collect();
            let path = format!("/api/v1/{endpoint}?{}", parameters.join("&"));
            let mut response: Value =
                serde_json::from_slice(&http::get(self.address, &path)?.body)?;
            ensure!(
                response["status"] == "success",
                "{parameters:?}: {}",
                response["error"]
            );
            Ok(response["data"].take())
        }
    }

    fn percent_encode(value: &str) -> String {
        value.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    fn sample(labels: &Value, value: &Value) -> anyhow::Result<Sample> {
        let labels = match labels {
            Value::Null => BTreeMap::new(),
            labels => serde_json::from_value(labels.clone())?,
        };
        let value = value[1].as_str().context("no value")?.parse()?;
        Ok(Sample { labels, value })
    }

    fn rule(rule: &Value) -> anyhow::Result<Rule> {
        let text = |member: &str| rule[member].as_str().map(str::to_owned).context("no text");
        let error = &rule["lastError"];
        ensure!(error.is_null(), "{}: {error}", rule["name"]);
        let annotations = match &rule["annotations"] {
            Value::Null => BTreeMap::new(),
            annotations => serde_json::from_value(annotations.clone())?,
        };
        Ok(Rule {
            name: text("name")?,
            expression: text("query")?,
            annotations,
            is_alert: rule["type"] == "alerting",
        })
    }
}

#[cfg(feature = "client")]
pub use client::{Rule, Sample};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_schemes_have_targets() -> anyhow::Result<()> {
        let monitoring = crate::repository().join("monitoring");
        let folder = TempDir::new()?;
        let targets = [("pull", vec!["127.0.0.1:8000".to_owned()])];
        let interval = Some(Duration::from_secs(2));
        let file = configure(&monitoring, folder.path(), &targets, interval)?;
        let text = fs::read_to_string(file)?;
        assert!(text.contains("scrape_interval: 2s"), "{text}");
        let scheme = |name| fs::read_to_string(folder.path().join("targets").join(name));
        assert_eq!(scheme("pull.yml")?, "- targets: [\"127.0.0.1:8000\"]\n");
        assert_eq!(scheme("redis.yml")?, "[]\n");
        assert_eq!(scheme("pushgateway.yml")?, "[]\n");
        // Again into the same folder, as `cargo xtask up` does.
        configure(&monitoring, folder.path(), &[], None)?;
        assert_eq!(scheme("pull.yml")?, "[]\n");
        let targets = [("nothing", vec!["127.0.0.1:8000".to_owned()])];
        configure(&monitoring, folder.path(), &targets, None).expect_err("no such scheme");
        Ok(())
    }
}
