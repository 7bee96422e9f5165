//! An app's own metrics, recorded with the `metrics` crate: all of them are stored once,
//! and the series that clients invent are few.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    exporter::Exporter,
    http,
    load::agent,
    process::poll_until,
    prometheus::Prometheus,
    pushgateway::Pushgateway,
    redis::RedisServer,
    repository,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    batch_log::replay,
    expositions::{check_with_promtool, parse_with_prometheus_client},
};
use ureq::http::Request;

use crate::Result;

const CONNECTIONS: usize = 32;
const REQUESTS: usize = 4_000;
const ORDERS: &str = "metrics:custom:orders_total";
const VALUES: &str = "metrics:custom:order_value_euros";
const VISITS: &str = "metrics:custom:visits_total";

fn start(redis: &RedisServer, change: impl FnOnce(AppOptions) -> AppOptions) -> Result<App> {
    let options = AppOptions::with_redis(redis.port());
    let options = options.manifest(repository().join("tests/metered/spin.toml"));
    App::start(&change(options))
}

/// Sends the requests with these numbers over many connections. `request` makes the path
/// and the body of one.
fn send(
    app: &App,
    requests: usize,
    request: impl Fn(usize) -> (String, String) + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let connection = || -> Result {
        let agent = agent();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= requests {
                return Ok(());
            }
            let (path, body) = request(number);
            let request = Request::post(app.url(&path)).body(body)?;
            let mut response = agent.run(request)?;
            let text = response.body_mut().read_to_string()?;
            ensure!(response.status() == 200, "{path}: {text}");
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(connection)).collect();
        let mut ended = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        ended.try_for_each(|result| result)
    })
}

/// Stores what a busy Redis did not take in time.
fn replay_logged(app: &App, redis: &RedisServer) -> Result {
    if !app.log("batch_not_stored")?.is_empty() {
        // A later poll sees whether it is stored.
        let _ = replay(redis.port(), &app.output()?);
    }
    Ok(())
}

/// Waits until Redis has this sum in a hash.
fn wait_for_sum(app: &App, redis: &RedisServer, key: &str, expected: i64) -> Result {
    poll_until(PATIENCE, || {
        replay_logged(app, redis)?;
        let sum: i64 = redis.cells(key)?.values().sum();
        ensure!(sum == expected, "{key}: {sum}, not {expected}");
        Ok(())
    })
}

