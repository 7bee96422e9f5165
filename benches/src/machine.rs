//! The machine: its description for the report, and the processor time and memory
//! of processes as Linux accounts for them.

use std::{fs, process::Command, thread::available_parallelism, time::Duration};

use anyhow::Context as _;

use crate::measure::Bench;

/// Properties of the machine and versions of programs, by name.
pub(crate) fn describe(bench: &Bench) -> anyhow::Result<Vec<(String, String)>> {
    let version = first_line(Command::new(bench.runtime.program()).arg("--version"))?;
    let runtime = match bench.runtime.is_spin() {
        true => version,
        false => format!("{version}, the dev host of this repository"),
    };
    let redis = first_line(Command::new("redis-server").arg("--version"))?;
    let oha = first_line(Command::new(&bench.oha).arg("--version"))?;
    let mut described = vec![
        ("processor", processor()?),
        ("memory", memory()?),
        ("kernel", read("/proc/sys/kernel/osrelease")?),
        ("runtime", runtime),
        ("Redis", redis),
        ("load generator", oha),
    ];
    if let Some(python) = &bench.python {
        described.push(("Python", first_line(Command::new(python).arg("--version"))?));
    }
    let described = described.into_iter();
    Ok(described
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// The commit, and whether files differ from it.
pub(crate) fn commit() -> anyhow::Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--exclude=*"]);
    first_line(git.current_dir(functional_scaffold_testkit::repository()))
}

/// The average number of runnable processes over 1, 5 and 15 minutes.
pub(crate) fn load_average() -> anyhow::Result<String> {
    let load = read("/proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn processor() -> anyhow::Result<String> {
    let info = read("/proc/cpuinfo")?;
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let model = lines.find(|(name, _)| name.trim() == "model name");
    let model = model.map_or("unknown", |(_, model)| model.trim());
    let cores = available_parallelism()?;
    Ok(format!("{model}, {cores} of its cores"))
}

fn memory() -> anyhow::Result<String> {
    let info = read("/proc/meminfo")?;
    let mut words = info.split_whitespace();
    let kib: u64 = words.nth(1).context("no size of memory")?.parse()?;
    Ok(format!("{} GiB", kib.div_ceil(1024 * 1024)))
}

fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next();
    Ok(line
        .with_context(|| format!("{program} wrote nothing"))?
        .to_owned())
}

/// Processor time of a process and its descendants so far, in ticks of 10 ms: for
/// a second of use and more.
pub(crate) fn cpu_of_tree(process: u32) -> anyhow::Result<Duration> {
    let mut used = Stat::read(process)?.used;
    for child in children(process)? {
        // A child that ended meanwhile is accounted to its parent.
        used += cpu_of_tree(child).unwrap_or_default();
    }
    Ok(used)
}

/// Processor time of this process's children that ended.
pub(crate) fn cpu_of_ended_children() -> anyhow::Result<Duration> {
    Ok(Stat::read(std::process::id())?.used_by_ended_children)
}

/// Processor time of a process's running threads to the nanosecond, by the
/// scheduler's account: for short use, too.
pub(crate) fn cpu_of_threads(process: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for file in task_files(process, "schedstat")? {
        nanos += nanos_on_processor(&file)?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Processor time of the calling thread, to the nanosecond.
pub(crate) fn cpu_of_this_thread() -> anyhow::Result<Duration> {
    let text = read("/proc/thread-self/schedstat")?;
    nanos_on_processor(&text).map(Duration::from_nanos)
}

/// Peak memory of a process, in bytes.
pub(crate) fn peak_memory(process: u32) -> anyhow::Result<u64> {
    let text = read(&format!("/proc/{process}/status"))?;
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next());
    Ok(kib.context("no peak of memory")?.parse::<u64>()? * 1024)
}

/// See proc_pid_schedstat(5): the first field.
fn nanos_on_processor(schedstat: &str) -> anyhow::Result<u64> {
    let used = schedstat.split_whitespace().next();
    Ok(used.context("no scheduler statistics")?.parse()?)
}

fn children(process: u32) -> anyhow::Result<Vec<u32>> {
    let files = task_files(process, "children")?;
    let ids = files.iter().flat_map(|file| file.split_whitespace());
    Ok(ids.filter_map(|id| id.parse().ok()).collect())
}

/// A file of each thread. A thread may end meanwhile.
fn task_files(process: u32, name: &str) -> anyhow::Result<Vec<String>> {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.with_context(|| format!("there is no process {process}"))?;
    let files =
        threads.map(|thread| anyhow::Ok(fs::read_to_string(thread?.path().join(name)).ok()));
    files.filter_map(Result::transpose).collect()
}

fn read(path: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

struct Stat {
    used: Duration,
    used_by_ended_children: Duration,
}

impl Stat {
    fn read(process: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{process}/stat");
        Self::parse(&read(&path)?).with_context(|| format!("cannot parse {path}"))
    }

    /// See proc_pid_stat(5): `utime`, `stime`, `cutime`, `cstime` are the fields
    /// 14 to 17, and the second, a name in parentheses, may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let (user, system, ended_user, ended_system) = (ticks()?, ticks()?, ticks()?, ticks()?);
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        Some(Self {
            used: Duration::from_nanos((user + system) * tick),
            used_by_ended_children: Duration::from_nanos((ended_user + ended_system) * tick),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticks_are_found_behind_any_name() {
        let text = "7 (a) b) S 1 7 7 0 -1 0 9 9 9 9 100 20 3 4 20 0 1 0 5";
        let stat = Stat::parse(text).expect("complete");
        let ticks = u32::try_from(rustix::param::clock_ticks_per_second()).expect("small");
        let tick = Duration::from_secs(1) / ticks;
        assert_eq!(stat.used, 120 * tick);
        assert_eq!(stat.used_by_ended_children, 7 * tick);
    }
}
