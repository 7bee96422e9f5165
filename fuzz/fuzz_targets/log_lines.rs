//! Lines of a log that `replay` reads: parts of batches, and whatever else is there.

#![no_main]

use functional_scaffold_exporter::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|log: &[u8]| fuzzing::log(log));
