//! Types and imports that `wit-bindgen` generates from `wit/algorithm.wit`.

#![allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated"
)]

spin_sdk::wit_bindgen::generate!({
    path: "../../../wit",
    inline: "package functional-scaffold:naive@0.1.0;
             world naive { import functional-scaffold:algorithm/algorithm@0.1.0; }",
    runtime_path: "::spin_sdk::wit_bindgen::rt",
    generate_all,
});
