//! Serves the metric families found in Redis to Prometheus. It exports what is
//! registered there, not a list of its own. It writes no counts but those of
//! leases that ran out, of batches that it is told to replay from a log, and of
//! what Redis lost of what was served; and it removes what it is told to.
//!
//! # Layout
//! - [`config`]: every option, from flags and environment
//! - [`redis_options`]: those of them that say where Redis is
//! - [`commands`]: the options of what it does beside serving
//! - [`connection`]: the connection to Redis, and how it can fail
//! - [`script`]: one call of a Lua script
//! - [`scan`]: one hash or sorted set, page by page
//! - [`registry`]: the registrations found, and which of them can be served
//! - [`settle`]: settles leases that ran out, at every read and in between
//! - [`leases`]: what is in flight, from the open leases
//! - [`labels`]: the labels of a label set
//! - [`marks`]: the highest value served of each series, so that none steps back
//!   (`hash_marks` is of one hash, `mark` of one series)
//! - [`offsets`]: what Redis lost and is served all the same, kept in Redis
//! - [`reader`]: one read of every family, and what it needs of those before it
//!   (`found` is what it finds)
//! - [`state_file`]: what was served, across a restart
//! - [`offences`]: what could not be served, counted and logged once
//! - [`scrape`]: one read for all the scrapes that wait
//! - [`snapshot`]: what they show of it, in each format
//! - [`self_metrics`]: the exporter's own metrics
//! - [`exposure`]: the options for an exporter that others can reach
//! - [`auth`]: who may ask
//! - [`tls`]: certificate and key
//! - [`listen`]: connections, and when they are cut off
//! - [`impatient`]: a connection that fails when nobody reads
//! - [`paced`]: a body that is handed out piece by piece
//! - [`http`]: the routes
//! - [`negotiate`]: which format a request wants, and in what time
//! - [`gzip`]: compression of what is served
//! - [`page`]: the page that draws it, for whoever has no Grafana at hand
//! - [`serve`]: the process: listens, stops on a signal
//! - [`health`]: the command that asks whether the exporter is alive
//! - [`groups`]: groups of a Pushgateway that are put back from a log
//! - [`replay`]: the command that stores batches found in a log
//! - [`log_lines`]: the lines of that log, and the batches in them
//! - [`push`]: the command that relays the families to a Pushgateway
//! - [`pushgateway`]: one push
//! - [`series`]: the command that lists and removes series
//! - [`inventory`]: what is in a store, for such commands
//! - [`selector`]: what such a command is to be about
//! - [`wipe`]: the command that begins a new epoch
//!
//! A scrape flows `http → scrape → reader → scan → connection`, and its result
//! back the same way, as a `snapshot`. What the stored bytes mean, and how they
//! are written for Prometheus, is `functional-scaffold-protocol`'s.

#![forbid(unsafe_code)]

pub mod auth;
pub mod commands;
pub mod config;
pub mod connection;
pub mod exposure;
mod found;
pub mod groups;
pub mod gzip;
mod hash_marks;
pub mod health;
pub mod http;
pub mod impatient;
pub mod inventory;
pub mod labels;
pub mod leases;
pub mod listen;
pub mod log_lines;
mod mark;
pub mod marks;
pub mod negotiate;
pub mod offences;
pub mod offsets;
pub mod paced;
pub mod page;
pub mod push;
pub mod pushgateway;
pub mod reader;
pub mod redis_options;
pub mod registry;
pub mod replay;
pub mod scan;
pub mod scrape;
pub mod script;
pub mod selector;
pub mod self_metrics;
pub mod series;
pub mod serve;
pub mod settle;
pub mod snapshot;
pub mod state_file;
pub mod tls;
pub mod wipe;
