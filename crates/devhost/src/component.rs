//! The settings of a component, from the manifest and the command line.

#[cfg(test)]
use std::collections::HashMap;
use std::fmt::Display;
#[cfg(test)]
use std::path::Path;
use std::sync::Arc;

use crate::allowed_hosts::AllowedHosts;
#[cfg(test)]
use crate::variables::ValueSources;
use crate::variables::Variables;

/// The settings that all instances of a component share.
pub(crate) struct ComponentSettings {
    pub(crate) id: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) variables: Arc<Variables>,
    /// Drop the output of the component.
    pub(crate) quiet: bool,
}

impl ComponentSettings {
    /// Prints which destination was denied, as the entry that would allow it.
    pub(crate) fn report_denied_host(&self, destination: &impl Display) {
        eprintln!(
            "Component {} tried to reach {destination}, which its allowed_outbound_hosts do not \
             include. To allow it, add \"{destination}\" there.",
            self.id
        );
    }
}

#[cfg(test)]
impl ComponentSettings {
    /// A component that may reach these hosts.
    pub(crate) fn with_allowed_hosts(entries: &[String]) -> Self {
        let manifest = "spin_manifest_version = 2\napplication.name = \"x\"\ntrigger.http = []";
        let sources = ValueSources::new(HashMap::new(), Path::new("does not exist"));
        let manifest = toml::from_str(manifest).expect("manifest is well-formed");
        let variables = Variables::new(&manifest, sources).expect("there are none");
        Self {
            id: "x".to_owned(),
            environment: Vec::new(),
            allowed_hosts: AllowedHosts::new(entries, &variables).expect("entries are well-formed"),
            variables: Arc::new(variables),
            quiet: true,
        }
    }
}
