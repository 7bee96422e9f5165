//! Content negotiation ([RFC 9110, section 12]): format, compression, entity tags,
//! and the client's time-out. Falls back to the text format instead of responding 406.
//!
//! `Accept` is matched here and not by the crate `headers-accept`, which rejects a range
//! with a parameter that the format lacks. Prometheus sends such a one, `escaping`.
//!
//! [RFC 9110, section 12]: https://www.rfc-editor.org/rfc/rfc9110#section-12

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use functional_scaffold_protocol::exposition::Format;

/// The time-out of the scrape in seconds, as Prometheus sends it.
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// The format that `Accept` prefers, or the text format.
pub(crate) fn format(headers: &HeaderMap) -> Format {
    let elements: Vec<_> = elements(headers, &header::ACCEPT).collect();
    let quality_of = |kind: &str, subtype: &str, version: &str| {
        quality(&elements, |element| {
            let (range, range_subtype) = element.name.split_once('/')?;
            let same = |left: &str, right: &str| left.eq_ignore_ascii_case(right);
            let other_version = element
                .parameters()
                .any(|(name, value)| same(name, "version") && value != version);
            match () {
                () if same(range, kind) && same(range_subtype, subtype) => {
                    (!other_version).then_some(2)
                }
                () if same(range, kind) && range_subtype == "*" => Some(1),
                () => (element.name == "*/*").then_some(0),
            }
        })
    };
    let open_metrics = quality_of("application", "openmetrics-text", "1.0.0");
    if open_metrics > quality_of("text", "plain", "0.0.4") {
        Format::OpenMetrics
    } else {
        Format::Text
    }
}

/// Returns whether `Accept-Encoding` prefers gzip to no compression.
pub(crate) fn prefers_gzip(headers: &HeaderMap) -> bool {
    let elements: Vec<_> = elements(headers, &header::ACCEPT_ENCODING).collect();
    let quality_of = |coding: &str| {
        quality(&elements, |element| {
            if element.name.eq_ignore_ascii_case(coding) {
                Some(1)
            } else {
                (element.name == "*").then_some(0)
            }
        })
    };
    let gzip = quality_of("gzip");
    gzip > 0.0 && gzip >= quality_of("identity")
}

/// Returns whether `If-None-Match` has this entity tag, by the weak comparison.
pub(crate) fn is_cached(headers: &HeaderMap, etag: &str) -> bool {
    elements(headers, &header::IF_NONE_MATCH)
        .any(|element| element.name == "*" || element.name.trim_start_matches("W/") == etag)
}

/// The client's time-out for the scrape, if it sends one.
pub(crate) fn scrape_timeout(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(SCRAPE_TIMEOUT)?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|timeout| !timeout.is_zero())
}

/// One element of a header that is a list.
struct Element<'a> {
    name: &'a str,
    parameters: &'a str,
}

impl Element<'_> {
    fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters
            .split(';')
            .filter_map(|parameter| parameter.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
    }

    /// The parameter `q`, from 0 (not acceptable) to 1; None if it is invalid.
    fn quality(&self) -> Option<f32> {
        let q = self
            .parameters()
            .find(|(name, _)| name.eq_ignore_ascii_case("q"));
        let quality = q.map_or(Ok(1.0), |(_, value)| value.parse::<f32>());
        quality.ok().filter(|quality| (0.0..=1.0).contains(quality))
    }
}

fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Element<'a>> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|element| {
            let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
            Element {
                name: name.trim(),
                parameters,
            }
        })
}

/// The quality of the most specific element that matches, the first of several, or 0.
/// `specificity` is None for an element that does not match.
fn quality(elements: &[Element], specificity: impl Fn(&Element) -> Option<u8>) -> f32 {
    let matching = elements
        .iter()
        .filter_map(|element| Some((specificity(element)?, element.quality()?)));
    let best = matching.rev().max_by_key(|(specificity, _)| *specificity);
    best.map_or(0.0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let values = values.iter().copied().map(HeaderValue::from_static);
        values.map(|value| (name.clone(), value)).collect()
    }

    #[test]
    fn the_preferred_format_is_chosen() {
        use Format::{OpenMetrics, Text};
        for (accept, format) in [
            (&[][..], Text),
            (&[""], Text),
            (&["*/*"], Text),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Text),
            (&["application/json"], Text),
            // Prometheus 2.42, then 3.0.
            (
                &[
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (
                &[
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (
                &[
                    "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4",
                ],
                Text,
            ),
            (&["application/openmetrics-text"], OpenMetrics),
            (
                &["Application/OpenMetrics-Text; Version=\"1.0.0\""],
                OpenMetrics,
            ),
            (&["application/openmetrics-text; version=0.0.1"], Text),
            (
                &["application/openmetrics-text; version=2.0.0, */*;q=0.1"],
                Text,
            ),
            (&["application/*"], OpenMetrics),
            (&["application/*, text/plain"], Text),
            (
                &["application/openmetrics-text;q=0, application/*;q=0.9"],
                Text,
            ),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=x"], Text),
            (&["application/openmetrics-text;q=7"], Text),
            (
                &["text/plain;q=0.1", "application/openmetrics-text;q=0.2"],
                OpenMetrics,
            ),
            (
                &["text/*;q=0.3, application/openmetrics-text ; q=0.4"],
                OpenMetrics,
            ),
            (&["text/plain;q=0, */*"], OpenMetrics),
        ] {
            assert_eq!(
                super::format(&headers(header::ACCEPT, accept)),
                format,
                "{accept:?}"
            );
        }
    }

    #[test]
    fn gzip_is_chosen_if_it_is_preferred() {
        for (accept, gzip) in [
            (&[][..], false),
            (&["gzip"], true),
            (&["deflate, GZIP;q=0.5"], true),
            (&["br", "gzip"], true),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["*, gzip;q=0"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.5, identity"], false),
            (&["identity;q=0.5, gzip"], true),
            (&["br, deflate"], false),
            (&["gzipped"], false),
        ] {
            let headers = headers(header::ACCEPT_ENCODING, accept);
            assert_eq!(prefers_gzip(&headers), gzip, "{accept:?}");
        }
    }

    #[test]
    fn content_is_cached_under_any_of_the_tags() {
        for (tags, expected) in [
            (&[][..], false),
            (&[r#""a""#], true),
            (&[r#"W/"a""#], true),
            (&[r#""b", "a""#], true),
            (&[r#""b""#, r#""a""#], true),
            (&["*"], true),
            (&[r#""ab""#], false),
            (&["a"], false),
        ] {
            let headers = headers(header::IF_NONE_MATCH, tags);
            assert_eq!(is_cached(&headers, r#""a""#), expected, "{tags:?}");
        }
    }

    #[test]
    fn a_time_out_is_a_positive_number_of_seconds() {
        for (value, millis) in [
            ("10", Some(10_000)),
            ("0.5", Some(500)),
            ("0", None),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("1e300", None),
            ("ten", None),
        ] {
            let headers = headers(SCRAPE_TIMEOUT, &[value]);
            let expected = millis.map(Duration::from_millis);
            assert_eq!(scrape_timeout(&headers), expected, "{value}");
        }
    }
}
