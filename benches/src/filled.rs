//! A Redis filled with series, as a service with many algorithms has them, and
//! whether a scrape shows all of them.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::Batch,
    calls::{DEFAULT_PREFIX, Registration, Script, register_call},
    catalog::{
        Catalog, ExecutionStatus, FinishedExecution, FinishedRequest, LATENCY_BOUNDS_NANOS,
        RequestLabels,
    },
    exposition::{Format, expose},
    series::families_of_totals,
};

use crate::instance::{algorithm_name, endpoint};

/// What of an algorithm there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Everything, every bucket of its histograms included.
    Service,
    /// Its requests alone: all in one hash, which has to be read page after page.
    OneHash,
}

impl Shape {
    /// How many series an algorithm has.
    pub(crate) fn series_of_an_algorithm(self) -> u64 {
        match self {
            Self::Service => 50,
            Self::OneHash => 3,
        }
    }
}

/// Fields that a page has: the exporter's default.
const SCAN_COUNT: u32 = 500;

/// What a store was filled with.
pub(crate) struct Filled {
    connection: redis::Connection,
    keys: Vec<String>,
    /// How many fields the hashes have.
    cells: usize,
    /// Each sample's value, by its name and labels.
    samples: HashMap<String, f64>,
}

impl Filled {
    /// Fills the store with the series of so many algorithms.
    ///
    /// # Errors
    /// Redis's own.
    pub(crate) fn fill(port: u16, shape: Shape, algorithms: u64) -> anyhow::Result<Self> {
        let catalog = Catalog::new(DEFAULT_PREFIX);
        let totals = totals(&catalog, shape, algorithms);
        let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection()?;
        let families = catalog.families();
        let named = families.map(|family| (family.name.as_str(), family));
        let call = register_call(DEFAULT_PREFIX, 1, &Registration::new(named, &[]));
        let mut register = redis::cmd("EVAL");
        register.arg(Script::REGISTER.source);
        for part in call.parts() {
            register.arg(part);
        }
        register.exec(&mut connection)?;
        for (key, fields) in totals.hashes() {
            let fields: Vec<_> = fields.iter().collect();
            for some in fields.chunks(1000) {
                redis::cmd("HSET")
                    .arg(key)
                    .arg(some)
                    .exec(&mut connection)?;
            }
        }
        let exposed = expose(Format::Text, &families_of_totals(&families, &totals)?);
        let samples: anyhow::Result<HashMap<_, _>> = samples(&exposed).collect();
        Ok(Self {
            connection,
            cells: totals.len(),
            keys: totals.hashes().map(|(key, _)| key.to_owned()).collect(),
            samples: samples?,
        })
    }

    /// How many series there are.
    pub(crate) fn series(&self) -> usize {
        self.samples.len()
    }

    /// Whether an exposition has each series once, with its value, and no other
    /// but what an exporter says of itself.
    ///
    /// # Errors
    /// It has not.
    pub(crate) fn check(&self, exposition: &str) -> anyhow::Result<()> {
        let mut seen = 0;
        for sample in samples(exposition) {
            let (name, value) = sample?;
            let expected = self.samples.get(&name);
            ensure!(
                expected == Some(&value),
                "a scrape has {name} {value}, stored is {expected:?}"
            );
            seen += 1;
        }
        ensure!(
            seen == self.series(),
            "a scrape has {seen} series of {}",
            self.series()
        );
        Ok(())
    }

    /// Reads every hash page by page, the next page of each at once, and throws
    /// it away.
    ///
    /// # Errors
    /// Redis's own, or not every cell was read.
    pub(crate) fn read_and_discard(&mut self) -> anyhow::Result<()> {
        let mut cells = 0;
        let mut left: Vec<(&String, Vec<u8>)> =
            self.keys.iter().map(|key| (key, b"0".to_vec())).collect();
        while !left.is_empty() {
            let mut pages = redis::pipe();
            for (key, cursor) in &left {
                let page = pages.cmd("HSCAN").arg(*key).arg(cursor);
                page.arg("COUNT").arg(SCAN_COUNT);
            }
            let pages: Vec<(Vec<u8>, redis::Value)> = pages.query(&mut self.connection)?;
            for ((_, at), (cursor, discarded)) in left.iter_mut().zip(pages) {
                *at = cursor;
                cells += discarded.as_sequence().map_or(0, <[_]>::len) / 2;
            }
            left.retain(|(_, cursor)| cursor != b"0");
        }
        // One may come twice.
        ensure!(cells >= self.cells, "{cells} cells of {}", self.cells);
        Ok(())
    }
}

