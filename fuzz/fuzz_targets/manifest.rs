//! A manifest and its templates.

#![no_main]
#![allow(
    dead_code,
    reason = "the modules of the dev host that need no wasmtime"
)]

#[path = "../../crates/devhost/src/capabilities.rs"]
mod capabilities;
#[path = "../../crates/devhost/src/manifest.rs"]
mod manifest;
#[path = "../../crates/devhost/src/routes.rs"]
mod routes;
#[path = "../../crates/devhost/src/variables.rs"]
mod variables;

use std::{collections::HashMap, path::Path};

use libfuzzer_sys::fuzz_target;

use crate::{
    manifest::Manifest,
    routes::Routes,
    variables::{Template, ValueSources, Variables},
};

fuzz_target!(|text: &str| {
    if let Ok(template) = Template::parse(text) {
        let resolved = template.resolve(|name| Ok(name.to_owned()));
        assert!(resolved.is_ok(), "{text:?}");
    }
    let Ok(manifest) = Manifest::parse(text) else {
        return;
    };
    if let Ok(routes) = Routes::new(&manifest.trigger.http) {
        let _ = routes.find("/invoke/prime-check");
    }
    if let Ok(variables) = Variables::new(
        &manifest,
        ValueSources::new(HashMap::new(), Path::new("/dev/null")),
    ) {
        for component in manifest.component.keys() {
            let _ = variables.get(component, "redis_host");
        }
    }
});
