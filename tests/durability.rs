//! That every execution which began is counted once, whatever dies in between.

use std::{collections::BTreeMap, time::Duration};

use functional_scaffold_tests::{
    app::{App, AppOptions, on_spin},
    client::{Kind, Until, load},
    exporter::Exporter,
    process::poll_until,
    redis_server::RedisServer,
    repository,
};
use reqwest::Client;
use serde_json::Value;

type Result<T = ()> = anyhow::Result<T>;

/// The least execution limit, and the margin that a lease has beyond it.
const LIMIT_MS: &str = "100";
/// When a lease under that limit has certainly been settled: limit, margin, the
/// exporter's interval, and some more.
const SETTLED: Duration = Duration::from_secs(12);

struct Rogue {
    redis: RedisServer,
    app: App,
    _exporter: Exporter,
    client: Client,
}

impl Rogue {
    async fn start(durability: &str, arguments: &[&str]) -> Result<Self> {
        let redis = RedisServer::start()?;
        let mut options = AppOptions::with_redis(redis.port())
            .rogue()
            .variable("execution_limit_ms", LIMIT_MS)
            // Longer than any pause of a busy machine: without its lease a
            // crash is not counted.
            .variable("lease_timeout_ms", "1000")
            .variable("metrics_durability", durability);
        options.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        let app = App::start(&options)?;
        let exporter = Exporter::start(redis.port()).await?;
        Ok(Self {
            redis,
            app,
            _exporter: exporter,
            client: Client::new(),
        })
    }

    async fn commit(&self, misdeed: &str) -> Result<u16> {
        let body = Value::from(misdeed).to_string();
        let response = self.client.post(self.app.url("/invoke")).body(body).send();
        Ok(response.await?.status().as_u16())
    }

    /// Waits until executions and requests are counted exactly so.
    fn counted(&self, executions: &[(&str, i64)], requests: &[(u16, i64)]) -> Result {
        let expected: BTreeMap<_, _> = executions
            .iter()
            .map(|(status, count)| (format!("algorithm=\"rogue\",status=\"{status}\""), *count))
            .collect();
        poll_until(SETTLED, || {
            let counted = self.redis.cells("metrics:algorithm_counter")?;
            anyhow::ensure!(counted == expected, "{counted:?} is not {expected:?}");
            let counted = self.redis.cells("metrics:request_counter")?;
            let of_code = |code: u16| {
                let label = format!("code=\"{code}\"");
                let matching = counted.iter().filter(|(labels, _)| labels.contains(&label));
                matching.map(|(_, count)| count).sum::<i64>()
            };
            for (code, count) in requests {
                let found = of_code(*code);
                anyhow::ensure!(found == *count, "{found} of {count} answers {code}");
            }
            Ok(())
        })
    }