/// Totals in which every bucket has been counted in, and no value is another's.
fn totals(catalog: &Catalog, shape: Shape, algorithms: u64) -> Batch {
    let requests = &catalog.families()[0].key;
    let mut totals = Batch::default();
    for number in 0..algorithms {
        let (name, endpoint) = (algorithm_name(number), endpoint(number));
        let mut own = Batch::default();
        for (key, field) in catalog.zero_cells(&name, &[&endpoint]) {
            own.inc(key, &field, 0);
        }
        let beyond = LATENCY_BOUNDS_NANOS.last().map(|last| last + 1);
        for duration_nanos in LATENCY_BOUNDS_NANOS.into_iter().chain(beyond) {
            for code in [200, 422] {
                let request = FinishedRequest {
                    labels: RequestLabels::new("POST", &endpoint, code),
                    duration_nanos,
                };
                catalog.record_request(&mut own, &request);
            }
            let execution = FinishedExecution {
                algorithm: &name,
                status: ExecutionStatus::Success,
                duration_nanos,
            };
            catalog.record_execution(&mut own, &execution);
        }
        let is_there = |key: &str| shape == Shape::Service || key == requests;
        let cells = own.cells().filter(|(key, _, _)| is_there(key));
        for (place, (key, field, by)) in (1..).zip(cells) {
            totals.inc(key, field, by + 1000 * number + place);
        }
    }
    totals
}

/// How many samples an exposition has, without what an exporter adds.
pub(crate) fn count_samples(exposition: &str) -> usize {
    lines(exposition).count()
}

/// The samples of an exposition: name with sorted labels, and value.
fn samples(exposition: &str) -> impl Iterator<Item = anyhow::Result<(String, f64)>> {
    lines(exposition).map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")))
}

/// The lines of samples, without what an exporter adds: of itself, and the
/// executions in flight.
fn lines(exposition: &str) -> impl Iterator<Item = &str> {
    let others = [
        "#",
        "functional_scaffold_",
        "algorithm_executions_in_flight",
    ];
    exposition
        .lines()
        .filter(move |line| !others.iter().any(|other| line.starts_with(other)))
}

/// Of labels as they are here: no value has a comma or a brace.
fn sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = name.split_once('{') else {
        return Some((name.to_owned(), value));
    };
    let mut labels: Vec<&str> = labels.strip_suffix('}')?.split(',').collect();
    labels.sort_unstable();
    Some((format!("{name}{{{}}}", labels.join(",")), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_compared_by_name_labels_and_value() {
        let text = "# TYPE a counter\na{x=\"1\",le=\"2.0\"} 3\nfunctional_scaffold_up 1\nb 5e-05\n";
        let samples: anyhow::Result<Vec<_>> = samples(text).collect();
        let expected = [
            ("a{le=\"2.0\",x=\"1\"}".to_owned(), 3.0),
            ("b".to_owned(), 0.000_05),
        ];
        assert_eq!(samples.expect("samples"), expected);
    }

    #[test]
    fn an_algorithm_has_as_many_series_as_is_said() {
        let catalog = Catalog::new(DEFAULT_PREFIX);
        let count = |shape, algorithms| {
            let totals = totals(&catalog, shape, algorithms);
            let families = families_of_totals(&catalog.families(), &totals);
            let text = expose(Format::Text, &families.expect("the catalog's"));
            u64::try_from(count_samples(&text)).expect("few")
        };
        for shape in [Shape::Service, Shape::OneHash] {
            let more = count(shape, 3) - count(shape, 2);
            assert_eq!(more, shape.series_of_an_algorithm(), "{shape:?}");
        }
    }
}
