//! The totals that one writer keeps itself, put together as families: what is
//! pushed to a Pushgateway, or scraped from the writer. Owns neither counting nor
//! the formats.

use thiserror::Error;

use crate::{
    batch::Batch,
    cell::CellError,
    family::Family,
    series::{FamilySeries, SeriesReader},
};

/// Why totals are not those of the families.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TotalsError {
    /// A key belongs to none of the families.
    #[error("no family has the key {0:?}")]
    UnknownKey(String),
    /// A cell is none of its family's.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// The families that `totals` has cells of, in the order of `families`.
///
/// # Errors
/// See [`TotalsError`].
pub fn families_of_totals(
    families: &[&Family],
    totals: &Batch,
) -> Result<Vec<FamilySeries>, TotalsError> {
    if let Some((key, _)) = totals
        .hashes()
        .find(|(key, _)| families.iter().all(|family| family.key != *key))
    {
        return Err(TotalsError::UnknownKey(key.to_owned()));
    }
    let mut found = Vec::with_capacity(families.len());
    for &family in families {
        let Some((_, cells)) = totals.hashes().find(|(key, _)| *key == family.key) else {
            continue;
        };
        let mut series = SeriesReader::new(family.clone());
        for (field, value) in cells {
            series.push(field.as_bytes(), value.to_string().as_bytes())?;
        }
        found.push(series.finish());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::Catalog,
        event::{Execution, ExecutionStatus},
        exposition::{Format, expose},
    };

    #[test]
    fn totals_are_exposed_as_their_families() {
        let catalog = Catalog::new("m:");
        let mut totals = Batch::default();
        for (key, field) in catalog.zero_cells("a", &[]) {
            totals.inc(key, &field, 0);
        }
        for duration_nanos in [40_000, 60_000] {
            let execution = Execution {
                algorithm: "a",
                status: ExecutionStatus::Success,
                duration_nanos,
            };
            catalog.record_execution(&mut totals, &execution);
        }
        let families = families_of_totals(&catalog.families(), &totals);
        let text = expose(Format::Text, &families.expect("they are the catalog's"));
        for line in [
            "algorithm_executions_total{algorithm=\"a\",status=\"success\"} 2\n",
            "algorithm_executions_total{algorithm=\"a\",status=\"crashed\"} 0\n",
            "algorithm_execution_duration_seconds_bucket{algorithm=\"a\",le=\"5e-05\"} 1\n",
            "algorithm_execution_duration_seconds_bucket{algorithm=\"a\",le=\"+Inf\"} 2\n",
            "algorithm_execution_duration_seconds_sum{algorithm=\"a\"} 0.0001\n",
            "algorithm_execution_duration_seconds_count{algorithm=\"a\"} 2\n",
        ] {
            assert!(text.contains(line), "{line}is not in\n{text}");
        }
        assert!(!text.contains("http_request_duration"), "it has no cell");
    }

    #[test]
    fn cells_of_nobody_are_refused() {
        let catalog = Catalog::new("m:");
        let refused = |key: &str, field: &str| {
            let mut totals = Batch::default();
            totals.inc(key, field, 1);
            families_of_totals(&catalog.families(), &totals).expect_err("it is none of ours")
        };
        assert_eq!(
            refused("n:request_counter", ""),
            TotalsError::UnknownKey("n:request_counter".into())
        );
        assert!(matches!(
            refused("m:request_latency", "|7"),
            TotalsError::Cell(CellError::UnknownBucket(_))
        ));
    }
}
