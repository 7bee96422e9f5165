//! The commands other than serving.

pub(crate) mod health;
pub(crate) mod log_lines;
pub(crate) mod push;
pub(crate) mod replay;
pub(crate) mod selector;
pub(crate) mod series;
mod spool;
mod stores;
pub(crate) mod wipe;
