//! Tests of the exposition against texts. The exporter's tests check it with other
//! parsers.

use proptest::prelude::*;

use super::*;

fn family(name: &str, kind: Kind) -> Family {
    Family {
        name: name.into(),
        kind,
        help: String::new(),
        unit: String::new(),
        key: "k".into(),
        bounds: match kind {
            Kind::Histogram => vec![0.5, 1.0],
            Kind::Counter | Kind::Gauge => Vec::new(),
        },
        scale: 1,
    }
}

fn values(family: Family, values: &[(&str, i64)]) -> FamilySeries {
    let values = values.iter().map(|&(labels, value)| (labels.into(), value));
    FamilySeries {
        family,
        series: Series::Values(values.collect()),
    }
}

fn histogram(family: Family, buckets: &[u64], sum: i128) -> FamilySeries {
    let histogram = Histogram {
        buckets: buckets.into(),
        sum,
    };
    FamilySeries {
        family,
        series: Series::Histograms(vec![("a=\"x\"".into(), histogram)]),
    }
}

fn check(families: &[FamilySeries], text: &str, open_metrics: &str) {
    assert_eq!(expose(Format::Text, families), text);
    assert_eq!(expose(Format::OpenMetrics, families), open_metrics);
}

#[test]
fn writes_a_counter() {
    let jobs = Family {
        help: "a \\ \"and\"\na line".into(),
        ..family("jobs_total", Kind::Counter)
    };
    check(
        &[values(jobs, &[("", 1), ("a=\"x\"", 20)])],
        "# HELP jobs_total a \\\\ \"and\"\\na line\n# TYPE jobs_total counter\n\
         jobs_total 1\njobs_total{a=\"x\"} 20\n",
        "# HELP jobs a \\\\ \\\"and\\\"\\na line\n# TYPE jobs counter\n\
         jobs_total 1\njobs_total{a=\"x\"} 20\n# EOF\n",
    );
}

#[test]
fn writes_a_histogram_with_cumulative_buckets() {
    let scaled = Family {
        scale: 1000,
        ..family("f", Kind::Histogram)
    };
    let text = "# TYPE f histogram\n\
        f_bucket{a=\"x\",le=\"0.5\"} 1\n\
        f_bucket{a=\"x\",le=\"1.0\"} 3\n\
        f_bucket{a=\"x\",le=\"+Inf\"} 7\n\
        f_sum{a=\"x\"} 12.345\n\
        f_count{a=\"x\"} 7\n";
    check(
        &[histogram(scaled, &[1, 2, 4], 12_345)],
        text,
        &format!("{text}# EOF\n"),
    );
}

#[test]
fn a_unit_is_written_if_the_name_ends_in_it() {
    let of = |format, name: &str, kind, unit: &str| {
        let family = Family {
            unit: unit.into(),
            ..family(name, kind)
        };
        expose(format, &[values(family, &[])])
    };
    for (name, kind, unit, line) in [
        (
            "a_seconds",
            Kind::Gauge,
            "seconds",
            Some("# UNIT a_seconds seconds\n"),
        ),
        (
            "a_seconds_total",
            Kind::Counter,
            "seconds",
            Some("# UNIT a_seconds seconds\n"),
        ),
        ("a", Kind::Gauge, "seconds", None),
        ("aseconds", Kind::Gauge, "seconds", None),
        ("seconds", Kind::Gauge, "seconds", None),
        ("a_", Kind::Gauge, "", None),
        ("a_seconds", Kind::Gauge, "a seconds\n", None),
    ] {
        let text = of(Format::OpenMetrics, name, kind, unit);
        assert_eq!(
            text.lines().find(|line| line.starts_with("# UNIT")),
            line.map(str::trim_end)
        );
    }
    assert!(!of(Format::Text, "a_seconds", Kind::Gauge, "seconds").contains("UNIT"));
}

#[test]
fn a_counter_that_cannot_be_one_in_open_metrics_is_of_unknown_type() {
    let types = |families: &[(&str, Kind)]| {
        let families: Vec<_> = families
            .iter()
            .map(|&(name, kind)| values(family(name, kind), &[]))
            .collect();
        let text = expose(Format::OpenMetrics, &families);
        let types: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(str::to_owned)
            .collect();
        types
    };
    use Kind::{Counter, Gauge, Histogram};
    for (families, expected) in [
        (vec![("x", Counter)], vec!["x unknown"]),
        (vec![("x_total", Gauge)], vec!["x_total gauge"]),
        (
            vec![("x", Gauge), ("x_total", Counter)],
            vec!["x gauge", "x_total unknown"],
        ),
        (
            vec![("x_total", Counter), ("x", Gauge)],
            vec!["x_total unknown", "x gauge"],
        ),
        (
            vec![("x_created", Gauge), ("x_total", Counter)],
            vec!["x_created gauge", "x_total unknown"],
        ),
        (
            vec![("x", Histogram), ("x_sum_total", Counter)],
            vec!["x histogram", "x_sum_total unknown"],
        ),
        (
            vec![("x_created_total", Counter), ("x_total", Counter)],
            vec!["x_created counter", "x_total unknown"],
        ),
        (
            vec![("x_total", Counter), ("x_total_total", Counter)],
            vec!["x counter", "x_total_total unknown"],
        ),
    ] {
        assert_eq!(types(&families), expected, "{families:?}");
    }
}

