//! What a request wants: which format
//! ([RFC 9110, section 12](https://www.rfc-editor.org/rfc/rfc9110#section-12)),
//! compressed or not, and in what time. Whoever wants nothing that there is gets
//! the text format: a 406 would help nobody.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use functional_scaffold_protocol::exposition::Format;

/// How long Prometheus waits for a scrape, in seconds.
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// The format that `Accept` prefers; the text format where it has no preference.
#[must_use]
pub fn format(headers: &HeaderMap) -> Format {
    let elements: Vec<_> = elements(headers, &header::ACCEPT).collect();
    let quality = |kind: &str, subtype: &str, version: &str| {
        quality(&elements, |element| {
            let (wanted, wanted_subtype) = element.name.split_once('/')?;
            let same = |left: &str, right: &str| left.eq_ignore_ascii_case(right);
            let other_version = element
                .parameters()
                .any(|(name, value)| same(name, "version") && value != version);
            match () {
                () if same(wanted, kind) && same(wanted_subtype, subtype) => {
                    (!other_version).then_some(2)
                }
                () if same(wanted, kind) && wanted_subtype == "*" => Some(1),
                () => (element.name == "*/*").then_some(0),
            }
        })
    };
    let open_metrics = quality("application", "openmetrics-text", "1.0.0");
    let text = quality("text", "plain", "0.0.4");
    if open_metrics > text {
        Format::OpenMetrics
    } else {
        Format::Text
    }
}

/// Whether `Accept-Encoding` prefers gzip.
#[must_use]
pub fn gzip(headers: &HeaderMap) -> bool {
    let elements: Vec<_> = elements(headers, &header::ACCEPT_ENCODING).collect();
    let quality = |coding: &str| {
        quality(&elements, |element| {
            if element.name.eq_ignore_ascii_case(coding) {
                Some(1)
            } else {
                (element.name == "*").then_some(0)
            }
        })
    };
    quality("gzip") > 0.0 && quality("gzip") >= quality("identity")
}

/// Whether the client has the content of this entity tag: `If-None-Match`, by the
/// weak comparison.
#[must_use]
pub fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    elements(headers, &header::IF_NONE_MATCH)
        .any(|element| element.name == "*" || element.name.trim_start_matches("W/") == etag)
}

/// How long the scrape is waited for, if it says so.
#[must_use]
pub fn scrape_timeout(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(SCRAPE_TIMEOUT)?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|limit| !limit.is_zero())
}

/// One element of such a header.
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

    /// From 0, not acceptable, to 1; nothing if it is no such number.
    fn quality(&self) -> Option<f32> {
        let given = self
            .parameters()
            .find(|(name, _)| name.eq_ignore_ascii_case("q"));
        let quality = given.map_or(Ok(1.0), |(_, value)| value.parse::<f32>());
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

/// The quality that the most specific element gives, 0 if none matches;
/// `specific` says how much one that does is. The first of two alike holds.
fn quality(elements: &[Element], specific: impl Fn(&Element) -> Option<u8>) -> f32 {
    let matching = elements
        .iter()
        .filter_map(|element| Some((specific(element)?, element.quality()?)));
    let best = matching.rev().max_by_key(|(specific, _)| *specific);
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
    fn the_format_is_what_is_preferred_of_what_there_is() {
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
    fn gzip_is_for_those_who_want_it() {
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
            assert_eq!(super::gzip(&headers), gzip, "{accept:?}");
        }
    }

    #[test]
    fn content_is_known_by_any_of_its_tags() {
        for (known, is_known) in [
            (&[][..], false),
            (&[r#""a""#], true),
            (&[r#"W/"a""#], true),
            (&[r#""b", "a""#], true),
            (&[r#""b""#, r#""a""#], true),
            (&["*"], true),
            (&[r#""ab""#], false),
            (&["a"], false),
        ] {
            let headers = headers(header::IF_NONE_MATCH, known);
            assert_eq!(super::is_known(&headers, r#""a""#), is_known, "{known:?}");
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
