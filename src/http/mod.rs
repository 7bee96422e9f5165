//! The service's side of the host's HTTP server.

pub mod backpressure;
pub mod single_write;
pub mod wasi;