#[test]
fn open_metrics_has_no_sum_that_may_shrink() {
    let below_zero = Family {
        bounds: vec![-1.0, 1.0],
        ..family("f", Kind::Histogram)
    };
    for family in [
        histogram(below_zero, &[1, 2, 4], 5),
        histogram(family("f", Kind::Histogram), &[1, 2, 4], -5),
    ] {
        let families = [family];
        assert!(expose(Format::Text, &families).contains("f_sum"));
        let text = expose(Format::OpenMetrics, &families);
        assert!(
            !text.contains("f_sum") && !text.contains("f_count"),
            "{text}"
        );
        assert!(text.contains("f_bucket{a=\"x\",le=\"+Inf\"} 7\n"), "{text}");
    }
}

#[test]
fn decimals_are_exact() {
    for (value, scale, text) in [
        (0, 1_000_000_000, "0"),
        (1, 1_000_000_000, "0.000000001"),
        (-1_500_000_000, 1_000_000_000, "-1.5"),
        (-1, 10, "-0.1"),
        (20_000_000_000, 1_000_000_000, "20"),
        (
            i128::from(i64::MAX) * 3,
            1_000_000_000,
            "27670116110.564327421",
        ),
        (i128::from(i64::MAX) + 1, 1, "9223372036854775808"),
        (1, 3, "0.3333333333333333"),
        (7, 1, "7"),
    ] {
        let mut out = String::new();
        write_decimal(&mut out, value, scale);
        assert_eq!(out, text);
    }
}

#[test]
fn bounds_are_written_as_go_writes_them() {
    for (bound, text) in [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (-1.0, "-1.0"),
        (0.25, "0.25"),
        (0.0001, "0.0001"),
        (0.00005, "5e-05"),
        (0.000_012_5, "1.25e-05"),
        (123_456.0, "123456.0"),
        (1e6, "1e+06"),
        (1_234_567.5, "1.2345675e+06"),
        (1e10, "1e+10"),
        (1e-100, "1e-100"),
    ] {
        assert_eq!(le_value(bound), text);
    }
}

proptest! {
    #[test]
    fn every_line_is_a_comment_or_a_sample(help: String, numbers in prop::collection::vec(any::<i64>(), 0..4)) {
        let series = numbers.iter().enumerate().map(|(n, &value)| (format!("a=\"{n}\"").into(), value)).collect();
        let family = Family { help, scale: 1000, ..family("f", Kind::Gauge) };
        let families = [FamilySeries { family, series: Series::Values(series) }];
        for format in [Format::Text, Format::OpenMetrics] {
            let text = expose(format, &families);
            prop_assert!(text.ends_with('\n'));
            for line in text.lines().filter(|line| !line.starts_with("# ")) {
                let (_, value) = line.rsplit_once(' ').ok_or_else(|| TestCaseError::fail(line.to_owned()))?;
                prop_assert!(value.parse::<f64>().is_ok(), "{}", line);
            }
        }
    }

    #[test]
    fn bounds_parse_back(bound in prop::num::f64::NORMAL) {
        prop_assert_eq!(le_value(bound).parse::<f64>(), Ok(bound));
    }
}

#[test]
fn open_metrics_tells_when_counters_and_histograms_began() {
    let write = |format, series: FamilySeries| {
        let since = |labels: &str| (labels != "a=\"2\"").then_some(1_753_000_000_250);
        let mut exposition = Exposition::begin(format, [&series.family], 0);
        exposition.write_family_since(&series, since);
        let text = exposition.finish();
        let lines = text.lines().filter(|line| line.contains("_created"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let counter = |name| {
        let series = [("a=\"1\"", 2), ("a=\"2\"", 3)];
        values(family(name, Kind::Counter), &series)
    };
    let gauge = values(family("x", Kind::Gauge), &[("", 2)]);
    let histogram = histogram(family("x", Kind::Histogram), &[1, 2, 3], 4);
    let began = ["x_created{a=\"1\"} 1753000000.25"];
    assert_eq!(write(Format::OpenMetrics, counter("x_total")), began);
    // OpenMetrics does not know it as a counter.
    assert!(write(Format::OpenMetrics, counter("x")).is_empty());
    assert!(write(Format::OpenMetrics, gauge).is_empty());
    let began = ["x_created{a=\"x\"} 1753000000.25"];
    assert_eq!(write(Format::OpenMetrics, histogram.clone()), began);
    for series in [counter("x_total"), histogram] {
        assert!(write(Format::Text, series).is_empty());
    }
}
