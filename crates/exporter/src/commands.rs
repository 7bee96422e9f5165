//! The options of the commands that look after a store, or relay it. Owns names
//! and help.

use std::time::Duration;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use functional_scaffold_protocol::labels::is_label_name;

use crate::selector::Selector;

/// What `series` does.
#[derive(Debug, Subcommand)]
pub enum SeriesCommand {
    /// Print the series, one a line.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListOptions),
    /// Remove series, or whole families.
    ///
    /// A series that is removed is gone from the exporter's next scrape, and one
    /// that is written again begins at 0. Every exporter hears of it that reads
    /// the store within a week. A family that is removed is registered again by
    /// the next instance that writes it.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(RemoveOptions),
}

const LIST_EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter series list
  functional-scaffold-exporter series list --families
  functional-scaffold-exporter series list 'http_requests_total{status=\"error\"}'";

const REMOVE_EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter series remove --dry-run 'jobs_total{kind=\"nightly\"}'
  functional-scaffold-exporter series remove --yes jobs_total job_seconds

Without --yes it prints what would be removed and fails. The Redis user of the
exporter needs +hdel +type +unlink +zadd +zrange +zremrangebyrank +expire for it.";

/// What is listed.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Families (jobs_total), or the series that have some labels
    /// (jobs_total{kind="nightly"}); everything if there is none.
    #[arg(value_name = "SELECTOR")]
    pub selectors: Vec<Selector>,

    /// Print the families instead: name, type and number of series, with tabs
    /// between them.
    #[arg(long)]
    pub families: bool,
}

/// What is removed.
#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// A family with its registration (jobs_total), its series alone
    /// (jobs_total{}), or those that have some labels
    /// (jobs_total{kind="nightly"}).
    #[arg(value_name = "SELECTOR", required = true)]
    pub selectors: Vec<Selector>,

    /// Only print what would be removed.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,

    /// Yes, remove it.
    #[arg(long)]
    pub yes: bool,
}

/// Whether it is meant.
#[derive(Debug, Args)]
pub struct WipeOptions {
    /// Yes, every count.
    #[arg(long)]
    pub yes: bool,
}

/// Where what is in the store is pushed to, and when.
#[derive(Args)]
pub struct PushOptions {
    /// URL of the Pushgateway: http://pushgateway:9091, or
    /// https://user:password@host/path. Prefer the variable for one with a
    /// password: a flag shows in the list of processes.
    #[arg(
        long,
        env = "PUSHGATEWAY_URL",
        value_name = "URL",
        hide_env_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub to: String,

    /// Pause from one push to the next; a push that fails is tried again within
    /// it.
    #[arg(long, env = "EXPORTER_PUSH_INTERVAL", value_name = "TIME", default_value = "15s", value_parser = interval)]
    pub interval: Duration,

    /// The group's label job.
    #[arg(long, env = "METRICS_JOB_NAME", value_name = "NAME", default_value = "functional_scaffold", value_parser = NonEmptyStringValueParser::new())]
    pub job: String,

    /// A further label of the group; may be given several times. Two relays of
    /// one store need none: they push the same group.
    #[arg(long, value_name = "NAME=VALUE", value_parser = grouping)]
    pub grouping: Vec<(String, String)>,

    /// Push once and end. The exit code is 0 if it was taken.
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
    if bounds.contains(&interval) {
        Ok(interval)
    } else {
        Err("not a time from 100ms to 1day".into())
    }
}

fn grouping(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    if !is_label_name(name) || name == "job" {
        return Err(format!("{name:?} is no label name, or is --job's"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groupings_are_labels_and_values_of_any_text() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(grouping("a=b=c"), pair("a", "b=c"));
        assert_eq!(grouping("instance="), pair("instance", ""));
        for text in ["a", "=b", "1=b", "job=b", "__a=b", "a-b=c"] {
            assert!(grouping(text).is_err(), "{text}");
        }
    }

    #[test]
    fn intervals_are_neither_none_nor_for_ever() {
        assert_eq!(interval("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "15", "0s", "99ms", "2days"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
