//! The Pushgateway that `up` uses in the pushgateway scheme: one that the user
//! named, or one that is started and keeps its groups.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use functional_scaffold_testkit::pushgateway::{self, PUSHGATEWAY};

use crate::command;
use crate::install::{InstallOptions, find_or_install};
use crate::process::Child;
use crate::settings::Settings;

/// The origin of the Pushgateway.
pub(crate) enum Pushgateway {
    /// The user's, at this URL.
    Named(String),
    /// Started from a program.
    Program(PathBuf),
}

impl Pushgateway {
    pub(crate) fn find(settings: &Settings, install: InstallOptions) -> Result<Self> {
        match settings.get("PUSHGATEWAY_URL") {
            Some(given) => Ok(Self::Named(given.value)),
            None => find_or_install(&PUSHGATEWAY, install).map(Self::Program),
        }
    }

    /// True if `up` starts it.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Program(_))
    }

    /// Starts it, unless it is the user's.
    pub(crate) fn start(&self, listen: SocketAddr) -> Result<Option<Child>> {
        let Self::Program(program) = self else {
            return Ok(None);
        };
        let folder = command::data_folder("pushgateway", listen.port())?;
        eprintln!("the Pushgateway keeps its groups in {}", folder.display());
        let mut command = pushgateway::command(command::program(program), listen, &folder);
        Child::start("the Pushgateway", &mut command, "").map(Some)
    }

    /// Its URL for the app and for the user.
    pub(crate) fn url(&self, own: SocketAddr) -> String {
        match self {
            Self::Named(url) => url.clone(),
            Self::Program(_) => format!("http://{own}"),
        }
    }
}
