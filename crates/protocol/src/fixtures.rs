//! Families and series for the tests of several modules.

use crate::{
    family::{Family, Kind},
    series::{FamilySeries, SeriesReader},
};

/// A family in units of one.
pub(crate) fn family(kind: Kind, bounds: &[f64]) -> Family {
    Family {
        name: "f".into(),
        kind,
        help: String::new(),
        unit: String::new(),
        key: "k".into(),
        bounds: bounds.to_vec(),
        scale: 1,
    }
}

/// The series of these fields and values.
pub(crate) fn read(family: Family, cells: &[(&str, &str)]) -> FamilySeries {
    let mut reader = SeriesReader::new(family);
    for (field, value) in cells {
        reader
            .push(field.as_bytes(), value.as_bytes())
            .expect("the cell is valid");
    }
    reader.finish()
}
