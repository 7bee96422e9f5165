//! The command: reads the options, sets up the log, runs the exporter. What an
//! option means is `config`'s, what the exporter does is the library's.

#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use functional_scaffold_exporter::{
    commands::SeriesCommand,
    config::{Cli, Command, Config, LogFormat, LogOptions},
    health, push, replay, series, serve, wipe,
};

/// How long a task that cannot be stopped (a DNS look-up) may hold up the end
/// of the process.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.log);
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // Not through the log: it must be seen at every log level.
            eprintln!("error: {error:#}");
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
    let ended = runtime.block_on(obey(command, config));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

async fn obey(command: Option<Command>, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        None => serve::serve(config).await?,
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
        .with_writer(std::io::stderr)
        .with_max_level(options.log_level)
        .with_target(false);
    match options.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
