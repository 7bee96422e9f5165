//! The api component: an HTTP service around one sandboxed algorithm, whose
//! requests and executions are counted outside this short-lived instance.
//!
//! # Layout
//! A request passes from top to bottom:
//! - [`wasi_http`]: WASI's requests and responses, to and from plain types
//! - [`turn`]: what makes a response leave in one piece
//! - [`service`]: one request, from routing to counting
//! - [`routes`]: which path and method means what
//! - [`invoke`]: running the algorithm on a body
//! - [`algorithm`]: the sandboxed component behind the contract in `wit/`
//! - [`answer`]: what is answered, and errors as problem details
//! - [`readiness`], [`openapi`]: what the service says of itself
//!
//! Its instance, which serves up to 128 requests and then dies without a hook:
//! - [`instance`]: what the requests of one instance share
//! - [`in_flight`]: the requests it has, and when it takes no more of them
//! - [`config`]: the Spin variables, typed
//! - [`metrics`]: from a finished request to where it is counted
//! - [`outbound_http`]: one request to elsewhere, bounded in time
//! - [`clock`], [`log`]: time, and lines on stderr
//!
//! There is no reachable panic here: in wasm it would end every request that
//! shares the instance.

#[cfg(target_family = "wasm")]
mod export;

pub mod algorithm;
pub mod answer;
pub mod clock;
pub mod config;
pub mod in_flight;
pub mod instance;
pub mod invoke;
pub mod log;
pub mod metrics;
pub mod openapi;
pub mod outbound_http;
pub mod readiness;
pub mod routes;
pub mod service;
pub mod turn;
pub mod wasi_http;
