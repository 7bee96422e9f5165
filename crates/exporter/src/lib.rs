//! Serves the metric families registered in Redis to Prometheus.
//!
//! - `cli`: the options and commands
//! - `redis_client`: the connection to Redis, over the stream of `redis_transport`
//! - `scrape`: from Redis to the text of a scrape
//! - `server`: HTTP and TLS in front of it
//! - `page`: the page with charts
//! - `commands`: what the exporter does instead of serving
//! - `follow`: replays logs as they grow, beside serving or instead
//!
//! The path of a scrape: `server/http` → `scrape` → `scrape/reader` → `scrape/scan` →
//! `redis_client`, and back as a `scrape/snapshot`. The stored format and the
//! exposition formats are defined by `functional-scaffold-protocol`.
//!
//! The exporter writes to Redis only to count executions whose lease expired, to
//! keep counts that Redis lost, to replay batches from a log, and to remove what it
//! is told to.

#![forbid(unsafe_code)]

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use functional_scaffold_protocol::escape::escape;

use crate::{
    cli::{Cli, Command, Config, LogFormat, LogOptions, SeriesCommand},
    commands::{health, push, replay, series, wipe},
    follow::Following,
};

mod cli;
mod commands;
mod durable_file;
mod follow;
// With the tests, too: a change that breaks fuzz/ must not wait for its build to be seen.
#[cfg(any(test, fuzzing))]
#[allow(
    missing_docs,
    clippy::missing_panics_doc,
    reason = "for fuzz/ only, where a panic is a finding"
)]
pub mod fuzzing;
mod page;
mod redis_client;
mod redis_transport;
mod scrape;
mod server;

// For the integration tests, which compare them with other implementations.
pub use crate::{
    page::rates::quantile,
    scrape::{
        decode_errors::DecodeErrors,
        registry::{RegisteredFamily, served_families},
    },
};

/// How long a task that cannot be stopped (a DNS look-up) may delay the exit.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.log);
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // Not to the log: it must be seen at every log level.
            eprintln!("error: {}", escape(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(mut cli: Cli) -> anyhow::Result<ExitCode> {
    let command = cli.command.take();
    let config = cli.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(execute(command, config));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}

async fn execute(command: Option<Command>, mut config: Config) -> anyhow::Result<ExitCode> {
    match command {
        None => {
            let follow = config.follow.take();
            let follow = follow.map(|follow| Following::start(&config, follow));
            let follow = follow.transpose()?;
            let metrics = follow.as_ref().map(|follow| Arc::clone(&follow.metrics));
            server::serve(config, metrics).await?;
            if let Some(follow) = follow {
                follow.stop();
            }
        }
        Some(Command::Follow(options)) => {
            let listen = options.listen();
            follow::follow(config, options.check(), listen).await?;
        }
        Some(Command::Replay(options)) => {
            let report = replay::replay(config, &options).await?;
            print!("{report}");
            if !report.all_stored() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Some(Command::Health) => health::health(&config).await?,
        Some(Command::Push(options)) => push::push(config, &options).await?,
        Some(Command::Series(SeriesCommand::List(options))) => {
            series::list(&config, &options).await?;
        }
        Some(Command::Series(SeriesCommand::Remove(options))) => {
            series::remove(&config, &options).await?;
        }
        Some(Command::Wipe(options)) => wipe::wipe(&config, &options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn start_log(options: &LogOptions) {
    let log = tracing_subscriber::fmt()
        .with_writer(|| EscapedStderr)
        .with_max_level(options.log_level)
        .with_target(false);
    match options.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Standard error for one event of the log at a time. Texts from Redis and from logs
/// cannot begin another line, nor change what a terminal shows.
struct EscapedStderr;

impl io::Write for EscapedStderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        io::stderr().write_all(format!("{}\n", escape(line)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
