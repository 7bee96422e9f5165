//! The Pushgateway that `up` uses in the pushgateway scheme: one that the user
//! named, or one that is started and keeps its groups.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::command;
use crate::install::{InstallOptions, Program};
use crate::process::Child;
use crate::settings::Settings;

/// Below the workspace's root, and ignored by git.
const DATA_FOLDER: &str = ".functional-scaffold/pushgateway";

const PROGRAM: Program = Program {
    name: "Pushgateway",
    commands: &["prometheus-pushgateway", "pushgateway"],
    package: "prometheus-pushgateway",
};

/// Where the Pushgateway comes from.
pub(crate) enum Pushgateway {
    /// The user's, at this URL.
    Named(String),
    /// Started from a program.
    Program(PathBuf),
}

impl Pushgateway {
    pub(crate) fn find(settings: &Settings, install: InstallOptions) -> Result<Self> {
        match settings.for_app("PUSHGATEWAY_URL") {
            Some(given) => Ok(Self::Named(given.value)),
            None => PROGRAM.find_or_install(install).map(Self::Program),
        }
    }

    /// Whether `up` starts it.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Program(_))
    }

    /// Starts it, unless it is the user's.
    pub(crate) fn start(&self, listen: SocketAddr) -> Result<Option<Child>> {
        let Self::Program(program) = self else {
            return Ok(None);
        };
        // A folder for each port: two servers must not write one file.
        let port = listen.port().to_string();
        let folder = env::current_dir()?.join(DATA_FOLDER).join(port);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let groups = folder.join("groups");
        let mut command = command::program(program);
        command
            .arg(format!("--web.listen-address={listen}"))
            .arg(format!("--persistence.file={}", groups.display()))
            // Without it, groups are written only at a graceful stop.
            .arg("--persistence.interval=10s")
            // Wiping is the only way to remove all groups.
            .arg("--web.enable-admin-api")
            .arg("--log.level=warn");
        eprintln!("the Pushgateway keeps its groups in {}", groups.display());
        Child::spawn("the Pushgateway", &mut command).map(Some)
    }

    /// Its URL for the app and for the user.
    pub(crate) fn url(&self, own: SocketAddr) -> String {
        match self {
            Self::Named(url) => url.clone(),
            Self::Program(_) => format!("http://{own}"),
        }
    }
}
