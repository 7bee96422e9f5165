//! Processor time of processes, as Linux accounts for it: in ticks of 10 ms,
//! so of use over a second and more.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// What a process and those it started, and so on, used so far.
///
/// # Errors
/// It is gone.
pub(crate) fn of_tree(process: u32) -> anyhow::Result<Duration> {
    let mut used = Stat::read(process)?.used;
    for child in children(process)? {
        // One that ended meanwhile is in its parent's account of the waited for.
        used += of_tree(child).unwrap_or_default();
    }
    Ok(used)
}

/// What this process's children used that ended and were waited for.
///
/// # Errors
/// This is no Linux.
pub(crate) fn of_ended_children() -> anyhow::Result<Duration> {
    Ok(Stat::read(std::process::id())?.used_by_waited_for)
}

/// What the threads of a process used that have not ended, by the scheduler's
/// own account: to the nanosecond, so of short use, too.
///
/// # Errors
/// It is gone.
pub(crate) fn of_threads(process: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while this looks.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        nanos += nanos_on_processor(&text)?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// What the calling thread used, to the nanosecond.
///
/// # Errors
/// This is no Linux.
pub(crate) fn of_this_thread() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    nanos_on_processor(&text).map(Duration::from_nanos)
}

/// See proc_pid_schedstat(5): the first field.
fn nanos_on_processor(schedstat: &str) -> anyhow::Result<u64> {
    let used = schedstat.split_whitespace().next();
    Ok(used.context("the scheduler keeps no account")?.parse()?)
}

/// The most memory that a process had at a time, in bytes.
///
/// # Errors
/// It is gone.
pub(crate) fn peak_memory(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next());
    Ok(kib.context("no peak of memory")?.parse::<u64>()? * 1024)
}

fn children(process: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while this looks.
        let Ok(text) = fs::read_to_string(task?.path().join("children")) else {
            continue;
        };
        children.extend(
            text.split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    Ok(children)
}

struct Stat {
    used: Duration,
    used_by_waited_for: Duration,
}

impl Stat {
    fn read(process: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{process}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).with_context(|| format!("cannot understand {path}"))
    }

    /// See proc_pid_stat(5): `utime`, `stime`, `cutime`, `cstime` are the fields
    /// 14 to 17, and the second, a name in parentheses, may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let (user, system, waited_user, waited_system) = (ticks()?, ticks()?, ticks()?, ticks()?);
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        Some(Self {
            used: Duration::from_nanos((user + system) * tick),
            used_by_waited_for: Duration::from_nanos((waited_user + waited_system) * tick),
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
        let tick = Duration::from_secs(1)
            / u32::try_from(rustix::param::clock_ticks_per_second()).expect("small");
        assert_eq!(stat.used, 120 * tick);
        assert_eq!(stat.used_by_waited_for, 7 * tick);
    }
}
