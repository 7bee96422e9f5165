//! Types and exports that `wit-bindgen` generates from `wit/algorithm.wit`.

#![allow(unsafe_code, missing_docs, unreachable_pub, reason = "generated")]

#[cfg(target_family = "wasm")]
use crate::Algorithm;

wit_bindgen::generate!({ path: "../../../wit", world: "algorithm-component" });

// A native linker rejects the names of the exports (`…/algorithm@0.1.0#run`).
#[cfg(target_family = "wasm")]
export!(Algorithm);
