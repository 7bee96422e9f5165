//! End-to-end tests, against the runtime that `SCAFFOLD_RUNTIME` names.
//!
//! One program, so that it is linked once and waiting tests overlap.

mod api;
mod counting;
mod custom;
mod deployment;
mod durability;
mod examples;
mod follow;
mod forged_log;
mod guide;
mod languages;
mod malformed;
mod middleware;
mod misdeeds;
mod monitoring;
mod outage;
mod page;
mod plain;
mod protocol;
mod redis_states;
mod redis_tls;
mod registry;
mod sandbox;
mod schemes;
mod shards;
mod templates;

type Result<T = ()> = anyhow::Result<T>;
