//! Takes the pictures of the exporter's page that README shows, under a real load
//! of some tens of requests a second: `cargo run --release -p
//! functional-scaffold-tests --bin screenshot`, after `cargo xtask build`. Those that
//! are committed went through `pngquant --quality 75-95`.

use std::{ffi::OsStr, fs, time::Duration};

use anyhow::{Result, ensure};
use functional_scaffold_tests::{
    app::{App, AppOptions},
    browser::{Browser, Screen},
    client::{Kind, Until, load},
    exporter::Exporter,
    redis_server::RedisServer,
    repository,
};
use tokio::time::{MissedTickBehavior, interval};

/// Half a second between two reads makes as many points as a quarter of an hour
/// does at five.
const INTERVAL_MS: &str = "500";
const POINTS: usize = 180;
const TICK: Duration = Duration::from_millis(500);

/// Requests in a tick, one after the other over all of them.
const WAVE: [usize; 18] = [
    8, 9, 11, 16, 24, 33, 36, 30, 22, 14, 9, 8, 12, 20, 32, 40, 38, 30,
];

#[tokio::main]
async fn main() -> Result<()> {
    let redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port())
        .rogue()
        .variable("lease_timeout_ms", "1000");
    let app = App::start(&options)?;
    let interval = ("EXPORTER_PAGE_INTERVAL_MS", OsStr::new(INTERVAL_MS));
    let exporter = Exporter::start_with(redis.port(), &[interval]).await?;
    let browser = Browser::start().await?;
    work(&app).await?;
    for (name, dark) in [("light", false), ("dark", true)] {
        let screen = Screen {
            width: 1200,
            dark,
            scale: 1,
        };
        browser.look_on(screen).await?;
        browser.open(&exporter.url("/")).await?;
        let live = "document.body.dataset.state == 'live'";
        browser.wait_for(live, Duration::from_secs(10)).await?;
        let file = repository().join(format!("docs/images/page-{name}.png"));
        fs::write(&file, browser.screenshot().await?)?;
        println!("{}", file.display());
    }
    Ok(())
}

/// A load that rises and falls, with the odd failure in it.
async fn work(app: &App) -> Result<()> {
    let usual = [
        Kind::invoke(r#""nothing""#),
        Kind::invoke(r#""work 1""#),
        Kind::invoke(r#""nothing""#),
        Kind::invoke(r#""work 2""#),
        Kind::invoke(r#""work 4""#),
    ];
    let slow = [Kind::invoke(r#""work 14""#), Kind::invoke(r#""work 30""#)];
    let refused = [Kind::invoke(r#""unheard of""#)];
    let failing = [Kind::invoke(r#""fail""#)];
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0..POINTS {
        ticks.tick().await;
        let requests = WAVE[tick * WAVE.len() / POINTS];
        for (kinds, count) in [
            (&usual[..], requests),
            (&slow, usize::from(tick % 3 == 0) * (1 + tick / 60)),
            (&refused, usize::from(fastrand::u8(..) < 90) * 2),
            (&failing, usize::from(fastrand::u8(..) < 24)),
        ] {
            let sent = load(&app.url(""), kinds, 2, Until::Requests(count)).await?;
            ensure!(sent.unanswered == 0, "{sent:?}");
        }
    }
    Ok(())
}
