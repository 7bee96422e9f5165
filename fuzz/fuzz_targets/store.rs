//! A store whose contents are hostile, read twice: registrations, cells, lost counts and
//! removals become both expositions, and no counter steps back.

#![no_main]

use functional_scaffold_exporter::fuzzing::{self, Store};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|reads: [Store; 2]| fuzzing::store(reads));
