//! What the figures were measured on, as far as it decides them.

use std::{fs, process::Command, thread::available_parallelism};

use anyhow::Context as _;
use functional_scaffold_tests::{app, workspace_binary};

use crate::section::Bench;

/// What the machine and the programs are, by name.
///
/// # Errors
/// A program is missing.
pub(crate) fn describe(bench: &Bench) -> anyhow::Result<Vec<(String, String)>> {
    let runtime = match app::on_spin() {
        true => first_line("spin", Command::new(spin()?).arg("--version"))?,
        false => {
            let devhost = workspace_binary("devhost")?;
            let version = first_line("devhost", Command::new(devhost).arg("--version"))?;
            format!("{version}, the dev host of this repository")
        }
    };
    let mut described = vec![
        ("processor", processor()?),
        ("memory", memory()?),
        ("kernel", read("/proc/sys/kernel/osrelease")?),
        ("runtime", runtime),
        (
            "Redis",
            first_line(
                "redis-server",
                Command::new("redis-server").arg("--version"),
            )?,
        ),
        (
            "load generator",
            first_line("oha", Command::new(&bench.oha).arg("--version"))?,
        ),
    ];
    if let Some(python) = &bench.python {
        let version = first_line("python", Command::new(python).arg("--version"))?;
        described.push(("Python", version));
    }
    let described = described.into_iter();
    Ok(described
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// The commit of what is measured, and whether files differ from it.
///
/// # Errors
/// There is no git, or this is no repository of it.
pub(crate) fn commit() -> anyhow::Result<String> {
    first_line(
        "git",
        Command::new("git")
            .args(["describe", "--always", "--dirty", "--exclude=*"])
            .current_dir(functional_scaffold_tests::repository()),
    )
}

/// How many processes wanted to run in the last minute, five, fifteen.
///
/// # Errors
/// This is no Linux.
pub(crate) fn load_average() -> anyhow::Result<String> {
    let load = read("/proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn spin() -> anyhow::Result<String> {
    std::env::var("SPIN_BIN").context("SCAFFOLD_RUNTIME=spin needs SPIN_BIN")
}

fn processor() -> anyhow::Result<String> {
    let info = read("/proc/cpuinfo")?;
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let model = lines.find(|(name, _)| name.trim() == "model name");
    let model = model.map_or("unknown", |(_, model)| model.trim());
    Ok(format!(
        "{model}, {} of its cores",
        available_parallelism()?
    ))
}

fn memory() -> anyhow::Result<String> {
    let info = read("/proc/meminfo")?;
    let mut words = info.split_whitespace();
    let kib: u64 = words.nth(1).context("no size of memory")?.parse()?;
    Ok(format!("{} GiB", kib.div_ceil(1024 * 1024)))
}

fn read(path: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

fn first_line(name: &str, command: &mut Command) -> anyhow::Result<String> {
    let output = command.output();
    let output = output.with_context(|| format!("cannot ask {name} for its version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next();
    Ok(line
        .with_context(|| format!("{name} says no version"))?
        .to_owned())
}
