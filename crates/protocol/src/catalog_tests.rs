//! Tests of the catalog.

use std::{fs, path::Path, time::Duration};

use super::*;

#[test]
fn records_a_request_as_one_count_one_bucket_and_one_sum() {
    let catalog = Catalog::new("metrics:");
    let mut batch = Batch::default();
    catalog.record_request(
        &mut batch,
        &FinishedRequest {
            labels: RequestLabels::new("POST", "/invoke", 200),
            duration_nanos: 50_000,
        },
    );
    let cells: Vec<_> = batch.cells().collect();
    assert_eq!(
        cells,
        [
            (
                "metrics:request_counter",
                "code=\"200\",endpoint=\"/invoke\",method=\"POST\",status=\"success\"",
                1
            ),
            (
                "metrics:request_latency",
                "endpoint=\"/invoke\",method=\"POST\"|0.00005",
                1
            ),
            (
                "metrics:request_latency",
                "endpoint=\"/invoke\",method=\"POST\"|sum",
                50_000
            ),
        ]
    );
}

#[test]
fn a_bound_is_inclusive_and_the_last_bucket_is_infinite() {
    let catalog = Catalog::new("m:");
    let mut les: Vec<_> = latency_bounds()
        .into_iter()
        .map(cell::le_of_bound)
        .collect();
    les.push("+Inf".to_owned());
    let mut expected = vec![(0, &les[0]), (u64::MAX, les.last().expect("+Inf"))];
    for (bound, les) in LATENCY_BOUNDS_NANOS.into_iter().zip(les.windows(2)) {
        expected.extend([(bound, &les[0]), (bound + 1, &les[1])]);
    }
    for (nanos, le) in expected {
        let mut batch = Batch::default();
        let execution = FinishedExecution {
            algorithm: "a",
            status: ExecutionStatus::Success,
            duration_nanos: nanos,
        };
        catalog.record_execution(&mut batch, &execution);
        let field = format!("algorithm=\"a\"|{le}");
        assert!(
            batch.cells().any(|(_, found, _)| found == field),
            "{nanos} ns should be in {le}"
        );
    }
}

#[test]
fn a_crash_enters_no_histogram() {
    let catalog = Catalog::new("m:");
    let mut batch = Batch::default();
    catalog.record_execution(
        &mut batch,
        &FinishedExecution {
            algorithm: "a",
            status: ExecutionStatus::Crashed,
            duration_nanos: 7,
        },
    );
    assert_eq!(
        batch.cells().collect::<Vec<_>>(),
        [(
            "m:algorithm_counter",
            "algorithm=\"a\",status=\"crashed\"",
            1
        )]
    );
}

#[test]
fn the_readme_names_the_first_and_the_last_bucket() {
    let [first, .., last] = LATENCY_BOUNDS_NANOS.map(Duration::from_nanos);
    for (readme, range) in [
        ("README.md", format!("from{first:?}to{last:?}")),
        ("README.zh-CN.md", format!("从{first:?}到{last:?}")),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(readme);
        let text = fs::read_to_string(path).expect("it is in the repository");
        assert!(
            text.replace(' ', "").contains(&range),
            "{range} is not in {readme}"
        );
    }
}

#[test]
fn every_family_can_be_registered() {
    for family in Catalog::new("metrics:").families() {
        let read = Family::decode(&family.name, family.encode().as_bytes());
        assert_eq!(read.ok().as_ref(), Some(family));
    }
}
