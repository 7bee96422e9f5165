//! The import of the handler behind, which `wasip3` lacks. Its types are those of
//! `wasip3`.

#![allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated"
)]

spin_sdk::wit_bindgen::generate!({
    path: "wit",
    world: "pass-through",
    runtime_path: "::spin_sdk::wit_bindgen::rt",
    with: { "wasi:http/types@0.3.0": spin_sdk::wasip3::http::types },
    generate_all,
});
