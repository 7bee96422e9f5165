//! The metric path of a wasm component: from a finished request to a counter
//! that outlives the instance.
//!
//! A [`Meter`] records finished requests and executions into a batch, and
//! flushes the batch to its sink after the response. It knows nothing of
//! routes or algorithms: the component that owns it says what to count.
//!
//! # Layout
//! - `meter`: the one object that a component holds
//! - `batcher`: increments that are not stored yet; no I/O
//! - `flusher`: when batches are stored, retried and written to the log
//! - `sinks`: where batches are stored, one file a scheme
//! - [`custom`]: what the author of an app measures with the `metrics` crate
//! - [`config`]: the options of the metric path
//! - [`variables`]: reads Spin variables into typed options
//! - `denied`: ends the counting where the manifest does not allow the store
//! - `single_flight`: work that one task does for all tasks of the instance
//! - `outbound_http`: one outbound HTTP request with a deadline
//! - [`time`], [`log`]: the host's clocks, and log lines on stderr
//! - [`http`]: what every component that serves HTTP shares: [`http::single_write`]
//!   makes a response leave in one write, and [`http::backpressure`] makes the host send
//!   new requests to other instances during an execution
//! - [`request_id`]: ids of requests
//!
//! Nothing here panics: in wasm a panic ends every request of the instance.
//!
//! # Examples
//! ```no_run
//! use functional_scaffold_metering::{
//!     Config, Execution, ExecutionStatus, FinishedRequest, Meter, RequestLabels, RouteLabels, Workload,
//!     time::Instant, variables,
//! };
//!
//! # async fn handle() -> Result<(), Vec<variables::VariableError>> {
//! // Once an instance.
//! let config = variables::load(Config::read).await?;
//! let workload = Workload {
//!     algorithm: "checkout".to_owned(),
//!     endpoints: &["/orders"],
//! };
//! let nonce = 7; // a random number
//! let meter = Meter::new(&config, workload, nonce);
//!
//! // Once a request.
//! let began = Instant::now();
//! let route = RouteLabels::new("POST", "/orders");
//! let Ok(lease) = meter.lease(route, || "request-66".to_owned()).await else {
//!     return Ok(()); // In `strict` mode: Redis does not acknowledge, so respond 503.
//! };
//! // Here is the work that is counted as crashed if it never returns.
//! let duration_nanos = Instant::now().nanos_since(began);
//! let request = FinishedRequest {
//!     labels: RequestLabels::new("POST", "/orders", 200),
//!     duration_nanos,
//! };
//! let execution = Execution {
//!     status: ExecutionStatus::Success,
//!     duration_nanos,
//! };
//! if meter.record(&request, Some(execution), lease).await.is_err() {
//!     // In `strict` mode: respond 503 instead of the result.
//! }
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod custom;
pub mod http;
pub mod log;
pub mod request_id;
pub mod time;
pub mod variables;

mod batcher;
mod check;
mod denied;
mod flusher;
mod meter;
mod outbound_http;
mod single_flight;
mod sinks;

pub use batcher::{Execution, Workload};
pub use check::Check;
pub use config::Config;
pub use flusher::RETRY_AFTER;
pub use functional_scaffold_protocol::{
    catalog::{ExecutionStatus, FinishedRequest, RequestLabels, RouteLabels},
    escape::is_unsafe,
    exposition::Format,
    lease::EncodedLease,
};
pub use meter::{ExpositionError, Meter};
pub use sinks::error::Unacknowledged;
