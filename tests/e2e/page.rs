//! The exporter's page in a real browser: it shows the values of `/metrics`, on every
//! screen, and says so if it does not know them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    browser::{Browser, Screen},
    exporter::Exporter,
    load::{RequestKind, Tally, Until},
    process::poll_until,
};
use functional_scaffold_tests::{
    PATIENCE,
    expositions::{parse_with_prometheus_client, sum},
    service::Service,
};
use serde_json::Value;

use crate::Result;

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
    service: Service,
}

impl World {
    fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// With variables of the exporter, of which the last of a name counts.
    fn start_with(variables: &[(&str, &str)]) -> Result<Self> {
        let service = Service::start_rogue(|options| options)?;
        let all = [INTERVAL].into_iter().chain(variables.iter().copied());
        let all: Vec<_> = all.map(|(name, value)| (name, OsStr::new(value))).collect();
        let exporter = Exporter::start_with(service.redis.port(), &all)?;
        let browser = Browser::start()?;
        browser.display_on(DESK)?;
        browser.open(&exporter.url("/"))?;
        Ok(Self {
            browser,
            exporter,
            service,
        })
    }

    /// Requests of every class, and waits until the page has all of them.
    fn load(&self) -> Result<Tally> {
        let kinds = [
            RequestKind::invoke(r#""nothing""#),
            RequestKind::invoke(r#""work 3""#),
            RequestKind::invoke(r#""unheard of""#),
            RequestKind::invoke(r#""fail""#),
            RequestKind::get("/healthz", "/healthz"),
        ];
        let tally = self.service.load(&kinds, 4, Until::Requests(200))?;
        let all = format!("{} == {}", tile("requests-total"), tally.total());
        self.browser.wait_for(&all, PATIENCE)?;
        Ok(tally)
    }

    fn no_complaint(&self) -> Result {
        let console = self.browser.console()?;
        ensure!(console.is_empty(), "the console says {console:#?}");
        Ok(())
    }
}

/// Of a tile, a number.
fn tile(id: &str) -> String {
    format!(r##"document.querySelector("#{id} .value").dataset.value"##)
}

#[test]
fn the_page_shows_what_the_metrics_say_on_every_screen() -> Result {
    let world = World::start()?;
    let browser = &world.browser;
    let hint =
        r#"!document.getElementById("empty").hidden && document.body.innerText.includes("curl")"#;
    browser.wait_for(hint, PATIENCE)?;
    let tally = world.load()?;
    let hidden = r#"document.getElementById("empty").hidden"#;
    browser.wait_for(hidden, PATIENCE)?;
    numbers_are_those_of_metrics(&world, &tally)?;
    executions_in_flight_are_shown(&world)?;

    let light = pictures(browser)?;
    browser.display_on(Screen { dark: true, ..DESK })?;
    let is_dark = r#"getComputedStyle(document.body).backgroundColor == "rgb(15, 18, 23)""#;
    browser.wait_for(is_dark, PATIENCE)?;
    poll_until(PATIENCE, || {
        let dark = pictures(browser)?;
        let mut same = light.iter().filter(|one| dark.get(one.0) == Some(one.1));
        ensure!(same.next().is_none(), "a panel is as in light");
        Ok(())
    })?;

    browser.display_on(PHONE)?;
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
        .with_context(|| format!("on {PHONE:?}"))?;
    let wide = browser.run(&wide)?;
    ensure!(wide == Value::Array(Vec::new()), "too wide: {wide}");
    pictures(browser)?;
    world.no_complaint()
}

fn numbers_are_those_of_metrics(world: &World, tally: &Tally) -> Result {
    let samples = parse_with_prometheus_client(&world.exporter.scrape()?)?;
    let (requests, executions) = ("http_requests_total", "algorithm_executions_total");
    ensure!(sum(&samples, requests, "") == tally.total() as f64);
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
        let shown = world.browser.run(&format!("return {place}"))?;
        let shown: f64 = shown.as_str().with_context(|| place.clone())?.parse()?;
        ensure!(shown == value, "{place}: {shown}, and in /metrics {value}");
    }
    // All of the load is of the last minute, and nothing else is.
    let of_probes = |labels: &&String| labels.contains(r#"endpoint="/healthz""#);
    let probes = tally.responses.keys().filter(of_probes);
    let probes: i64 = probes.map(|labels| tally.responses[labels]).sum();
    let ratio = tally.with_code(500) as f64 / (tally.total() - probes) as f64;
    let shown = format!(
        "Math.abs({} - {ratio}) < 1e-4 && {} > 0",
        tile("error-ratio-now"),
        tile("request-rate")
    );
    world.browser.wait_for(&shown, PATIENCE)?;
    let latency = "[...document.querySelectorAll('#request-latency td, #execution-latency td')]
        .map((cell) => Number(cell.dataset.value))";
    let sane = format!(
        "{latency}.length == 6 && {latency}.every((value) => value > 0 && value <= 10) &&
         {latency}[0] < {latency}[1] && {latency}[1] <= {latency}[2]"
    );
    world.browser.wait_for(&sane, PATIENCE)
}

fn executions_in_flight_are_shown(world: &World) -> Result {
    let is_shown = |count: usize| format!("{} == {count}", tile("in-flight"));
    let has_been_shown = AtomicBool::new(false);
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            while !has_been_shown.load(Ordering::Relaxed) {
                world.service.commit("work 2000")?;
            }
            anyhow::Ok(())
        });
        let shown = world.browser.wait_for(&is_shown(1), PATIENCE);
        has_been_shown.store(true, Ordering::Relaxed);
        work.join().expect("no panic")?;
        shown
    })?;
    world.browser.wait_for(&is_shown(0), PATIENCE)
}

/// The coloured pixels of each panel's canvas, by colour: lines are coloured,
/// grid and text are not.
fn pictures(browser: &Browser) -> Result<BTreeMap<String, String>> {
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
    let pictures: BTreeMap<String, String> = serde_json::from_value(browser.run(&format!(
        "return Object.fromEntries((() => {{ {script} }})())"
    ))?)?;
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

#[test]
fn a_page_without_news_says_so_and_keeps_what_it_had() -> Result {
    let world = World::start()?;
    let browser = &world.browser;
    let tally = world.load()?;
    drop(world.service);
    let kept = format!("{} == {}", tile("requests-total"), tally.total());
    let says = |state: &str, text: &str| {
        format!(
            r#"document.body.dataset.state == "{state}" && {kept} &&
               document.getElementById("problem").innerText.includes("{text}")"#
        )
    };
    let down = says("down", "Redis cannot be read since");
    browser.wait_for(&down, PATIENCE)?;
    let console = browser.console()?;
    ensure!(console.is_empty(), "the console says {console:#?}");
    drop(world.exporter);
    let silent = says("silent", "The exporter does not respond");
    browser.wait_for(&silent, PATIENCE)
}

#[test]
fn a_page_whose_numbers_are_late_says_so() -> Result {
    // It waits for longer than the page does: Redis is not down to it yet.
    let patient = [
        ("REDIS_TIMEOUT_MS", "120000"),
        ("EXPORTER_SCRAPE_TIMEOUT_MS", "120000"),
    ];
    let world = World::start_with(&patient)?;
    let browser = &world.browser;
    let tally = world.load()?;
    world.service.redis.suspend()?;
    let late = format!(
        r#"document.body.dataset.state == "late" && {} == {} &&
           document.getElementById("problem").innerText.includes("has not read Redis for")"#,
        tile("requests-total"),
        tally.total()
    );
    browser.wait_for(&late, PATIENCE)?;
    world.service.redis.resume()?;
    let live = r#"document.body.dataset.state == "live""#;
    browser.wait_for(live, PATIENCE)?;
    world.no_complaint()
}

#[test]
fn a_page_of_which_nothing_is_recorded_says_so_and_keeps_its_links() -> Result {
    let prometheus = "http://prometheus.internal:9090/";
    let off = [(INTERVAL.0, "0"), ("EXPORTER_PROMETHEUS_URL", prometheus)];
    let world = World::start_with(&off)?;
    let says = format!(
        r#"document.body.dataset.state == "off" &&
           document.body.innerText.includes("EXPORTER_PAGE_INTERVAL_MS") &&
           !document.body.innerText.includes("does not respond") &&
           document.getElementById("prometheus").href == "{prometheus}" &&
           ["prometheus", "off"].every((id) => document.getElementById(id).checkVisibility()) &&
           ["grafana", "empty", "tiles", "panels", "problem"].every(
               (id) => !document.getElementById(id).checkVisibility())"#
    );
    world.browser.wait_for(&says, PATIENCE)?;
    world.no_complaint()
}
