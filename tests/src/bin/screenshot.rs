//! Takes the pictures of the exporter's page that README shows, under a real load
//! of some tens of requests a second: `cargo run --release -p
//! functional-scaffold-tests --bin screenshot`, after `cargo xtask build`. Those that
//! are committed went through `pngquant --quality 75-95`.

use std::{
    ffi::OsStr,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use functional_scaffold_testkit::{
    browser::{Browser, Screen},
    exporter::Exporter,
    load::{RequestKind, Until},
    repository,
};
use functional_scaffold_tests::service::Service;

/// Half a second between two reads makes as many points as a quarter of an hour
/// does at five.
const INTERVAL_MS: &str = "500";
const POINTS: usize = 180;
const TICK: Duration = Duration::from_millis(500);

/// Requests in a tick, one after the other over all of them.
const WAVE: [usize; 18] = [
    8, 9, 11, 16, 24, 33, 36, 30, 22, 14, 9, 8, 12, 20, 32, 40, 38, 30,
];

fn main() -> Result<()> {
    let service = Service::start_rogue(|options| options)?;
    let interval = ("EXPORTER_PAGE_INTERVAL_MS", OsStr::new(INTERVAL_MS));
    let exporter = Exporter::start_with(service.redis.port(), &[interval])?;
    let browser = Browser::start()?;
    send(&service)?;
    for (name, dark) in [("light", false), ("dark", true)] {
        let screen = Screen {
            width: 1200,
            dark,
            scale: 1,
        };
        browser.display_on(screen)?;
        browser.open(&exporter.url("/"))?;
        let live = "document.body.dataset.state == 'live'";
        browser.wait_for(live, Duration::from_secs(10))?;
        let file = repository().join(format!("docs/images/page-{name}.png"));
        fs::write(&file, browser.screenshot()?)?;
        println!("{}", file.display());
    }
    Ok(())
}

/// A load that rises and falls, with the odd failure in it.
fn send(service: &Service) -> Result<()> {
    let invoke = RequestKind::invoke;
    let usual = [
        invoke(r#""nothing""#),
        invoke(r#""work 1""#),
        invoke(r#""nothing""#),
        invoke(r#""work 2""#),
        invoke(r#""work 4""#),
    ];
    let slow = [invoke(r#""work 14""#), invoke(r#""work 30""#)];
    let refused = [invoke(r#""unheard of""#)];
    let failing = [invoke(r#""fail""#)];
    for tick in 0..POINTS {
        let began = Instant::now();
        let requests = WAVE[tick * WAVE.len() / POINTS];
        for (kinds, count) in [
            (&usual[..], requests),
            (&slow, usize::from(tick % 3 == 0) * (1 + tick / 60)),
            (&refused, usize::from(fastrand::u8(..) < 90) * 2),
            (&failing, usize::from(fastrand::u8(..) < 24)),
        ] {
            service.load(kinds, 2, Until::Requests(count))?;
        }
        sleep(TICK.saturating_sub(began.elapsed()));
    }
    Ok(())
}
