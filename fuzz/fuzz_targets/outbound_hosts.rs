//! `allowed_outbound_hosts` against the address that is opened.

#![no_main]
#![allow(
    dead_code,
    reason = "the modules of the dev host that need no wasmtime"
)]

#[path = "../../crates/devhost/src/allowed_hosts.rs"]
mod allowed_hosts;
#[path = "../../crates/devhost/src/capabilities.rs"]
mod capabilities;
#[path = "../../crates/devhost/src/manifest.rs"]
mod manifest;
#[path = "../../crates/devhost/src/variables.rs"]
mod variables;

use std::{collections::HashMap, net::ToSocketAddrs as _, path::Path};

use libfuzzer_sys::fuzz_target;
use redis::{ConnectionAddr, IntoConnectionInfo as _};

use crate::{
    allowed_hosts::{AllowedHosts, Destination},
    manifest::Manifest,
    variables::{ValueSources, Variables},
};

const MANIFEST: &str = r#"
    spin_manifest_version = 2
    application.name = "fuzz"
    trigger.http = []
    component = {}
"#;
const ALLOWED: [&str; 3] = [
    "redis://127.0.0.1:6379",
    "http://127.0.0.1:80",
    "https://*.example.org",
];

fuzz_target!(|input: (Vec<String>, &str)| {
    let (entries, address) = input;
    let manifest = Manifest::parse(MANIFEST).expect("it is valid");
    let variables = Variables::new(
        &manifest,
        ValueSources::new(HashMap::new(), Path::new("/dev/null")),
    )
    .expect("there are none");
    // Entries come from the app's author: they are refused or obeyed, and never panic.
    let _ = AllowedHosts::new(&entries, &variables);
    // The address comes from a component.
    let allowed = ALLOWED.map(str::to_owned);
    let allowed = AllowedHosts::new(&allowed, &variables).expect("they are valid");
    if let Ok(info) = address.into_connection_info()
        && let ConnectionAddr::Tcp(host, port) = info.addr
        && let Some(destination) = Destination::new("redis", &host, Some(port))
        && allowed.allows(&destination) == Ok(true)
    {
        let opened = (destination.host().as_str(), port).to_socket_addrs();
        let opened: Vec<_> = opened.expect("a literal address").collect();
        assert_eq!(opened, [([127, 0, 0, 1], 6379).into()], "{address:?}");
    }
    if let Ok(uri) = address.parse()
        && let Some(destination) = Destination::of_uri(&uri)
        && destination.to_string().starts_with("http:")
        && allowed.allows(&destination) == Ok(true)
    {
        let opened = destination.authority().to_socket_addrs();
        let opened: Vec<_> = opened.expect("a literal address").collect();
        assert_eq!(opened, [([127, 0, 0, 1], 80).into()], "{address:?}");
    }
});
