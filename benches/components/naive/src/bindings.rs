//! What `wit-bindgen` makes of `wit/algorithm.wit`.

#![allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated from wit/ by wit-bindgen"
)]

spin_sdk::wit_bindgen::generate!({
    path: "../../../wit",
    inline: "package functional-scaffold:naive@0.1.0;
             world naive { import functional-scaffold:algorithm/algorithm@0.1.0; }",
    runtime_path: "::spin_sdk::wit_bindgen::rt",
    generate_all,
});
