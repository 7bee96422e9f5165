//! Every expression of dashboard, rules and documents against the real servers,
//! under load.

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    exporter::Exporter,
    load::{RequestKind, Tally, Until},
    process::{Process, poll_until},
    prometheus::{Prometheus, Rule, Sample},
    pushgateway::Pushgateway,
    redis::RedisServer,
    repository,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    batch_log::{EVENT, replay, replay_to_pushgateway},
    retry_if_too_busy,
    service::load_all,
};

use super::{
    dashboard, documents,
    expressions::{Expression, metrics, of_dashboard, of_document, substitute},
    unit_tests,
};
use crate::{
    Result,
    schemes::{CLOSED_PORT, INTERVAL, has_second_instance, pushing, start_relay},
};

/// The window of the recorded rates, in seconds.
const WINDOW: f64 = 300.0;
/// Requests of the load, beside slow ones and crashes.
const REQUESTS: usize = 400;
/// Slow requests: more than one in a hundred.
const SLOW: usize = 6;

/// The path of counts to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Two exporters on one Redis.
    Exporters,
    /// A relay from Redis to a Pushgateway.
    Relay,
    /// A Pushgateway, to which each instance pushes.
    Pushgateway,
    /// One long-lived instance, which is scraped.
    Pull,
}

impl Way {
    /// The value of the label `scheme`.
    fn scheme(self) -> &'static str {
        match self {
            Self::Exporters | Self::Relay => "redis",
            Self::Pushgateway => "pushgateway",
            Self::Pull => "pull",
        }
    }

    fn has_leases(self) -> bool {
        matches!(self, Self::Exporters | Self::Relay)
    }

    /// Returns whether a metric, or a series recorded from it, does not exist here.
    fn lacks(self, metric: &str) -> bool {
        const OF_EXPORTER: [&str; 13] = [
            "functional_scaffold_redis_up",
            "functional_scaffold_scrape_duration_seconds",
            "functional_scaffold_series",
            "functional_scaffold_oldest_lease_age_seconds",
            "functional_scaffold_oldest_lease_overdue_seconds",
            "functional_scaffold_build_info",
            "functional_scaffold_last_flush_timestamp_seconds",
            "functional_scaffold_redis_read_failures",
            "functional_scaffold_settle_failures",
            "functional_scaffold_redis_memory_max_bytes",
            "functional_scaffold_redis_maxmemory_policy",
            "functional_scaffold_redis_memory_used_bytes",
            "functional_scaffold_redis_persistence_ok",
        ];
        /// Absent while all is well, or without `--follow`.
        const ABSENT: [&str; 7] = [
            "functional_scaffold_decode_errors",
            "functional_scaffold_series_limited",
            "functional_scaffold_follow_up",
            "functional_scaffold_follow_lag_bytes",
            "functional_scaffold_follow_batches",
            "functional_scaffold_follow_lines_refused",
            "functional_scaffold_follow_skipped",
        ];
        const OF_LEASES: [&str; 5] = [
            "functional_scaffold_regressions",
            "functional_scaffold_unleased_executions",
            "functional_scaffold_late_results",
            "functional_scaffold_leases_settled",
            "algorithm_executions_in_flight",
        ];
        let base = metric.trim_start_matches("job_scheme:").split(':').next();
        let base = base.unwrap_or_default().trim_end_matches("_total");
        let is_of_exporter = OF_EXPORTER.contains(&base) || metric == "job_scheme:up:max";
        let is_of_relay = base == "push_time_seconds";
        let is_of_pull = metric == "job_scheme:up:min";
        self != Self::Exporters && is_of_exporter
            || !self.has_leases() && OF_LEASES.contains(&base)
            || self != Self::Relay && is_of_relay
            || self != Self::Pull && is_of_pull
            || ABSENT.contains(&base)
    }

    /// Number of executions that crash without a guard. There are none without leases:
    /// a crash would not be counted, and in the pull scheme it would end the only
    /// instance.
    fn crashes(self) -> usize {
        if self.has_leases() { 3 } else { 0 }
    }

    /// Number of executions whose crash the guard catches: half of them before the load,
    /// because an increase takes two scrapes. In the pull scheme, the instance with the
    /// guard would not be the one that is scraped.
    fn caught(self) -> usize {
        if self == Self::Pull { 0 } else { 4 }
    }

    /// Number of requests that take more than a second. There are none in the pull
    /// scheme: during an execution, another instance would be scraped.
    fn slow(self) -> usize {
        if self == Self::Pull { 0 } else { SLOW }
    }

    /// Two requests at a time may start a second instance.
    fn connections(self) -> usize {
        if self == Self::Pull { 1 } else { 8 }
    }

    /// One error in six responses to users, and some refusals.
    fn kinds(self) -> [RequestKind; 8] {
        let [longer, shorter] = match self {
            Self::Pull => [r#""nothing""#; 2],
            _ => [r#""work 3""#, r#""work 1""#],
        };
        [
            RequestKind::invoke(r#""nothing""#),
            RequestKind::invoke(r#""fail""#),
            RequestKind::invoke(longer),
            RequestKind::invoke(r#""unheard of""#),
            RequestKind::invoke(shorter),
            RequestKind::get("/healthz", "/healthz"),
            RequestKind::get("/readyz", "/readyz"),
            RequestKind::get("/nowhere", "unmatched"),
        ]
    }
}

/// The servers of one path.
struct World {
    way: Way,
    prometheus: Prometheus,
    app: App,
    exporters: Vec<Exporter>,
    _relay: Option<Process>,
    pushgateway: Option<Pushgateway>,
    redis: Option<RedisServer>,
}

impl World {
    fn start(way: Way) -> Result<Self> {
        let redis = way.has_leases().then(RedisServer::start).transpose()?;
        let with_pushgateway = matches!(way, Way::Relay | Way::Pushgateway);
        let pushgateway = with_pushgateway.then(Pushgateway::start).transpose()?;
        let redis_port = redis.as_ref().map_or(CLOSED_PORT, RedisServer::port);
        let options = AppOptions::with_redis(redis_port)
            .guarded_rogue()
            .variable("execution_limit_ms", "100")
            // Longer than any pause of a busy machine: without its lease a crash
            // is not counted.
            .variable("lease_timeout_ms", "1000");
        let options = match (way, &pushgateway) {
            (Way::Pull, _) => options.variable("metrics_backend", "pull").lasting(),
            (Way::Pushgateway, Some(pushgateway)) => pushing(options, pushgateway),
            _ => options,
        };
        let app = App::start(&options)?;
        let mut exporters = Vec::new();
        let mut relay = None;
        let targets = match (&pushgateway, &redis) {
            (Some(pushgateway), redis) => {
                if let Some(redis) = redis {
                    // It pushes Redis's counts.
                    let grouping = ["--grouping", "scheme=redis"];
                    relay = Some(start_relay(redis, pushgateway, &grouping)?);
                }
                ("pushgateway", vec![pushgateway.address().to_string()])
            }
            (None, Some(redis)) => {
                exporters = vec![
                    Exporter::start(redis.port())?,
                    Exporter::start(redis.port())?,
                ];
                let addresses = exporters
                    .iter()
                    .map(|exporter| exporter.address().to_string());
                ("redis", addresses.collect())
            }
            (None, None) => ("pull", vec![app.address().to_string()]),
        };
        Ok(Self {
            prometheus: Prometheus::start(&[targets], INTERVAL)?,
            way,
            app,
            exporters,
            _relay: relay,
            pushgateway,
            redis,
        })
    }

    /// Starts the servers, sends one request of each kind, and then the load. Returns the
    /// tallies of both.
    fn start_with_load(way: Way) -> Result<(Self, Tally, Tally)> {
        retry_if_too_busy(|| {
            let world = Self::start(way)?;
            let tallies = world.load()?;
            Ok(tallies.map(|(before, tally)| (world, before, tally)))
        })
    }

    /// Returns the tallies of a request of each kind, and of the load. `None` if
    /// the scheme cannot show them.
    fn load(&self) -> Result<Option<(Tally, Tally)>> {
        let kinds = self.way.kinds();
        let send = |kinds: &[RequestKind], connections, requests| {
            load_all(&self.app, kinds, connections, Until::Requests(requests))
        };
        // An increase takes two scrapes: each series exists before the load.
        let mut before = send(&kinds, 1, kinds.len())?;
        let caught = [RequestKind {
            path: "/invoke/rogue",
            endpoint: "/invoke/{algorithm}",
            ..RequestKind::invoke(r#""trap""#)
        }];
        before.add(&send(&caught, 1, self.way.caught() / 2)?);
        self.wait_for_total(before.total())?;
        let mut tally = send(&kinds, self.way.connections(), REQUESTS)?;
        let slow = [RequestKind::invoke(r#""work 1100""#)];
        tally.add(&send(&slow, 1, self.way.slow())?);
        tally.add(&send(&caught, 1, self.way.caught() / 2)?);
        // The pull scheme shows one instance.
        if self.way == Way::Pull && has_second_instance(&self.app)? {
            return Ok(None);
        }
        // A crash loses the counts that its instance had not stored yet.
        self.wait_for_total(before.total() + tally.total())?;
        let crash = [RequestKind::invoke(r#""trap""#)];
        tally.add(&send(&crash, 1, self.way.crashes())?);
        if self.way.has_leases() {
            tally.add(&self.execute_until_it_is_shown()?);
        }
        self.wait_for_total(before.total() + tally.total())?;
        Ok(Some((before, tally)))
    }

    /// Runs executions one after the other, until one is shown to be in flight.
    fn execute_until_it_is_shown(&self) -> Result<Tally> {
        let is_shown = AtomicBool::new(false);
        thread::scope(|scope| {
            let executions = scope.spawn(|| {
                let mut tally = Tally::default();
                let work = [RequestKind::invoke(r#""work 2000""#)];
                while !is_shown.load(Ordering::Relaxed) {
                    tally.add(&load_all(&self.app, &work, 1, Until::Requests(1))?);
                }
                anyhow::Ok(tally)
            });
            let shown = self.wait_for("sum(job_scheme:algorithm_executions_in_flight:max) > 0");
            is_shown.store(true, Ordering::Relaxed);
            let tally = executions.join().expect("no panic")?;
            shown.map(|_samples| tally)
        })
    }

    /// Waits until Prometheus has recorded this number of requests.
    fn wait_for_total(&self, requests: i64) -> Result {
        let total = r#"sum(job_scheme:http_requests_total:sum{endpoint!="/metrics"})"#;
        poll_until(PATIENCE, || {
            // A busy machine gives up a batch now and then.
            let log = self.app.output()?;
            if log.contains(EVENT) {
                match (&self.redis, &self.pushgateway) {
                    (Some(redis), _) => replay(redis.port(), &log)?,
                    (None, Some(pushgateway)) => replay_to_pushgateway(&pushgateway.url(), &log)?,
                    (None, None) => {}
                }
            }
            let recorded = self.prometheus.value(total)?.unwrap_or_default();
            ensure!(
                recorded == requests as f64,
                "{recorded} of {requests} requests are recorded"
            );
            Ok(())
        })
    }

    /// Waits until an expression has samples.
    fn wait_for(&self, expression: &str) -> Result<Vec<Sample>> {
        poll_until(PATIENCE, || {
            let samples = self.prometheus.query(expression)?;
            ensure!(!samples.is_empty(), "{expression} gives no sample");
            Ok(samples)
        })
    }

    /// Waits until an expression has finite samples.
    fn evaluate(&self, place: &str, expression: &str) -> Result<Vec<Sample>> {
        let samples = poll_until(PATIENCE, || {
            let samples = self.prometheus.query(expression)?;
            ensure!(!samples.is_empty(), "{expression} gives no sample");
            let are_finite = samples.iter().all(|sample| sample.value.is_finite());
            ensure!(are_finite, "{expression} is {samples:?}");
            Ok(samples)
        });
        samples.with_context(|| place.to_owned())
    }

    fn value(&self, expression: &str) -> Result<f64> {
        let value = self.prometheus.value(&self.in_grafana(expression))?;
        value.with_context(|| format!("{expression} gives no sample"))
    }

    /// An expression as Grafana sends it for a quarter of an hour.
    fn in_grafana(&self, expression: &str) -> String {
        let variables = [
            ("cluster", ".*"),
            ("namespace", ".*"),
            ("job", "functional_scaffold"),
            ("scheme", self.way.scheme()),
            ("algorithm", ".*"),
            ("__range", "15m"),
            ("__rate_interval", "1m"),
            ("__interval", "15m"),
        ];
        substitute(expression, &variables)
    }

    fn lacks_any(&self, expression: &str) -> bool {
        metrics(expression)
            .iter()
            .any(|metric| self.way.lacks(metric))
    }
}

#[test]
fn every_expression_has_a_plausible_value_by_exporters() -> Result {
    every_expression_has_a_plausible_value(Way::Exporters)
}

#[test]
fn every_expression_has_a_plausible_value_by_a_relay() -> Result {
    every_expression_has_a_plausible_value(Way::Relay)
}

#[test]
fn every_expression_has_a_plausible_value_by_a_pushgateway() -> Result {
    every_expression_has_a_plausible_value(Way::Pushgateway)
}

#[test]
fn every_expression_has_a_plausible_value_by_pull() -> Result {
    every_expression_has_a_plausible_value(Way::Pull)
}

fn every_expression_has_a_plausible_value(way: Way) -> Result {
    let (world, before, tally) = World::start_with_load(way)?;
    totals_are_exact(&world, &before, &tally)?;
    rates_are_those_of_the_increase(&world, &before, &tally)?;

    let rules = world.prometheus.rules()?;
    let (alerts, recorded): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.is_alert);
    every_metric_exists(&world, &alerts, &recorded)?;
    for rule in recorded.iter().filter(|rule| !world.lacks_any(&rule.name)) {
        world.evaluate(&rule.name, &rule.expression)?;
        world.evaluate(&rule.name, &rule.name)?;
    }
    for expression in all_expressions()? {
        // Alerts of outages are not firing yet.
        let is_of_alerts = expression.place == r#"annotation "Alerts""#;
        if is_of_alerts {
            world
                .prometheus
                .query(&world.in_grafana(&expression.text))?;
        } else if !world.lacks_any(&expression.text) {
            let text = world.in_grafana(&expression.text);
            let samples = world.evaluate(&expression.place, &text)?;
            assert_plausible(&expression, &samples)?;
        }
    }
    for alert in &alerts {
        assert_annotated(alert)?;
        alert_fires_or_not(&world, alert)?;
    }
    alerts_fire_in_outages(world, &alerts)
}

/// The expressions of dashboard and documents.
fn all_expressions() -> Result<Vec<Expression>> {
    let mut all = of_dashboard(&dashboard()?)?;
    for folder in ["", "docs", "docs/adr"] {
        for (place, text) in documents(&repository().join(folder))? {
            all.extend(of_document(&place, &text));
        }
    }
    Ok(all)
}

/// Checks that samples have plausible sizes for their unit.
fn assert_plausible(expression: &Expression, samples: &[Sample]) -> Result {
    let place = &expression.place;
    let expected = match expression.unit.as_str() {
        // One error in six is more than the budget of a month.
        "percentunit" if place.contains("budget left") => -1_000.0..=1.0,
        "percentunit" => 0.0..=1.0,
        "bytes" => 0.0..=1e9,
        "reqps" | "ops" => 0.0..=1_000.0,
        "s" => 0.0..=60.0,
        "none" => 1.0..=1.0,
        "short" => 0.0..=10_000.0,
        other => anyhow::bail!("{place}: what is the unit {other}?"),
    };
    let is_quantile = expression.text.contains("histogram_quantile");
    for Sample { value, .. } in samples {
        ensure!(expected.contains(value), "{place}: {value}");
        ensure!(
            !is_quantile || *value > 0.0,
            "{place}: nothing takes no time"
        );
    }
    Ok(())
}

/// Checks that between two known scrapes the totals rise by the requests sent: none is
/// missing, and none is counted twice because there are several exporters.
fn totals_are_exact(world: &World, before: &Tally, tally: &Tally) -> Result {
    let mut all = before.clone();
    all.add(tally);
    // The rules of a group are evaluated one after the other, and a scrape may fall in
    // between: the other totals are complete one evaluation later at most.
    let exact = |expression: &str, expected: i64| {
        poll_until(PATIENCE, || {
            let found = world.value(expression)?;
            ensure!(
                found == expected as f64,
                "{expression} is {found}, not {expected}"
            );
            Ok(())
        })
    };
    for status in ["success", "rejected", "error"] {
        let label = format!("status=\"{status}\"");
        let expected = all
            .responses
            .iter()
            .filter(|(labels, _)| labels.contains(&label));
        let expected = expected.map(|(_, count)| count).sum();
        let series = r#"sum(job_scheme:http_requests_total:sum{endpoint!="/metrics", STATUS})"#;
        exact(&series.replace("STATUS", &label), expected)?;
    }
    // No histogram has a crash that is counted by its lease, and that of executions none
    // that the guard caught.
    let by_lease = i64::try_from(world.way.crashes())?;
    let crashed = by_lease + i64::try_from(world.way.caught())?;
    exact(
        r#"sum(job_scheme:algorithm_executions_total:sum{status="crashed"})"#,
        crashed,
    )?;
    for (counter, histogram, lacks) in [
        (
            "http_requests_total",
            "http_request_duration_seconds_bucket",
            by_lease,
        ),
        (
            "algorithm_executions_total",
            "algorithm_execution_duration_seconds_bucket",
            crashed,
        ),
    ] {
        let observed = format!("job_scheme:{histogram}:sum{{le=\"+Inf\"}}");
        exact(
            &format!("sum(job_scheme:{counter}:sum) - sum({observed})"),
            lacks,
        )?;
    }
    Ok(())
}

/// Checks rates against the increase. A rate is the increase between the first and the
/// last sample in its window, extrapolated by up to 1.1 intervals on either side
/// ([`extrapolatedRate`](https://github.com/prometheus/prometheus/blob/main/promql/functions.go)).
/// The number of samples depends on the machine's load.
fn rates_are_those_of_the_increase(world: &World, before: &Tally, tally: &Tally) -> Result {
    let of_users = |tally: &Tally| {
        let of_probes = ["endpoint=\"/healthz\"", "endpoint=\"/readyz\""];
        let responses = tally.responses.iter();
        responses
            .filter(|(labels, _)| !of_probes.iter().any(|probe| labels.contains(probe)))
            .map(|(_, count)| count)
            .sum::<i64>()
    };
    // Evaluated once more than the totals.
    let evaluated = r#"sum(job_scheme:http_requests:rate5m{endpoint!="/metrics"})"#;
    poll_until(PATIENCE, || {
        let increase = world.value(evaluated)? * WINDOW;
        ensure!(
            increase >= tally.total() as f64,
            "{evaluated} lacks something"
        );
        Ok(())
    })?;
    let samples = world.value("min(count_over_time(job_scheme:http_requests_total:sum[5m]))")?;
    let scrapes = world.value("min(count_over_time(http_requests_total[5m]))")?;
    let extrapolated = 1.0 + 2.2 / (samples.min(scrapes) - 1.0).max(1.0);
    let bounds = |before: i64, load: i64| {
        let most = (before + load) as f64 * extrapolated;
        (load as f64 * 0.999, most * 1.001)
    };
    let users = bounds(of_users(before), of_users(tally));
    let errors = bounds(before.with_code(500), tally.with_code(500));
    for (expression, unit, (least, most)) in [
        (evaluated, WINDOW, bounds(before.total(), tally.total())),
        (
            "sum(job_scheme:http_requests:rate5m{status=\"error\"})",
            WINDOW,
            errors,
        ),
        ("job_scheme:user_requests:rate5m", WINDOW, users),
        (
            "job_scheme:user_errors_per_user_requests:ratio_rate5m",
            1.0,
            (errors.0 / users.1, errors.1 / users.0),
        ),
    ] {
        poll_until(PATIENCE, || {
            let found = world.value(expression)? * unit;
            ensure!(
                (least..=most).contains(&found),
                "{expression}: {found} is not in {least}..={most} ({samples} samples)"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Checks that Prometheus has every metric that a rule, a panel or a unit test names:
/// from the real servers, or as a recorded series.
fn every_metric_exists(world: &World, alerts: &[Rule], recorded: &[Rule]) -> Result {
    let rules = recorded.iter().chain(alerts);
    let rules = rules.map(|rule| (rule.name.clone(), metrics(&rule.expression)));
    let expressions = all_expressions()?.into_iter();
    let expressions = expressions.map(|found| (found.place, metrics(&found.text)));
    let mut named: Vec<_> = rules.chain(expressions).collect();
    for file in unit_tests()? {
        let text = fs::read_to_string(&file)?;
        let series = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- series: '"));
        named.push((
            file.display().to_string(),
            series.flat_map(metrics).collect(),
        ));
    }
    // `ALERTS` exists as soon as an alert is pending.
    poll_until(PATIENCE, || {
        let known: BTreeSet<_> = world.prometheus.metric_names()?.into_iter().collect();
        for (place, metrics) in &named {
            for metric in metrics {
                let exists = known.contains(metric) || world.way.lacks(metric);
                ensure!(exists, "{place} names {metric}, which does not exist");
            }
        }
        Ok(())
    })
}

/// Checks that an alert has a summary, a description and a runbook.
fn assert_annotated(alert: &Rule) -> Result {
    let name = &alert.name;
    for annotation in ["summary", "description"] {
        let text = alert.annotations.get(annotation);
        ensure!(
            text.is_some_and(|text| text.len() > 20),
            "{name}: {annotation}"
        );
    }
    let runbook = format!("/docs/guide.md#runbook-{}", name.to_lowercase());
    let url = alert.annotations.get("runbook_url");
    let is_its_own = url.is_some_and(|url| url.starts_with("https://") && url.ends_with(&runbook));
    ensure!(is_its_own, "{name}: not {runbook}");
    Ok(())
}

/// Checks that an alert fires if the load should make it fire, and only then.
fn alert_fires_or_not(world: &World, alert: &Rule) -> Result {
    let expected = match alert.name.as_str() {
        "FunctionalScaffoldAlgorithmCrashed" => world.way.crashes() + world.way.caught() > 0,
        // About one execution in a hundred crashes.
        "FunctionalScaffoldAlgorithmCrashing" => return Ok(()),
        "HighErrorRate" | "FunctionalScaffoldErrorBudgetBurn" => true,
        // More than one request in a hundred is slow, but not 3 %: only the last of the
        // four burn rates.
        "FunctionalScaffoldLatencyBudgetBurn" if alert.expression.contains("> 1 *") => {
            world.way.slow() > 0
        }
        // A slow machine makes requests slow.
        "FunctionalScaffoldLatencyBudgetBurn" => return Ok(()),
        // A busy machine gives up a batch now and then.
        "FunctionalScaffoldBatchesLogged" if world.app.output()?.contains(EVENT) => return Ok(()),
        _ => false,
    };
    poll_until(PATIENCE, || {
        let fires = !world.prometheus.query(&alert.expression)?.is_empty();
        ensure!(fires == expected, "{} under load: {fires}", alert.name);
        Ok(())
    })
}

/// Stops Redis and then the exporters, and checks the alerts.
fn alerts_fire_in_outages(mut world: World, alerts: &[Rule]) -> Result {
    if world.exporters.is_empty() {
        return Ok(());
    }
    let expression = |name: &str| {
        let alert = alerts.iter().find(|alert| alert.name == name);
        alert
            .map(|alert| alert.expression.as_str())
            .context("no such alert")
    };
    world.app.terminate()?;
    world.redis = None;
    world.wait_for(expression("FunctionalScaffoldRedisDown")?)?;
    world.exporters.clear();
    world
        .wait_for(expression("FunctionalScaffoldExporterDown")?)
        .map(drop)
}
