//! The service's side of the host's HTTP server.

pub mod backpressure;
pub mod response_timing;
pub mod wasi;
