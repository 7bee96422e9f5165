//! Entry points of `fuzz/`, which compiles with `cfg(fuzzing)`. Each checks what must hold
//! for any input.

use std::collections::HashMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use functional_scaffold_protocol::{
    batch::Joiner,
    exposition::{Exposition, Format},
    family::Kind,
    removal::Removal,
    replay_key::ReplayKey,
    series::{FamilySeries, Series},
};

use crate::{
    commands::log_lines::{Trust, find_batch},
    scrape::{high_water::HighWaterMarks, pass::Contents},
    server::{auth::Auth, negotiate},
};

pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A store: its registrations, hashes and removals. A registration without content is
/// one of [`REGISTRATIONS`].
pub type Store = (Pairs, Vec<Pairs>, Vec<Vec<u8>>);

const REGISTRATIONS: [(&str, &str); 6] = [
    ("a_total", r#"{"type":"counter","key":"m:a"}"#),
    (
        "a_total@1",
        r#"{"type":"counter","key":"m:a1","scale":1000}"#,
    ),
    ("b", r#"{"type":"gauge","key":"m:b"}"#),
    (
        "c_seconds",
        r#"{"type":"histogram","key":"m:c","bounds":[0.1,1.0],"scale":1000,"unit":"seconds"}"#,
    ),
    (
        "c_seconds@1",
        r#"{"type":"histogram","key":"m:c1","bounds":[0.1,0.5,1.0],"scale":1000,"unit":"seconds"}"#,
    ),
    ("c_seconds_sum", r#"{"type":"gauge","key":"m:d"}"#),
];

/// Reads two states of one store, one after the other. No counter steps back, unless its
/// removal says so, and both formats can be written.
pub fn store(reads: [Store; 2]) {
    let mut marks = HighWaterMarks::default();
    let mut before = HashMap::new();
    for (registrations, hashes, removals) in reads {
        let removals = removals.iter().zip(1..);
        let contents = Contents {
            registrations: registrations.into_iter().map(registration).collect(),
            hashes,
            removals: removals
                .filter_map(|(member, number)| Some((Removal::decode(member).ok()?, number)))
                .collect(),
        };
        let reading = contents.read(&mut marks);
        for format in [Format::Text, Format::OpenMetrics] {
            let families = reading.exposed().map(|series| &series.family);
            let mut exposition = Exposition::begin(format, families, 0);
            reading.write_to(&mut exposition);
            check_lines(&exposition.finish());
        }
        let now: HashMap<_, _> = reading.families.iter().flat_map(counts).collect();
        if contents.removals.is_empty() {
            for (series, count) in &before {
                if let Some(later) = now.get(series) {
                    assert!(later >= count, "{series:?}: {count:?}, then {later:?}");
                }
            }
        }
        before = now;
    }
}

fn registration((field, json): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    if !json.is_empty() {
        return (field, json);
    }
    let number = field.first().copied().unwrap_or_default();
    let (field, json) = REGISTRATIONS[usize::from(number) % REGISTRATIONS.len()];
    (field.into(), json.into())
}

/// Counters, and the buckets of histograms, by family, type and labels.
fn counts(series: &FamilySeries) -> Vec<((String, String), Vec<u64>)> {
    let family = &series.family;
    // Another type, scale or bounds make it another metric.
    let name = format!("{} {}", family.name, family.encode());
    let named = |labels: &str, counts| ((name.clone(), labels.to_owned()), counts);
    match &series.series {
        Series::Values(values) if family.kind == Kind::Counter => values
            .iter()
            .map(|(labels, value)| named(labels, vec![value.unsigned_abs()]))
            .collect(),
        Series::Values(_) => Vec::new(),
        Series::Histograms(histograms) => histograms
            .iter()
            .map(|(labels, histogram)| named(labels, histogram.buckets.to_vec()))
            .collect(),
    }
}

/// Every line is a comment, or a name with labels and a number: no text of the store
/// begins a line of its own.
fn check_lines(exposition: &str) {
    for line in exposition.lines() {
        if line.starts_with("# ") {
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let mut letters = name.bytes();
        let first = letters.next().unwrap_or_default();
        assert!(
            first.is_ascii_alphabetic() || b"_:".contains(&first),
            "{line:?}"
        );
        assert!(
            letters.all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte)),
            "{line:?}"
        );
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{line:?}");
    }
}

/// Looks for batches in the lines of a log. With a key, none is found: nobody guesses an
/// authentication code.
pub fn log(log: &[u8]) {
    let key =
        ReplayKey::new("a secret of more than thirty-two characters").expect("it is long enough");
    let key = Trust::Key(key);
    let mut joiner = Joiner::default();
    for line in log.split(|byte| *byte == b'\n') {
        if let Ok(Some(line)) = find_batch(line, &Trust::Unauthenticated) {
            let _ = joiner.push(line.part);
        }
        assert!(
            !matches!(find_batch(line, &key), Ok(Some(_))),
            "a forged line is taken"
        );
    }
}

/// Reads the headers of a request. Nobody guesses a token.
pub fn headers(headers: &[(u8, Vec<u8>)]) {
    const NAMES: [HeaderName; 5] = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::IF_NONE_MATCH,
        header::AUTHORIZATION,
        HeaderName::from_static("x-prometheus-scrape-timeout-seconds"),
    ];
    let headers: HeaderMap = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = NAMES[usize::from(*name) % NAMES.len()].clone();
            Some((name, HeaderValue::from_bytes(value).ok()?))
        })
        .collect();
    let _ = negotiate::format(&headers);
    let _ = negotiate::prefers_gzip(&headers);
    let _ = negotiate::is_cached(&headers, "\"tag\"");
    assert!(negotiate::scrape_timeout(&headers).is_none_or(|time| !time.is_zero()));
    assert!(!Auth::of_token("7c4a8d09ca3762af61e59520943dc26494f8941b").allows(&headers));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_store_is_read() {
        let state = |cells: &[(&str, &str)]| {
            let cells = cells
                .iter()
                .map(|(field, value)| (field.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect();
            (vec![(vec![0], Vec::new())], vec![cells], Vec::new())
        };
        store([
            state(&[("x=\"1\"", "7"), ("\n# TYPE", "1")]),
            state(&[("x=\"1\"", "3"), ("y", "-1")]),
        ]);
    }

    #[test]
    fn hostile_lines_and_headers_are_read() {
        log(b"{\"event\":\"batch_not_stored\"}\n\xff");
        headers(&[(0, b"text/plain;q=x".to_vec()), (3, b"Bearer x".to_vec())]);
    }
}