    fn trouble(&self, key: &str) -> Result<i64> {
        Ok(self.redis.cells(key)?.values().sum())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_counted_once_as_crashed() -> Result {
    let rogue = Rogue::start("exact", &[]).await?;
    for misdeed in ["trap", "exit", "trap"] {
        assert_eq!(rogue.commit(misdeed).await?, 500);
    }
    assert_eq!(rogue.commit("nothing").await?, 200);
    rogue.counted(&[("crashed", 3), ("success", 1)], &[(500, 3), (200, 1)])?;
    assert_eq!(rogue.trouble("metrics:settled_counter")?, 3);
    assert_eq!(rogue.trouble("metrics:late_counter")?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_counted_although_nothing_was_ever_flushed() -> Result {
    let rogue = Rogue::start("exact", &[]).await?;
    assert_eq!(rogue.commit("trap").await?, 500);
    rogue.counted(&[("crashed", 1)], &[(500, 1)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_counted_once_as_crashed() -> Result {
    if on_spin() {
        // The loop would keep one of Spin's worker threads for good.
        return Ok(());
    }
    let rogue = Rogue::start("exact", &["--execution-limit", "500ms"]).await?;
    assert_eq!(rogue.commit("loop").await?, 500);
    assert_eq!(rogue.commit("nothing").await?, 200);
    rogue.counted(&[("crashed", 1), ("success", 1)], &[(500, 1), (200, 1)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_after_the_limit_is_late_and_the_status_stays() -> Result {
    let rogue = Rogue::start("exact", &[]).await?;
    // Longer than limit, margin and the exporter's interval together.
    assert_eq!(rogue.commit("work 8500").await?, 200);
    poll_until(Duration::from_secs(3), || {
        let late = rogue.trouble("metrics:late_counter")?;
        anyhow::ensure!(late == 1, "{late} results are late");
        Ok(())
    })?;
    rogue.counted(&[("crashed", 1)], &[(500, 1), (200, 0)])
}

#[tokio::test(flavor = "multi_thread")]
async fn in_strict_mode_an_answer_is_a_stored_count() -> Result {
    let redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port());
    let options = options.variable("metrics_durability", "strict");
    // Longer than any pause of a busy machine: the promise holds for as long.
    let app = App::start(&options.variable("redis_timeout_ms", "5000"))?;
    let kinds = [Kind::invoke(r#"{"number": 17}"#)];
    for _ in 0..20 {
        let ledger = load(&app.url(""), &kinds, 8, Until::Requests(40)).await?;
        // Read at once: nothing is waited for.
        let counted = redis.cells("metrics:request_counter")?;
        assert_eq!(
            counted.values().sum::<i64>() % 40,
            0,
            "{ledger:?} {counted:?}"
        );
    }
    let leases: i64 = redis.call(&["ZCARD", "metrics:leases"])?;
    assert_eq!(leases, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_mode_takes_no_lease() -> Result {
    let rogue = Rogue::start("relaxed", &[]).await?;
    assert_eq!(rogue.commit("trap").await?, 500);
    assert_eq!(rogue.commit("nothing").await?, 200);
    rogue.counted(&[("success", 1)], &[(200, 1), (500, 0)])?;
    let statistics: String = rogue.redis.call(&["INFO", "commandstats"])?;
    assert!(!statistics.contains("cmdstat_zadd"), "{statistics}");
    assert_eq!(rogue.trouble("metrics:unleased_counter")?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_in_time_the_execution_runs_and_is_counted_once() -> Result {
    let redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port());
    let app = App::start(&options)?;
    let kinds = [Kind::invoke(r#"{"number": 17}"#)];
    let url = app.url("");
    let counted = |expected: i64| {
        poll_until(Duration::from_secs(4), || {
            let counted: i64 = redis.cells("metrics:request_counter")?.values().sum();
            anyhow::ensure!(counted == expected, "{counted} of {expected} are counted");
            let open: i64 = redis.call(&["ZCARD", "metrics:leases"])?;
            anyhow::ensure!(open == 0, "{open} leases are open");
            Ok(redis
                .cells("metrics:unleased_counter")?
                .values()
                .sum::<i64>())
        })
    };
    let before = load(&url, &kinds, 4, Until::Requests(40)).await?;
    // On a busy machine some have waited too long already.
    let unleased_before = counted(40)?;
    redis.hang()?;
    // Sent while Redis stands still, for less than an instance lingers: the
    // leases land after it has gone on, and so does everything else.
    let during = load(&url, &kinds, 4, Until::Requests(40)).await?;
    redis.resume()?;
    assert_eq!((before.unanswered, during.unanswered), (0, 0));
    let unleased = counted(80)? - unleased_before;
    assert!((1..=40).contains(&unleased), "{unleased}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_docs_name_suffice() -> Result {
    let docs = std::fs::read_to_string(repository().join("docs/operations.md"))?;
    let line = docs
        .lines()
        .find(|line| line.starts_with("ACL SETUSER app"));
    let line = line.unwrap_or_default().replace("PASSWORD", "p@ss/word");
    let redis = RedisServer::start()?;
    redis.call::<()>(&line.split(' ').collect::<Vec<_>>())?;
    redis.call::<()>(&["ACL", "SETUSER", "default", "nocommands"])?;
    let options = AppOptions::with_redis(redis.port())
        .variable("redis_username", "app")
        .variable("redis_password", "p@ss/word");
    let app = App::start(&options)?;
    let kinds = [Kind::invoke(r#"{"number": 17}"#)];
    let ledger = load(&app.url(""), &kinds, 4, Until::Requests(40)).await?;
    poll_until(Duration::from_secs(4), || {
        let counted = redis.cells("metrics:request_counter")?;
        anyhow::ensure!(counted == ledger.answers, "{counted:?}");
        Ok(())
    })?;
    assert!(app.log("increments_refused")?.is_empty());
    let ready = reqwest::get(app.url("/readyz")).await?;
    assert_eq!(ready.status(), 200, "{}", ready.text().await?);
    assert!(
        !app.output()?.contains("p@ss"),
        "the password is in the log"
    );
    let denied: Vec<Vec<redis::Value>> = redis.call(&["ACL", "LOG"])?;
    assert!(denied.is_empty(), "{denied:?}");
    Ok(())
}
