//! Stores with hostile contents, from a seed: whatever someone wrote, each scrape is
//! answered, other parsers read both formats, a family beside it is served right, and
//! memory is bounded.
//!
//! `SCAFFOLD_HOSTILE_CONTENTS` sets how many registrations, fields, leases, removals and
//! lost counts are written, and `SCAFFOLD_HOSTILE_SEED` which.

use std::{env, time::Instant};

use fastrand::Rng;

use crate::{
    parsers::{Parser, read},
    support::{Exporter, Redis},
};

/// The contents of one store.
const ROUND: u64 = 5_000;
/// The most memory that an exporter may take, with its own.
const MEMORY_BYTES: u64 = 256 << 20;
/// Fields that one label set of each family may have.
const FIELDS: [&str; 8] = [
    r#"a="1""#,
    r#"a="1",b="\"\\\n""#,
    r#"a="é",z="🦀""#,
    "",
    r#"a="1"|1"#,
    r#"a="1"|+Inf"#,
    r#"a="1"|sum"#,
    r#"a="1"|sum_carry"#,
];
const VALUES: [&str; 10] = [
    "1",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1.5",
    "1e3",
    "NaN",
    "",
];
const FAMILIES: [(&str, &str); 6] = [
    (
        "a_total",
        r#"{"type":"counter","help":"A.","key":"metrics:a"}"#,
    ),
    (
        "a_total@1",
        r#"{"type":"counter","key":"metrics:a1","scale":1000}"#,
    ),
    ("b", r#"{"type":"gauge","key":"metrics:b"}"#),
    (
        "c_seconds",
        r#"{"type":"histogram","key":"metrics:c","bounds":[0.1,1.0],"scale":1000,"unit":"seconds"}"#,
    ),
    (
        "c_seconds@1",
        r#"{"type":"histogram","key":"metrics:c1","bounds":[0.1,0.5,1.0],"scale":1000,"unit":"seconds"}"#,
    ),
    ("c_seconds_sum", r#"{"type":"gauge","key":"metrics:d"}"#),
];
const LEASE: &str =
    r#"{"id":"9f86d081884c7d65/3","millis":35000,"count":[["metrics:a","algorithm=\"x\""]]}"#;
const REMOVALS: [&str; 2] = [
    r#"{"key":"metrics:a","labels":"a=\"1\""}"#,
    r#"{"key":"metrics:c"}"#,
];
const STATE: [&str; 6] = [
    "last_ms",
    "shift_ms",
    "flushed_ms",
    "epoch_ms",
    "lost_version",
    "forgotten_ms",
];
const WRONG_TYPES: [&str; 3] = ["metrics:b", "metrics:removed", "metrics:closed_leases"];

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn hostile_contents_hurt_no_scrape() {
    let contents = number("SCAFFOLD_HOSTILE_CONTENTS", 2 * ROUND);
    let mut rng = Rng::with_seed(number("SCAFFOLD_HOSTILE_SEED", 1));
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let before = exporter.peak_memory();
    let began = Instant::now();
    let (mut written, mut served, mut refused) = (0, 0.0, 0.0);
    while written < contents {
        // Else the exporter keeps the marks of what is there.
        if rng.bool() {
            redis.cli(&["FLUSHALL"]);
        }
        for (name, json) in FAMILIES {
            redis.cli(&["HSET", "metrics:families", name, json]);
        }
        let good = r#"{"type":"counter","key":"metrics:good"}"#;
        redis.cli(&["HSET", "metrics:families", "good_total", good]);
        redis.cli(&["HSET", "metrics:good", r#"k="1""#, "7"]);
        written += write(&redis, &mut rng);
        for (parser, accept) in [
            (Parser::Text, "text/plain"),
            (Parser::OpenMetrics, "application/openmetrics-text"),
        ] {
            let response = exporter.request("GET /metrics", &[("accept", accept)]);
            assert_eq!(response.status, 200);
            let text = String::from_utf8(response.body).expect("UTF-8");
            let samples = read(parser, &text);
            let sum = |name: &str| {
                let named = samples.iter().filter(|(other, _, _)| other == name);
                named.map(|(_, _, value)| value).sum::<f64>()
            };
            assert_eq!(sum("good_total"), 7.0, "after {written}");
            served += sum("functional_scaffold_series");
            refused += sum("functional_scaffold_decode_errors");
        }
    }
    let peak = exporter.peak_memory();
    println!(
        "{written} contents in {:.0} s: {served} series and {refused} decode errors in all \
         scrapes; peak memory {} MiB, {} before",
        began.elapsed().as_secs_f64(),
        peak >> 20,
        before >> 20
    );
    assert!(served > 0.0 && refused > 0.0);
    assert!(peak < MEMORY_BYTES, "{peak} bytes");
}

/// Writes contents, and returns how many.
fn write(redis: &Redis, rng: &mut Rng) -> u64 {
    let mut all = redis::pipe();
    for _ in 0..ROUND {
        match rng.u8(0..16) {
            0 => {
                let (name, json) = FAMILIES[rng.usize(0..FAMILIES.len())];
                let (name, json) = (edited(name, rng), edited(json, rng));
                // Not the one that is good.
                if !name.starts_with(b"good") {
                    all.cmd("HSET").arg("metrics:families").arg(name).arg(json);
                }
            }
            1 => {
                let score = VALUES[rng.usize(0..VALUES.len())].parse().unwrap_or(0.0);
                let score = if f64::is_nan(score) { 0.0 } else { score };
                all.cmd("ZADD")
                    .arg("metrics:leases")
                    .arg(score)
                    .arg(edited(LEASE, rng));
            }
            2 => {
                let removal = REMOVALS[rng.usize(0..REMOVALS.len())];
                let number = rng.i64(..);
                all.cmd("ZADD")
                    .arg("metrics:removed")
                    .arg(number)
                    .arg(edited(removal, rng));
            }
            3 => {
                let field = STATE[rng.usize(0..STATE.len())];
                all.cmd("HSET")
                    .arg("metrics:state")
                    .arg(field)
                    .arg(value(rng));
            }
            4 if rng.u8(0..100) == 0 => {
                let key = WRONG_TYPES[rng.usize(0..WRONG_TYPES.len())];
                all.cmd("SET").arg(key).arg("text");
            }
            kind => {
                let key = ["a", "a1", "b", "c", "c1", "d"][rng.usize(0..6)];
                let lost = if kind < 7 { "lost:metrics:" } else { "" };
                let field = FIELDS[rng.usize(0..FIELDS.len())];
                let key = format!("metrics:{lost}{key}");
                all.cmd("HSET")
                    .arg(key)
                    .arg(edited(field, rng))
                    .arg(value(rng));
            }
        }
        all.ignore();
    }
    let mut connection = redis.connect().expect("a connection");
    // Some are refused, because an earlier one gave a key the wrong type.
    let _ = all.query::<()>(&mut connection);
    ROUND
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let value = VALUES[rng.usize(0..VALUES.len())];
    match rng.u8(0..8) {
        0 => edited(value, rng),
        1..4 => rng.i64(..).to_string().into_bytes(),
        _ => value.as_bytes().to_vec(),
    }
}

/// The text, mostly with some bytes changed, inserted, removed or repeated, or very long.
fn edited(text: &str, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.usize(0..4) {
        let at = rng.usize(0..=bytes.len());
        let to = (at + rng.usize(0..6)).min(bytes.len());
        match rng.u8(0..6) {
            0 => bytes[at..to].fill_with(|| rng.u8(..)),
            1 => bytes.insert(at, rng.u8(..)),
            2 => drop(bytes.drain(at..to)),
            3 => bytes.extend_from_within(at..to),
            // Another number, letter or sign.
            4 => bytes.insert(at, rng.u8(b' '..=b'~')),
            _ => bytes.truncate(at),
        }
    }
    if rng.u16(0..500) == 0 {
        let at = rng.usize(0..=bytes.len());
        let long = rng.usize(0..100_000);
        bytes.splice(at..at, std::iter::repeat_n(b'x', long));
    }
    bytes
}
