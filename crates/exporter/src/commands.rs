//! The options of the commands that look after a store. Owns names and help.

use clap::{Args, Subcommand};

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
exporter needs +hdel +hlen +type +unlink +zadd +zremrangebyrank +expire for it.";

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
