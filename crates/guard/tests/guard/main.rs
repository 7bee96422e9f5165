//! The guard, on wasmtime: what a guarded module and a guarded component do.

mod algorithm;
mod budget;
mod components;
mod crash;
mod guest;
mod random;
mod recursion;
mod refusals;
