//! One field of a metric hash and its integer: `<labels>` of a counter or gauge,
//! `<labels>|set_ms` of a gauge, and `<labels>|<le>`, `<labels>|sum` and
//! `<labels>|sum_carry` of a histogram.

use std::fmt::Write as _;

use thiserror::Error;

use crate::{
    family::{Family, Kind},
    labels::{LabelsError, check_labels},
};

/// One unit of `sum_carry` in units of `sum`: 2^62. The carry keeps the sum below
/// 2^63, where Redis integers end.
pub const CARRY: i64 = 1 << 62;

const SEPARATOR: char = '|';
const SUM: &str = "sum";
const SUM_CARRY: &str = "sum_carry";
const SET_MS: &str = "set_ms";

/// A field of a family's hash. `labels` is in exposition syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The value of a counter or gauge.
    Value {
        /// The series.
        labels: &'a str,
    },
    /// The lease time at which a gauge was set last. It is not served.
    SetTime {
        /// The series.
        labels: &'a str,
    },
    /// The number of observations in one bucket of a histogram, not cumulative.
    Bucket {
        /// The series.
        labels: &'a str,
        /// The index of the bucket's bound; the number of bounds for `+Inf`.
        position: usize,
    },
    /// The sum of a histogram's observations, less the carry.
    Sum {
        /// The series.
        labels: &'a str,
    },
    /// The number of times that [`CARRY`] was subtracted from the sum.
    SumCarry {
        /// The series.
        labels: &'a str,
    },
}

impl<'a> Cell<'a> {
    /// The label set of the cell's series.
    #[must_use]
    pub fn labels(&self) -> &'a str {
        match *self {
            Self::Value { labels }
            | Self::SetTime { labels }
            | Self::Bucket { labels, .. }
            | Self::Sum { labels }
            | Self::SumCarry { labels } => labels,
        }
    }
}

/// Why a field or its value cannot be served.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CellError {
    /// The field is not UTF-8.
    #[error("field is not UTF-8: {0:?}")]
    NotUtf8(String),
    /// The label set is not canonical.
    #[error("field {field:?}: {error}")]
    Labels {
        /// The whole field.
        field: String,
        /// The label set's error.
        #[source]
        error: LabelsError,
    },
    /// The field of a histogram has no `|`.
    #[error("field {0:?} names no bucket or sum")]
    NoSuffix(String),
    /// The family has no such bucket.
    #[error("field {0:?} names a bucket that the family does not have")]
    UnknownBucket(String),
    /// The value is not a 64-bit integer.
    #[error("value {0:?} is not a 64-bit integer")]
    Value(String),
    /// The value is negative, and its cell only counts up.
    #[error("value {0} is negative")]
    Negative(i64),
}

impl CellError {
    /// The error's class, for a label: one of four.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotUtf8(_) => "not_utf8",
            Self::Labels { .. } => "labels",
            Self::NoSuffix(_) | Self::UnknownBucket(_) => "bucket",
            Self::Value(_) | Self::Negative(_) => "value",
        }
    }
}

/// Writes a bound as it stands in fields: the shortest decimal without an exponent
/// that parses as the same float.
#[must_use]
pub fn le_of_bound(bound: f64) -> String {
    let mut le = String::new();
    // Writing to a String cannot fail.
    let _ = write!(le, "{bound}");
    le
}

/// Turns a label set into the field of a bucket.
pub(crate) fn push_bucket(labels: &mut String, le: &str) {
    labels.push(SEPARATOR);
    labels.push_str(le);
}

/// Turns a label set into the field of a sum.
pub(crate) fn push_sum(labels: &mut String) {
    labels.push(SEPARATOR);
    labels.push_str(SUM);
}

/// The field of a bucket of a histogram. `le` is the text of its bound.
#[must_use]
pub fn bucket_field(labels: &str, le: &str) -> String {
    let mut field = labels.to_owned();
    push_bucket(&mut field, le);
    field
}

/// The field of a histogram's sum.
#[must_use]
pub fn sum_field(labels: &str) -> String {
    let mut field = labels.to_owned();
    push_sum(&mut field);
    field
}

