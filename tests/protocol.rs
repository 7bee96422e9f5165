//! That the scripts on a real Redis count every execution once, whatever
//! arrives late, twice or never.
//!
//! # Layout
//! - [`store`]: the scripts of the protocol, called on a redis-server, and all
//!   that they leave there
//! - [`model`]: what the protocol promises, in maps and numbers
//! - [`world`]: instances, executions and a network between them and the store
//!   that loses, delays and repeats
//! - [`interleavings`]: the property, that model and store agree after each step
//! - [`fixture`]: a store of its own for a test of one thing
//! - [`races`]: what is named in the protocol, one by one
//! - [`registration`]: when it is spared
//! - [`settling`]: who settles what ran out
//! - [`offsets`]: what makes up for lost writes
//! - [`memory`]: how much of it the remembered ids take
//! - [`troubles`]: Redis in a state that refuses the scripts or parts of them

#[path = "protocol/fixture.rs"]
mod fixture;
#[path = "protocol/interleavings.rs"]
mod interleavings;
#[path = "protocol/memory.rs"]
mod memory;
#[path = "protocol/model.rs"]
mod model;
#[path = "protocol/offsets.rs"]
mod offsets;
#[path = "protocol/races.rs"]
mod races;
#[path = "protocol/registration.rs"]
mod registration;
#[path = "protocol/settling.rs"]
mod settling;
#[path = "protocol/store.rs"]
mod store;
#[path = "protocol/troubles.rs"]
mod troubles;
#[path = "protocol/world/mod.rs"]
mod world;

type Result<T = ()> = anyhow::Result<T>;
