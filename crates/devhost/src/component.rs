//! The settings of a component, from the manifest and the command line.

use std::sync::Arc;

use crate::allowed_hosts::AllowedHosts;
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
    /// Prints which address was denied, and the entry that would allow it.
    pub(crate) fn report_denied_host(&self, address: &str, scheme: &str) {
        let Some(host) = AllowedHosts::entry_for(address, scheme) else {
            return;
        };
        eprintln!(
            "Component {} tried to reach {host}, which its allowed_outbound_hosts do not \
             include. To allow it, add \"{host}\" there.",
            self.id
        );
    }
}