/// Returns every field that a series of `family` may have: of a gauge its value and when
/// it was set, of a histogram its buckets in order up to `+Inf`, its sum, and the carry.
#[must_use]
pub fn fields_of_series(family: &Family, labels: &str) -> Vec<String> {
    match family.kind {
        Kind::Counter => return vec![labels.to_owned()],
        Kind::Gauge => return vec![labels.to_owned(), format!("{labels}{SEPARATOR}{SET_MS}")],
        Kind::Histogram => {}
    }
    let les = family.bounds.iter().map(|&le| le_of_bound(le));
    les.chain(["+Inf", SUM, SUM_CARRY].map(str::to_owned))
        .map(|suffix| format!("{labels}{SEPARATOR}{suffix}"))
        .collect()
}

/// Decodes a field of `family`'s hash.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::{
///     cell::{Cell, decode_field},
///     family::Family,
/// };
///
/// let json = br#"{"type":"histogram","key":"k","bounds":[0.00005,1]}"#;
/// let family = Family::decode("job_seconds", json).expect("the registration is valid");
/// let labels = r#"kind="nightly""#;
/// let field = format!("{labels}|5e-05");
/// let cell = decode_field(&family, field.as_bytes());
/// assert_eq!(cell, Ok(Cell::Bucket { labels, position: 0 }));
/// ```
///
/// # Errors
/// The field is invalid; nothing is repaired.
pub fn decode_field<'a>(family: &Family, field: &'a [u8]) -> Result<Cell<'a>, CellError> {
    let field = std::str::from_utf8(field)
        .map_err(|_source| CellError::NotUtf8(String::from_utf8_lossy(field).into_owned()))?;
    let check = |labels: &'a str| {
        check_labels(labels).map_err(|error| CellError::Labels {
            field: field.to_owned(),
            error,
        })
    };
    if family.kind != Kind::Histogram {
        let set_time = field.rsplit_once(SEPARATOR);
        let set_time = set_time.filter(|(_, suffix)| *suffix == SET_MS);
        if let (Kind::Gauge, Some((labels, _))) = (family.kind, set_time) {
            check(labels)?;
            return Ok(Cell::SetTime { labels });
        }
        check(field)?;
        return Ok(Cell::Value { labels: field });
    }
    // The last `|`, because a label value may hold one and a suffix never does.
    let (labels, suffix) = field
        .rsplit_once(SEPARATOR)
        .ok_or_else(|| CellError::NoSuffix(field.to_owned()))?;
    check(labels)?;
    match suffix {
        SUM => Ok(Cell::Sum { labels }),
        SUM_CARRY => Ok(Cell::SumCarry { labels }),
        le => bucket_position(&family.bounds, le)
            .map(|position| Cell::Bucket { labels, position })
            .ok_or_else(|| CellError::UnknownBucket(field.to_owned())),
    }
}

/// Decodes a cell's value: an integer as Redis's
/// [`INCR`](https://redis.io/docs/latest/commands/incr/) accepts it.
///
/// # Errors
/// [`CellError::Value`] with the text.
pub fn decode_value(value: &[u8]) -> Result<i64, CellError> {
    let canonical = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        text == "0" || (digits.starts_with(|first: char| matches!(first, '1'..='9')))
    };
    std::str::from_utf8(value)
        .ok()
        .filter(|text| canonical(text))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| CellError::Value(String::from_utf8_lossy(value).into_owned()))
}