#[test]
fn all_that_an_app_measures_is_counted_once() -> Result {
    let redis = RedisServer::start()?;
    let app = start(&redis, |options| options)?;
    let exporter = Exporter::start(redis.port())?;
    let prometheus = Prometheus::start_with(&format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: app, static_configs: [{{targets: ['{}']}}]}}]\n",
        exporter.address()
    ))?;

    let kinds = ["new", "renewal", "other"];
    let value = |number: usize| [5.0, 10.0, 79.99, 100.5, 20.0][number % 5];
    send(&app, REQUESTS, |number| {
        let kind = kinds[number % kinds.len()];
        let path = match number % 8 {
            0 | 1 => format!("/order/{kind}/{}", value(number)),
            2..=4 => "/join".to_owned(),
            5 => "/leave".to_owned(),
            6 => "/upload/1500000".to_owned(),
            _ => "/pages".to_owned(),
        };
        (path, "start\nhelp\nstart\na \"b\" \\ c".to_owned())
    })?;

    // The ledger.
    let of = |kinds: &[usize]| {
        (0..REQUESTS)
            .filter(|number| kinds.contains(&(number % 8)))
            .count()
    };
    let (mut orders, mut sums) = (BTreeMap::new(), BTreeMap::new());
    for number in (0..REQUESTS).filter(|number| number % 8 < 2) {
        let kind = kinds[number % kinds.len()];
        *orders.entry(kind).or_insert(0.0) += 1.0;
        *sums.entry(kind).or_insert(0.0) += value(number);
    }
    let expected = |samples: &BTreeMap<String, f64>| -> Result {
        let at = |name: &str| {
            samples
                .get(name)
                .copied()
                .with_context(|| format!("no {name}"))
        };
        for (kind, count) in &orders {
            let labels = format!("{{kind=\"{kind}\"}}");
            ensure!(at(&format!("orders_total{labels}"))? == *count);
            ensure!(at(&format!("order_value_euros_count{labels}"))? == *count);
            let sum = at(&format!("order_value_euros_sum{labels}"))?;
            ensure!((sum - sums[kind]).abs() < 1e-6, "{sum}, not {}", sums[kind]);
            let low = at(&format!(
                "order_value_euros_bucket{{kind=\"{kind}\",le=\"10.0\"}}"
            ))
            .or_else(|_| {
                at(&format!(
                    "order_value_euros_bucket{{kind=\"{kind}\",le=\"10\"}}"
                ))
            })?;
            ensure!(low > 0.0 && low < *count, "{low} of {count}");
        }
        #[allow(clippy::cast_precision_loss, reason = "some thousand")]
        let number = |kinds: &[usize]| of(kinds) as f64;
        ensure!(at("visitors")? == number(&[2, 3, 4]) - number(&[5]));
        ensure!(at("upload_size_bytes_sum")? == number(&[6]) * 1_500_000.0);
        ensure!(at("visits_total{page=\"start\"}")? == 2.0 * number(&[7]));
        ensure!(at("visits_total{page=\"help\"}")? == number(&[7]));
        ensure!(at(r#"visits_total{page="a \"b\" \\ c"}"#)? == number(&[7]));
        Ok(())
    };
    poll_until(PATIENCE, || {
        replay_logged(&app, &redis)?;
        let text = exporter.scrape()?;
        expected(&parse_with_prometheus_client(&text)?)
    })?;
    let text = exporter.scrape()?;
    check_with_promtool(&text)?;
    assert!(
        text.contains("# HELP orders_total Orders, by kind."),
        "{text}"
    );
    poll_until(PATIENCE, || {
        let mut samples = BTreeMap::new();
        for sample in prometheus.query(r#"{job="app"}"#)? {
            let mut labels = sample.labels;
            let name = labels.remove("__name__").unwrap_or_default();
            labels.retain(|label, _| label != "job" && label != "instance");
            let labels: Vec<_> = labels
                .iter()
                .map(|(name, value)| {
                    let value = value.replace('\\', r"\\").replace('"', r#"\""#);
                    format!("{name}=\"{value}\"")
                })
                .collect();
            let labels = match labels.join(",") {
                none if none.is_empty() => none,
                some => format!("{{{some}}}"),
            };
            samples.insert(name + &labels, sample.value);
        }
        expected(&samples)
    })?;
    assert!(app.log("increments_refused")?.is_empty());
    assert!(app.log("metric_refused")?.is_empty());
    // No lease is taken, and nothing of the requests is counted.
    assert_eq!(redis.calls("zadd")?, 0);
    assert_eq!(redis.cells("metrics:request_counter")?, BTreeMap::new());
    Ok(())
}

#[test]
fn the_last_value_of_a_gauge_stands() -> Result {
    let redis = RedisServer::start()?;
    let app = start(&redis, |options| options)?;
    // One after the other, so that it is known which one is the last.
    for length in 1..=20 {
        for queue in ["a", "b"] {
            let path = format!("POST /queue/{queue}/{length}.5");
            let response = http::request(app.address(), &path, &[], b"", http::TIMEOUT)?;
            ensure!(response.status == 200);
        }
    }
    let stored = |queue: &str| -> Result<(Option<i64>, Option<i64>)> {
        let cells = redis.cells("metrics:custom:queue_length")?;
        let at = |suffix: &str| cells.get(&format!("queue=\"{queue}\"{suffix}")).copied();
        Ok((at(""), at("|set_ms")))
    };
    poll_until(PATIENCE, || {
        for queue in ["a", "b"] {
            let (value, set_ms) = stored(queue)?;
            ensure!(value == Some(20_500_000), "{queue}: {value:?}");
            ensure!(
                set_ms.is_some_and(|at| at > 1_600_000_000_000),
                "{set_ms:?}"
            );
        }
        Ok(())
    })?;
    let exporter = Exporter::start(redis.port())?;
    assert!(
        exporter
            .scrape()?
            .contains("queue_length{queue=\"a\"} 20.5\n")
    );
    Ok(())
}

#[test]
fn mistakes_are_refused_by_name_and_change_nothing_else() -> Result {
    let redis = RedisServer::start()?;
    // One instance, which logs each mistake once.
    let app = start(&redis, |options| options.lasting())?;
    for _ in 0..3 {
        let response = http::request(app.address(), "POST /mistakes", &[], b"", http::TIMEOUT)?;
        ensure!(response.status == 200);
    }
    wait_for_sum(&app, &redis, "metrics:custom:right_total", 9)?;
    let families: BTreeMap<String, String> = redis.call(&["HGETALL", "metrics:families"])?;
    let names: BTreeSet<_> = families.keys().map(String::as_str).collect();
    let registered = [
        "functional_scaffold_flush_failures_total",
        "functional_scaffold_series_limited_total",
        "level",
        "order_value_euros",
        "right_total",
    ];
    assert_eq!(names, BTreeSet::from(registered));
    let lines = app.log("metric_refused")?;
    let refused: BTreeSet<_> = lines
        .iter()
        .filter_map(|line| line["metric"].as_str())
        .collect();
    let wrong = [
        "http_requests_total",
        "level",
        "not a name",
        "order_value_euros",
        "order_value_euros_count",
        "right_total",
        "undeclared_seconds",
    ];
    assert_eq!(refused, BTreeSet::from(wrong), "{lines:?}");
    // Three label sets, a kind, and `absolute`.
    let of_right = lines.iter().filter(|line| line["metric"] == "right_total");
    assert_eq!(of_right.count(), 5, "{lines:?}");
    Ok(())
}

/// A client that controls one label. The number of its values is
/// `SCAFFOLD_LABEL_VALUES`, 20,000 if it is not set.
#[test]
fn a_client_that_invents_label_values_fills_no_memory() -> Result {
    const MAX_SERIES: i64 = 1_000;
    const A_REQUEST: usize = 100;
    let values = env::var("SCAFFOLD_LABEL_VALUES").map_or(Ok(20_000), |text| text.parse())?;
    let redis = RedisServer::start()?;
    let app = start(&redis, |options| {
        options.variable("metrics_max_series", &MAX_SERIES.to_string())
    })?;
    let memory = || -> Result<i64> {
        let info: String = redis.call(&["INFO", "memory"])?;
        let used = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("Redis says it")?.trim().parse()?)
    };
    let before = memory()?;
    let exporter = Exporter::start(redis.port())?;
    send(&app, values / A_REQUEST, |number| {
        let pages = (0..A_REQUEST).map(|page| format!("page-{:x}", number * A_REQUEST + page));
        ("/pages".to_owned(), pages.collect::<Vec<_>>().join("\n"))
    })?;
    let sent = i64::try_from(values / A_REQUEST * A_REQUEST)?;
    wait_for_sum(&app, &redis, VISITS, sent)?;
    let cells = redis.cells(VISITS)?;
    assert_eq!(cells.len() as i64, MAX_SERIES + 1);
    let state: BTreeMap<String, String> = redis.call(&["HGETALL", "metrics:state"])?;
    assert_eq!(
        state[&format!("series:{VISITS}")],
        (MAX_SERIES + 1).to_string()
    );
    // Each value comes once.
    let limited = redis.cells("metrics:limited_counter")?["family=\"visits_total\""];
    assert_eq!(limited, sent - MAX_SERIES);
    assert_eq!(cells["page=\"other\""], sent - MAX_SERIES);
    // Series, ids of writers, and what clients and scripts take.
    let grown = memory()? - before;
    assert!(grown < 2_000_000 + 30 * sent / 128, "{grown} bytes");
    let text = exporter.scrape()?;
    let of_exporter = exporter.process().memory("VmHWM")?;
    assert!(of_exporter < 64 << 20, "{of_exporter} bytes");
    let lines = text
        .lines()
        .filter(|line| line.starts_with("visits_total{"));
    assert_eq!(lines.count() as i64, MAX_SERIES + 1);
    let says =
        format!("functional_scaffold_series_limited_total{{family=\"visits_total\"}} {limited}\n");
    assert!(text.contains(&says), "{text}");
    eprintln!(
        "{values} label values: {grown} bytes of Redis, {of_exporter} of the exporter, {} of a \
         scrape",
        text.len()
    );
    Ok(())
}

#[test]
fn a_wrong_variable_changes_no_response_and_is_logged_once() -> Result {
    let redis = RedisServer::start()?;
    let app = start(&redis, |options| {
        options.lasting().variable("metrics_max_series", "none")
    })?;
    for _ in 0..5 {
        let response = http::request(app.address(), "POST /join", &[], b"", http::TIMEOUT)?;
        ensure!(response.status == 200);
    }
    poll_until(PATIENCE, || {
        let lines = app.log("metrics_off")?;
        ensure!(lines.len() == 1, "{lines:?}");
        ensure!(
            lines[0].to_string().contains("metrics_max_series"),
            "{lines:?}"
        );
        Ok(())
    })?;
    assert_eq!(redis.calls("evalsha")? + redis.calls("eval")?, 0);
    Ok(())
}

#[test]
fn the_other_schemes_have_each_instances_own_values() -> Result {
    let redis = RedisServer::start()?;
    let pushgateway = Pushgateway::start()?;
    let app = start(&redis, |options| {
        let options = options.lasting().variable("metrics_backend", "pushgateway");
        options.variable(
            "pushgateway_url",
            &format!("http://{}", pushgateway.address()),
        )
    })?;
    let visit = |app: &App| -> Result {
        for path in ["/order/new/50", "/join", "/queue/a/7", "/order/new/5"] {
            let line = format!("POST {path}");
            let response = http::request(app.address(), &line, &[], b"", http::TIMEOUT)?;
            ensure!(response.status == 200);
        }
        Ok(())
    };
    let check = |text: &str| -> Result {
        let samples = parse_with_prometheus_client(text)?;
        let of = |name: &str| {
            let mut found = samples.iter().filter(|(key, _)| key.starts_with(name));
            found.next().map(|(_, value)| *value)
        };
        for (name, value) in [
            ("orders_total", 2.0),
            ("order_value_euros_sum", 55.0),
            ("visitors", 1.0),
            ("queue_length", 7.0),
        ] {
            ensure!(of(name) == Some(value), "{name}: {:?} in {text}", of(name));
        }
        Ok(())
    };
    visit(&app)?;
    poll_until(PATIENCE, || {
        check(&http::get_text(pushgateway.address(), "/metrics")?)
    })?;
    drop(app);
    let app = start(&redis, |options| {
        options.lasting().variable("metrics_backend", "pull")
    })?;
    visit(&app)?;
    check(&http::get_text(app.address(), "/metrics")?)?;
    drop(app);
    let app = start(&redis, |options| {
        options.lasting().variable("metrics_backend", "off")
    })?;
    visit(&app)?;
    let refused = http::get(app.address(), "/metrics")?;
    assert_eq!(refused.status, 404);
    assert_eq!(redis.calls("evalsha")? + redis.calls("eval")?, 0);
    Ok(())
}

/// Counts and gauges that an outage of Redis keeps from being stored are in the log.
#[test]
fn what_an_outage_loses_is_replayed() -> Result {
    let mut redis = RedisServer::start()?;
    let app = start(&redis, |options| options.lasting())?;
    let visit = |path: &str| -> Result {
        let line = format!("POST {path}");
        let response = http::request(app.address(), &line, &[], b"", http::TIMEOUT)?;
        ensure!(response.status == 200);
        Ok(())
    };
    let poll_orders = |redis: &RedisServer, expected: i64| {
        poll_until(PATIENCE, || {
            let orders: i64 = redis.cells(ORDERS)?.values().sum();
            ensure!(orders == expected, "{orders}");
            Ok(())
        })
    };
    visit("/order/new/50")?;
    visit("/queue/a/1")?;
    visit("/queue/b/1")?;
    poll_orders(&redis, 1)?;
    poll_until(PATIENCE, || {
        let cells = redis.cells("metrics:custom:queue_length")?;
        ensure!(cells.len() == 4, "{cells:?}");
        Ok(())
    })?;
    redis.suspend()?;
    visit("/order/new/50")?;
    visit("/queue/a/2")?;
    visit("/queue/b/2")?;
    poll_until(PATIENCE, || {
        let lines = app.log("batch_not_stored")?;
        ensure!(
            lines
                .iter()
                .any(|line| line.to_string().contains("custom:orders_total"))
        );
        ensure!(
            lines.iter().any(|line| line["custom"]["gauges"].is_array()),
            "{lines:?}"
        );
        Ok(())
    })?;
    redis.resume()?;
    redis.wait_until_ready()?;
    visit("/queue/b/3")?;
    poll_until(PATIENCE, || {
        let b = redis.cells("metrics:custom:queue_length")?["queue=\"b\""];
        ensure!(b == 3_000_000, "{b}");
        Ok(())
    })?;
    replay(redis.port(), &app.output()?)?;
    poll_orders(&redis, 2)?;
    let values = redis.cells(VALUES)?;
    assert_eq!(values["kind=\"new\"|sum"], 100_000_000_000);
    let cells = redis.cells("metrics:custom:queue_length")?;
    assert_eq!(cells["queue=\"a\""], 2_000_000);
    assert_eq!(cells["queue=\"b\""], 3_000_000, "the newer value stands");
    Ok(())
}

/// The flush belongs to the request that an outer middleware cancels.
#[test]
fn a_cancelled_request_does_not_end_the_flushes_of_its_instance() -> Result {
    let redis = RedisServer::start()?;
    let app = start(&redis, |options| {
        let options = options.manifest(repository().join("tests/metered/cancelled.toml"));
        options.lasting().variable("flush_interval_ms", "500")
    })?;
    let cancel = [("cancel-after-ms", "100")];
    let cancelled = http::request(app.address(), "POST /hang", &cancel, b"", http::TIMEOUT)?;
    ensure!(cancelled.status >= 500, "{}", cancelled.status);
    let response = http::request(app.address(), "POST /join", &[], b"", http::TIMEOUT)?;
    ensure!(response.status == 200);
    wait_for_sum(&app, &redis, "metrics:custom:visitors", 2_000_000)
}

/// The app's last version had other buckets, and registered them. Its next version is
/// deployed while Redis is away.
#[test]
fn what_was_logged_before_registering_goes_to_the_hash_of_its_layout() -> Result {
    const OLD: [(&str, i64); 2] = [("kind=\"new\"|20", 1), ("kind=\"new\"|sum", 15)];
    let mut redis = RedisServer::start()?;
    let old = format!(
        "{{\"type\":\"histogram\",\"key\":\"{VALUES}\",\"bounds\":[10,20],\"scale\":1000000000}}"
    );
    redis.call::<()>(&["HSET", "metrics:families", "order_value_euros", &old])?;
    for (field, count) in OLD {
        redis.call::<()>(&["HSET", VALUES, field, &count.to_string()])?;
    }
    redis.suspend()?;
    let app = start(&redis, |options| options.lasting())?;
    let response = http::request(app.address(), "POST /order/new/50", &[], b"", http::TIMEOUT)?;
    ensure!(response.status == 200);
    poll_until(PATIENCE, || {
        let lines = app.log("batch_not_stored")?;
        let has_order = |line: &serde_json::Value| line.to_string().contains("custom:orders_total");
        ensure!(lines.iter().any(has_order), "{lines:?}");
        Ok(())
    })?;
    let log = app.output()?;
    drop(app);
    redis.resume()?;
    redis.wait_until_ready()?;
    replay(redis.port(), &log)?;
    let unchanged = OLD.map(|(field, count)| (field.to_owned(), count));
    assert_eq!(redis.cells(VALUES)?, BTreeMap::from(unchanged));
    replay(redis.port(), &log)?;
    let text = Exporter::start(redis.port())?.scrape()?;
    for line in [
        "orders_total{kind=\"new\"} 1",
        "order_value_euros_count{kind=\"new\"} 2",
        // The bound that both layouts have.
        "order_value_euros_bucket{kind=\"new\",le=\"10.0\"} 0",
        "order_value_euros_sum{kind=\"new\"} 50.000000015",
    ] {
        ensure!(text.lines().any(|found| found == line), "no {line}: {text}");
    }
    ensure!(
        !text.contains("functional_scaffold_decode_errors{"),
        "{text}"
    );
    Ok(())
}
