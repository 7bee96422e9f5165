//! Serves the metric families found in Redis to Prometheus. It exports what is
//! registered there, not a list of its own, and it writes nothing.
//!
//! # Layout
//! - [`config`]: every option, from flags and environment
//! - [`connection`]: the connection to Redis, and how it can fail
//! - [`scan`]: one hash, page by page
//! - [`registry`]: the registrations found, and which of them can be served
//! - [`reader`]: one read of every family
//! - [`offences`]: what could not be served, counted and logged once
//! - [`scrape`]: one read for all the scrapes that wait, and its text
//! - [`self_metrics`]: the exporter's own metrics
//! - [`http`]: the routes
//! - [`page`]: the front page
//! - [`serve`]: the process: listens, stops on a signal
//!
//! A scrape flows `http → scrape → reader → scan → connection`, and its result
//! back the same way. What the stored bytes mean, and how they are written for
//! Prometheus, is `functional-scaffold-schema`'s.

#![forbid(unsafe_code)]

pub mod config;
pub mod connection;
pub mod http;
pub mod offences;
pub mod page;
pub mod reader;
pub mod registry;
pub mod scan;
pub mod scrape;
pub mod self_metrics;
pub mod serve;
