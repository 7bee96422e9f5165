//! Redis's memory and persistence, from `INFO`.
//!
//! When the memory is full, every policy but `noeviction` may delete counts, or the ids
//! that keep batches from being counted twice. When Redis cannot write to disk, it
//! refuses writes, or loses them in a restart.

use crate::redis_client::{Connection, Failure};

/// The memory settings and use from `INFO memory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) used_bytes: u64,
    /// 0 if there is no limit.
    pub(crate) max_bytes: u64,
    /// `maxmemory-policy`.
    pub(crate) policy: &'static str,
}

/// The policies that Redis and Valkey have.
const POLICIES: [&str; 10] = [
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-lrm",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-lrm",
    "volatile-random",
    "volatile-ttl",
];

impl Memory {
    /// Asks Redis; None without the right to `INFO`.
    pub(crate) async fn read(connection: &mut Connection) -> Result<Option<Self>, Failure> {
        let info = section(connection, "memory").await?;
        Ok(info.as_deref().and_then(Self::parse))
    }

    fn parse(info: &str) -> Option<Self> {
        let policy = value(info, "maxmemory_policy")?;
        Some(Self {
            used_bytes: value(info, "used_memory")?.parse().ok()?,
            max_bytes: value(info, "maxmemory")?.parse().ok()?,
            policy: POLICIES
                .into_iter()
                .find(|known| *known == policy)
                .unwrap_or("other"),
        })
    }
}

/// The success of Redis's last writes to disk, from `INFO persistence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Persistence {
    /// The last snapshot; true if there was none.
    pub(crate) rdb: bool,
    /// The last write to the append-only file, and its last rewrite. None if it is off.
    pub(crate) aof: Option<bool>,
}

impl Persistence {
    /// Asks Redis; None without the right to `INFO`.
    pub(crate) async fn read(connection: &mut Connection) -> Result<Option<Self>, Failure> {
        let info = section(connection, "persistence").await?;
        Ok(info.as_deref().and_then(Self::parse))
    }

    fn parse(info: &str) -> Option<Self> {
        let is_ok = |name: &str| value(info, name).map(|status| status == "ok");
        let has_aof = value(info, "aof_enabled")? == "1";
        let aof = is_ok("aof_last_write_status")? && is_ok("aof_last_bgrewrite_status")?;
        Some(Self {
            rdb: is_ok("rdb_last_bgsave_status")?,
            aof: has_aof.then_some(aof),
        })
    }
}

/// A section of `INFO`; None without the right to ask.
async fn section(connection: &mut Connection, name: &str) -> Result<Option<String>, Failure> {
    let mut info = redis::cmd("INFO");
    info.arg(name);
    match connection.query::<Vec<u8>>(&info).await {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(failure) if failure.code().is_some() => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut values = info.lines().filter_map(|line| line.split_once(':'));
    values.find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_info() {
        let info = |policy: &str| {
            format!(
                "# Memory\r\nused_memory:12\r\nused_memory_human:12B\r\nmaxmemory:7\r\n\
                 maxmemory_human:7B\r\nmaxmemory_policy:{policy}\r\n"
            )
        };
        for (policy, expected) in [("volatile-lru", "volatile-lru"), ("a\"b", "other")] {
            let memory = Memory {
                used_bytes: 12,
                max_bytes: 7,
                policy: expected,
            };
            assert_eq!(Memory::parse(&info(policy)), Some(memory));
        }
        assert_eq!(Memory::parse("used_memory:x"), None);
    }

    #[test]
    fn persistence_is_read_from_info() {
        let info = |rdb: &str, aof: &str, write: &str, rewrite: &str| {
            format!(
                "rdb_last_bgsave_status:{rdb}\r\naof_enabled:{aof}\r\n\
                 aof_last_bgrewrite_status:{rewrite}\r\naof_last_write_status:{write}\r\n"
            )
        };
        for (info, rdb, aof) in [
            (info("ok", "0", "ok", "ok"), true, None),
            (info("err", "0", "err", "ok"), false, None),
            (info("ok", "1", "ok", "ok"), true, Some(true)),
            (info("ok", "1", "err", "ok"), true, Some(false)),
            (info("ok", "1", "ok", "err"), true, Some(false)),
        ] {
            assert_eq!(Persistence::parse(&info), Some(Persistence { rdb, aof }));
        }
        assert_eq!(Persistence::parse("loading:0\r\n"), None);
    }
}
