//! `Accept`, `Accept-Encoding`, `If-None-Match`, the time-out and `Authorization`, as any
//! client can send them to the exporter.

#![no_main]

use functional_scaffold_exporter::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|headers: Vec<(u8, Vec<u8>)>| fuzzing::headers(&headers));
