//! What `wit-bindgen` makes of `wit/algorithm.wit`: the contract's types, and
//! the exported functions that call [`crate::Algorithm`].
//!
//! The exports exist in wasm alone: a native linker refuses their names
//! (`…/algorithm@0.1.0#run`), and only the tests build this crate natively.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    reason = "generated: it passes strings through the canonical ABI's raw memory"
)]

#[cfg(target_family = "wasm")]
use crate::Algorithm;

wit_bindgen::generate!({
    path: "../../../wit",
    world: "algorithm-component",
});

#[cfg(target_family = "wasm")]
export!(Algorithm);
