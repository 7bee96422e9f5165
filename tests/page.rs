//! The exporter's page in a real browser: what it shows is what `/metrics` says,
//! on every screen, and what is not known is not shown as if it were.

use std::{collections::BTreeMap, ffi::OsStr, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::{
    app::{App, AppOptions},
    browser::{Browser, Screen},
    client::{Kind, Ledger, Until, load},
    exporter::{Exporter, Samples, parse_with_prometheus_client},
    process::POLL,
    redis_server::RedisServer,
};
use serde_json::Value;

type Result<T = ()> = anyhow::Result<T>;

const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: (&str, &str) = ("EXPORTER_PAGE_INTERVAL_MS", "500");
const DESK: Screen = Screen {
    width: 1200,
    dark: false,
    scale: 1,
};
const PHONE: Screen = Screen {
    width: 360,
    scale: 2,
    ..DESK
};

struct World {
    browser: Browser,
    exporter: Exporter,
    app: App,
    redis: RedisServer,
}

impl World {
    async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With variables of the exporter, of which the last of a name counts.
    async fn start_with(variables: &[(&str, &str)]) -> Result<Self> {
        let redis = RedisServer::start()?;
        // An execution is in flight by its lease: it has to get one.
        let options = AppOptions::with_redis(redis.port())
            .rogue()
            .variable("lease_timeout_ms", "1000");
        let app = App::start(&options)?;
        let all = [INTERVAL].into_iter().chain(variables.iter().copied());
        let all: Vec<_> = all.map(|(name, value)| (name, OsStr::new(value))).collect();
        let exporter = Exporter::start_with(redis.port(), &all).await?;
        let browser = Browser::start().await?;
        browser.look_on(DESK).await?;
        browser.open(&exporter.url("/")).await?;
        Ok(Self {
            browser,
            exporter,
            app,
            redis,
        })
    }

    /// Requests of every class, and waits until the page has all of them.
    async fn load(&self) -> Result<Ledger> {
        let kinds = [
            Kind::invoke(r#""nothing""#),
            Kind::invoke(r#""work 3""#),
            Kind::invoke(r#""unheard of""#),
            Kind::invoke(r#""fail""#),
            Kind::get("/healthz", "/healthz"),
        ];
        let ledger = load(&self.app.url(""), &kinds, 4, Until::Requests(200)).await?;
        ensure!(ledger.unanswered == 0, "{ledger:?}");
        let all = format!("{} == {}", tile("requests-total"), ledger.total());
        self.browser.wait_for(&all, PATIENCE).await?;
        Ok(ledger)
    }

    async fn no_complaint(&self) -> Result {
        let console = self.browser.console().await?;
        ensure!(console.is_empty(), "the console says {console:#?}");
        Ok(())
    }
}

/// Of a tile, a number.
fn tile(id: &str) -> String {
    format!(r##"document.querySelector("#{id} .value").dataset.value"##)
}

/// The sum of all samples of a name that have a label; of all, if it is empty.
fn sum(samples: &Samples, name: &str, label: &str) -> f64 {
    let is_one = |key: &str| {
        let labels = key.strip_prefix(name);
        labels.is_some_and(|labels| labels.starts_with('{') && labels.contains(label))
    };
    let matching = samples.iter().filter(|(key, _)| is_one(key));
    matching.map(|(_, value)| value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_metrics_say_on_every_screen() -> Result {
    let world = World::start().await?;
    let browser = &world.browser;
    let hint =
        r#"!document.getElementById("empty").hidden && document.body.innerText.includes("curl")"#;
    browser.wait_for(hint, PATIENCE).await?;
    let ledger = world.load().await?;
    let hidden = r#"document.getElementById("empty").hidden"#;
    browser.wait_for(hidden, PATIENCE).await?;
    numbers_are_those_of_metrics(&world, &ledger).await?;
    what_is_in_flight_is_shown(&world).await?;

    let light = pictures(browser).await?;
    browser.look_on(Screen { dark: true, ..DESK }).await?;
    let is_dark = r#"getComputedStyle(document.body).backgroundColor == "rgb(15, 18, 23)""#;
    browser.wait_for(is_dark, PATIENCE).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let as_in_light = |dark: &BTreeMap<String, String>| {
        let mut same = light.iter().filter(|one| dark.get(one.0) == Some(one.1));
        same.next().map(|(panel, _)| panel.clone())
    };
    while let Some(panel) = as_in_light(&pictures(browser).await?) {
        let is_late = tokio::time::Instant::now() > deadline;
        ensure!(!is_late, "{panel} is as in light");
        tokio::time::sleep(POLL).await;
    }

    browser.look_on(PHONE).await?;
    let wide = format!(
        "return [...document.querySelectorAll('body *')]
            .filter((one) => one.getBoundingClientRect().right > {})
            .map((one) => one.outerHTML.slice(0, 80))",
        PHONE.width
    );
    let fits = format!(
        "innerWidth == {0} && document.documentElement.scrollWidth == {0}",
        PHONE.width
    );
    browser
        .wait_for(&fits, PATIENCE)
        .await
        .with_context(|| format!("on {PHONE:?}"))?;
    let wide = browser.run(&wide).await?;
    ensure!(wide == Value::Array(Vec::new()), "too wide: {wide}");
    pictures(browser).await?;
    world.no_complaint().await
}

async fn numbers_are_those_of_metrics(world: &World, ledger: &Ledger) -> Result {
    let samples = parse_with_prometheus_client(&world.exporter.scrape().await?)?;
    let (requests, executions) = ("http_requests_total", "algorithm_executions_total");
    ensure!(sum(&samples, requests, "") == ledger.total() as f64);
    let mut expected = BTreeMap::from([
        (tile("requests-total"), sum(&samples, requests, "")),
        (tile("executions-total"), sum(&samples, executions, "")),
        (
            tile("in-flight"),
            sum(&samples, "algorithm_executions_in_flight", ""),
        ),
        (
            tile("oldest-lease"),
            samples["functional_scaffold_oldest_lease_age_seconds"],
        ),
    ]);
    for (panel, name, statuses) in [
        ("requests", requests, &["success", "rejected", "error"][..]),
        (
            "executions",
            executions,
            &["success", "invalid_input", "failed", "crashed"],
        ),
    ] {
        for status in statuses {
            let row = status.replace('_', " ");
            let cell = format!(
                r##"document.querySelector('#{panel} tr[data-series="{row}"] td:last-child').dataset.value"##
            );
            let label = format!("status=\"{status}\"");
            expected.insert(cell, sum(&samples, name, &label));
        }
    }
    for (place, value) in expected {
        let shown = world.browser.run(&format!("return {place}")).await?;
        let shown: f64 = shown.as_str().with_context(|| place.clone())?.parse()?;
        ensure!(shown == value, "{place}: {shown}, and in /metrics {value}");
    }
    // All of the load is of the last minute, and nothing else is.
    let of_probes = |labels: &&String| labels.contains(r#"endpoint="/healthz""#);
    let probes = ledger.answers.keys().filter(of_probes);
    let probes: i64 = probes.map(|labels| ledger.answers[labels]).sum();
    let ratio = ledger.with_code(500) as f64 / (ledger.total() - probes) as f64;
    let shown = format!(
        "Math.abs({} - {ratio}) < 1e-4 && {} > 0",
        tile("error-ratio-now"),
        tile("request-rate")
    );
    world.browser.wait_for(&shown, PATIENCE).await?;
    let latency = "[...document.querySelectorAll('#request-latency td, #execution-latency td')]
        .map((cell) => Number(cell.dataset.value))";
    let sane = format!(
        "{latency}.length == 6 && {latency}.every((value) => value > 0 && value <= 10) &&
         {latency}[0] < {latency}[1] && {latency}[1] <= {latency}[2]"
    );
    world.browser.wait_for(&sane, PATIENCE).await
}

async fn what_is_in_flight_is_shown(world: &World) -> Result {
    let url = world.app.url("");
    let work = tokio::spawn(async move {
        load(
            &url,
            &[Kind::invoke(r#""work 3000""#)],
            1,
            Until::Requests(1),
        )
        .await
    });
    for count in [1, 0] {
        let shown = format!("{} == {count}", tile("in-flight"));
        world.browser.wait_for(&shown, PATIENCE).await?;
    }
    ensure!(work.await??.unanswered == 0);
    Ok(())
}

/// The coloured pixels of each panel's canvas, by colour: lines are coloured,
/// grid and text are not.
async fn pictures(browser: &Browser) -> Result<BTreeMap<String, String>> {
    let script = "return [...document.querySelectorAll('section')].map((section) => {
        // A copy, because Chromium warns of many reads of one that is drawn on.
        const { width, height } = section.querySelector('canvas');
        const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(section.querySelector('canvas'), 0, 0);
        const { data } = copy.getImageData(0, 0, width, height);
        const colours = {};
        for (let at = 0; at < data.length; at += 4) {
            const [red, green, blue, alpha] = data.slice(at, at + 4);
            if (alpha < 255 || Math.max(red, green, blue) - Math.min(red, green, blue) < 60) continue;
            const colour = `${red},${green},${blue}`;
            colours[colour] = (colours[colour] ?? 0) + 1;
        }
        return [section.id, Object.keys(colours).filter((colour) => colours[colour] > 4).sort().join(' ')];
    })";
    let pictures: BTreeMap<String, String> = serde_json::from_value(
        browser
            .run(&format!(
                "return Object.fromEntries((() => {{ {script} }})())"
            ))
            .await?,
    )?;
    let panels: Vec<_> = pictures.keys().map(String::as_str).collect();
    ensure!(
        panels
            == [
                "error-ratio",
                "execution-latency",
                "executions",
                "request-latency",
                "requests"
            ],
        "{panels:?}"
    );
    for (panel, colours) in &pictures {
        ensure!(!colours.is_empty(), "{panel} is blank");
    }
    Ok(pictures)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_news_says_so_and_keeps_what_it_had() -> Result {
    let world = World::start().await?;
    let browser = &world.browser;
    let ledger = world.load().await?;
    drop(world.redis);
    let kept = format!("{} == {}", tile("requests-total"), ledger.total());
    let says = |state: &str, text: &str| {
        format!(
            r#"document.body.dataset.state == "{state}" && {kept} &&
               document.getElementById("problem").innerText.includes("{text}")"#
        )
    };
    let down = says("down", "Redis cannot be read since");
    browser.wait_for(&down, PATIENCE).await?;
    let console = browser.console().await?;
    ensure!(console.is_empty(), "the console says {console:#?}");
    drop(world.exporter);
    let silent = says("silent", "The exporter does not respond");
    browser.wait_for(&silent, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_numbers_are_late_says_so() -> Result {
    // It waits for longer than the page does: Redis is not down to it yet.
    let patient = [
        ("REDIS_TIMEOUT_MS", "120000"),
        ("EXPORTER_SCRAPE_TIMEOUT_MS", "120000"),
    ];
    let world = World::start_with(&patient).await?;
    let browser = &world.browser;
    let ledger = world.load().await?;
    world.redis.hang()?;
    let late = format!(
        r#"document.body.dataset.state == "late" && {} == {} &&
           document.getElementById("problem").innerText.includes("has not read Redis for")"#,
        tile("requests-total"),
        ledger.total()
    );
    browser.wait_for(&late, PATIENCE).await?;
    world.redis.resume()?;
    let live = r#"document.body.dataset.state == "live""#;
    browser.wait_for(live, PATIENCE).await?;
    world.no_complaint().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_which_nothing_is_recorded_says_so_and_keeps_its_links() -> Result {
    let prometheus = "http://prometheus.internal:9090/";
    let off = [(INTERVAL.0, "0"), ("EXPORTER_PROMETHEUS_URL", prometheus)];
    let world = World::start_with(&off).await?;
    let says = format!(
        r#"document.body.dataset.state == "off" &&
           document.body.innerText.includes("EXPORTER_PAGE_INTERVAL_MS") &&
           !document.body.innerText.includes("does not respond") &&
           document.getElementById("prometheus").href == "{prometheus}" &&
           ["prometheus", "off"].every((id) => document.getElementById(id).checkVisibility()) &&
           ["grafana", "empty", "tiles", "panels", "problem"].every(
               (id) => !document.getElementById(id).checkVisibility())"#
    );
    world.browser.wait_for(&says, PATIENCE).await?;
    world.no_complaint().await
}
