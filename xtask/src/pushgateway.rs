//! The Pushgateway that `up` uses in the scheme of that name: one that the user
//! named, or one of our own, on loopback, whose groups survive a restart.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::InstallOptions;
use crate::child::Child;
use crate::debian::{self, Program};
use crate::spin_variables::SpinVariables;
use crate::tools;

/// Below the workspace's root, and ignored by git.
const DATA_FOLDER: &str = ".functional-scaffold/pushgateway";

const PROGRAM: Program = Program {
    what: "Pushgateway",
    names: &["prometheus-pushgateway", "pushgateway"],
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
    /// Finds one, or something to start one with.
    ///
    /// # Errors
    ///
    /// When nothing can be started.
    pub(crate) fn find(variables: &SpinVariables, install: InstallOptions) -> Result<Self> {
        match variables.get("PUSHGATEWAY_URL") {
            Some(given) => Ok(Self::Named(given.value)),
            None => debian::program(&PROGRAM, install).map(Self::Program),
        }
    }

    /// Whether it is to be started here.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Program(_))
    }

    /// Starts it, if it is ours.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
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
        let mut command = tools::command(program);
        command
            .arg(format!("--web.listen-address={listen}"))
            .arg(format!("--persistence.file={}", groups.display()))
            // Otherwise it writes only when it is stopped with grace.
            .arg("--persistence.interval=10s")
            // Its groups only grow in number, and wiping is how to begin anew.
            .arg("--web.enable-admin-api")
            .arg("--log.level=warn");
        eprintln!("the Pushgateway keeps its groups in {}", groups.display());
        Child::spawn("the Pushgateway", &mut command).map(Some)
    }

    /// Where it is, as the app and a user want it.
    pub(crate) fn url(&self, reached_at: SocketAddr) -> String {
        match self {
            Self::Named(url) => url.clone(),
            Self::Program(_) => format!("http://{reached_at}"),
        }
    }
}
