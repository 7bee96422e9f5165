//! Redis's memory and what it does when that is full: every policy but `noeviction` may
//! delete counts, or the ids that keep batches from being counted twice.

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
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        match connection.query::<Vec<u8>>(&info).await {
            Ok(text) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            Err(failure) if failure.code().is_some() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn parse(info: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut values = info.lines().filter_map(|line| line.split_once(':'));
            values.find_map(|(key, value)| (key == name).then_some(value))
        };
        let policy = value("maxmemory_policy")?;
        Some(Self {
            used_bytes: value("used_memory")?.parse().ok()?,
            max_bytes: value("maxmemory")?.parse().ok()?,
            policy: POLICIES
                .into_iter()
                .find(|known| *known == policy)
                .unwrap_or("other"),
        })
    }
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
}