fn bucket_position(bounds: &[f64], le: &str) -> Option<usize> {
    if le == "+Inf" {
        return Some(bounds.len());
    }
    // A component decodes only fields that it encoded, and the parser of floats would
    // be a thirtieth of it.
    if cfg!(target_family = "wasm") {
        return bounds.iter().position(|bound| le_of_bound(*bound) == le);
    }
    // As a number, because a writer in another language may print 5e-05.
    let le: f64 = le.parse().ok()?;
    bounds.binary_search_by(|bound| bound.total_cmp(&le)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{fixtures, labels::write_labels};

    fn family(kind: Kind) -> Family {
        let bounds: &[f64] = match kind {
            Kind::Histogram => &[0.00005, 0.1, 1.0, 10.0],
            Kind::Counter | Kind::Gauge => &[],
        };
        fixtures::family(kind, bounds)
    }

    #[test]
    fn decodes_every_kind_of_field() {
        let histogram = family(Kind::Histogram);
        for (field, cell) in [
            (
                "a=\"x|sum\"|sum",
                Cell::Sum {
                    labels: "a=\"x|sum\"",
                },
            ),
            ("|sum_carry", Cell::SumCarry { labels: "" }),
            (
                "|0.00005",
                Cell::Bucket {
                    labels: "",
                    position: 0,
                },
            ),
            (
                "|5e-05",
                Cell::Bucket {
                    labels: "",
                    position: 0,
                },
            ),
            (
                "|1.0",
                Cell::Bucket {
                    labels: "",
                    position: 2,
                },
            ),
            (
                "|+Inf",
                Cell::Bucket {
                    labels: "",
                    position: 4,
                },
            ),
        ] {
            assert_eq!(
                decode_field(&histogram, field.as_bytes()),
                Ok(cell),
                "{field}"
            );
        }
        assert_eq!(
            decode_field(&family(Kind::Counter), b"a=\"1\""),
            Ok(Cell::Value { labels: "a=\"1\"" })
        );
    }

    #[test]
    fn fields_of_a_series_decode_to_that_series() {
        for kind in [Kind::Counter, Kind::Histogram] {
            let family = family(kind);
            let fields = fields_of_series(&family, "a=\"1\"");
            for field in &fields {
                let cell = decode_field(&family, field.as_bytes()).expect("a field");
                assert_eq!(cell.labels(), "a=\"1\"");
            }
            let suffixes = usize::from(kind == Kind::Histogram) * 2;
            let buckets = if kind == Kind::Histogram { 5 } else { 1 };
            assert_eq!(fields.len(), buckets + suffixes);
        }
    }

    #[test]
    fn reports_every_kind_of_corruption() {
        for (kind, field, class) in [
            (Kind::Counter, &b"\xff"[..], "not_utf8"),
            (Kind::Counter, b"a", "labels"),
            (Kind::Counter, b"a=\"1\"|sum", "labels"),
            (Kind::Histogram, b"a=\"1\"", "bucket"),
            (Kind::Histogram, b"a=\"1\"|0.2", "bucket"),
            (Kind::Histogram, b"a=\"1\"|NaN", "bucket"),
            (Kind::Histogram, b"a=\"1\"|", "bucket"),
            (Kind::Histogram, b"a=1|sum", "labels"),
        ] {
            let error = decode_field(&family(kind), field).expect_err("it is corrupt");
            assert_eq!(error.class(), class, "{error}");
        }
    }

    #[test]
    fn values_are_integers_as_redis_prints_them() {
        for (text, value) in [
            ("0", 0),
            ("-1", -1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(decode_value(text.as_bytes()), Ok(value));
        }
        for text in [
            "",
            "-",
            "-0",
            "01",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "abc",
            "9223372036854775808",
            "\u{661}",
        ] {
            assert_eq!(
                decode_value(text.as_bytes()),
                Err(CellError::Value(text.to_owned())),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn fields_read_back(value in any::<String>(), position in 0_usize..=4) {
            let histogram = family(Kind::Histogram);
            let mut labels = String::new();
            write_labels(&mut labels, &[("a", &value)]);
            let mut field = labels.clone();
            let le = histogram.bounds.get(position).map_or("+Inf".to_owned(), |&bound| le_of_bound(bound));
            push_bucket(&mut field, &le);
            prop_assert_eq!(
                decode_field(&histogram, field.as_bytes()),
                Ok(Cell::Bucket { labels: &labels, position })
            );
        }

        #[test]
        fn values_read_back(value: i64) {
            prop_assert_eq!(decode_value(value.to_string().as_bytes()), Ok(value));
        }

        #[test]
        fn arbitrary_bytes_never_panic(field: Vec<u8>, value: Vec<u8>) {
            for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
                let _ = decode_field(&family(kind), &field);
            }
            let _ = decode_value(&value);
        }
    }
}
