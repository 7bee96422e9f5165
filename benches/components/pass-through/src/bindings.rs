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
    // The whole interface: with a part of it, linking fails, depending on link order.
    path: "../../../crates/middleware/wit",
    runtime_path: "::spin_sdk::wit_bindgen::rt",
    with: {
        "wasi:clocks/types@0.3.0": spin_sdk::wasip3::clocks::types,
        "wasi:http/types@0.3.0": spin_sdk::wasip3::http::types,
    },
});
