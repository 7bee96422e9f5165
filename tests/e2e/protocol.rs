//! On a real Redis, the scripts count every execution once, even if calls arrive late,
//! twice, or never.
//!
//! # Layout
//! - `store`: the scripts, called on a redis-server, and the data that they store
//! - `model`: the promises of the protocol, in maps and numbers
//! - `world`: instances, executions and a network between them and the store
//! - `interleavings`: the property that model and store agree after each step
//! - `fixture`: a store for a test of one thing
//! - `races`, `settling`, `registration`, `lost_counts`: one promise a test
//! - `limits`: the limit of series of a family
//! - `forgetting`: what arrives when Redis may have forgotten its id
//! - `failover`, `eviction`: Redis loses or deletes data
//! - `memory`: the memory that remembered ids take
//! - `refusals`: Redis in a state that refuses the scripts or parts of them

mod eviction;
mod failover;
mod fixture;
mod forgetting;
mod interleavings;
mod limits;
mod lost_counts;
mod memory;
mod model;
mod races;
mod refusals;
mod registration;
mod settling;
mod store;
mod world;
