//! A Prometheus of one's own with the configuration of `monitoring/`, in which
//! only targets and intervals are others.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use reqwest::{Client, Url};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{POLL, Process, free_port},
    repository,
};

/// How often it scrapes and evaluates its rules.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    client: Client,
    _process: Process,
    _folder: TempDir,
}

/// One sample of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels, the name among them as `__name__`.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// One rule that it has loaded.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The alert's or the recorded series' name.
    pub name: String,
    /// Its expression.
    pub expression: String,
    /// Its annotations; those of an alert.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is an alert.
    pub is_alert: bool,
}

impl Prometheus {
    /// Starts one that scrapes these targets, by scheme: each scheme has its
    /// file `targets/<scheme>.yml`.
    ///
    /// # Errors
    /// There is no prometheus, or it refuses the configuration.
    pub async fn start(targets: &[(&str, Vec<String>)]) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let configuration = folder.path().join("monitoring");
        copy_tree(&repository().join("monitoring"), &configuration)?;
        shorten_intervals(&configuration.join("prometheus.yml"))?;
        for scheme in fs::read_dir(configuration.join("targets"))? {
            let file = scheme?.path();
            let named = targets
                .iter()
                .find(|(scheme, _)| file.file_stem() == Some(scheme.as_ref()));
            let groups = match named {
                Some((_, addresses)) => format!("- targets: {addresses:?}\n"),
                None => "[]\n".to_owned(),
            };
            fs::write(file, groups)?;
        }
        let port = free_port()?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                configuration.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start(&mut command, "install it with `apt-get install prometheus`")?;
        let prometheus = Self {
            port,
            client: Client::new(),
            _process: process,
            _folder: folder,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !prometheus.is_ready().await {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "prometheus is not ready:\n{}",
                prometheus._process.output()?
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(prometheus)
    }

    /// Asks an expression of it, as of now.
    ///
    /// # Errors
    /// It finds fault with the expression.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Vec<Sample>> {
        let data = self.get("query", &[("query", expression)]).await?;
        match data["resultType"].as_str() {
            Some("vector") => samples(&data["result"]),
            // A scalar's result is what a sample's `value` is.
            Some("scalar") => Ok(vec![sample(&Value::Null, &data["result"])?]),
            other => anyhow::bail!("{expression} gives a {other:?}"),
        }
    }

    /// The names of all series that it has.
    ///
    /// # Errors
    /// No answer.
    pub async fn metric_names(&self) -> anyhow::Result<Vec<String>> {
        let names = self.get("label/__name__/values", &[]).await?;
        Ok(serde_json::from_value(names)?)
    }

    /// The rules that it has loaded.
    ///
    /// # Errors
    /// No answer, or a rule that it could not evaluate.
    pub async fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let data = self.get("rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array());
        rules.flatten().map(rule).collect()
    }

    async fn is_ready(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/-/ready", self.port);
        let answer = self.client.get(url).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    async fn get(&self, endpoint: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{endpoint}", self.port);
        let url = Url::parse_with_params(&url, parameters)?;
        let answer = self.client.get(url).send().await?.text().await?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(
            answer["status"] == "success",
            "{parameters:?}: {}",
            answer["error"]
        );
        Ok(answer["data"].clone())
    }
}

fn rule(rule: &Value) -> anyhow::Result<Rule> {
    let text = |member: &str| rule[member].as_str().map(str::to_owned).context("no text");
    ensure!(
        rule["lastError"].is_null(),
        "{}: {}",
        rule["name"],
        rule["lastError"]
    );
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

fn samples(result: &Value) -> anyhow::Result<Vec<Sample>> {
    let result = result.as_array().context("no result")?;
    let samples = result.iter();
    samples
        .map(|found| sample(&found["metric"], &found["value"]))
        .collect()
}

fn sample(labels: &Value, value: &Value) -> anyhow::Result<Sample> {
    let labels = match labels {
        Value::Null => BTreeMap::new(),
        labels => serde_json::from_value(labels.clone())?,
    };
    let value = value[1].as_str().context("no value")?.parse()?;
    Ok(Sample { labels, value })
}

/// Lets a `prometheus.yml` scrape and evaluate every [`INTERVAL`].
///
/// # Errors
/// It cannot be read and written, or has other intervals than expected.
pub fn shorten_intervals(file: &Path) -> anyhow::Result<()> {
    let mut configuration = fs::read_to_string(file)?;
    for interval in ["scrape_interval", "evaluation_interval"] {
        let committed = format!("{interval}: 15s");
        ensure!(configuration.contains(&committed), "no `{committed}`");
        let shortened = format!("{interval}: {}s", INTERVAL.as_secs());
        configuration = configuration.replace(&committed, &shortened);
    }
    Ok(fs::write(file, configuration)?)
}

/// Copies a folder with all that is in it.
///
/// # Errors
/// It cannot be read, or the copy not be written.
pub fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
