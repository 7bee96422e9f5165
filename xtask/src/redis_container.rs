//! Redis in a container, for machines that have Docker and no Redis.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::child;
use crate::tools;

const IMAGE: &str = "docker.io/library/redis:7";
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Sees to it that Docker's engine runs.
///
/// # Errors
///
/// When there is no Docker, or its engine does not answer.
pub(crate) fn engine_answers() -> Result<()> {
    let mut version = tools::command("docker");
    version.args(["version", "--format", "{{.Server.Version}}"]);
    version.stderr(Stdio::null());
    child::capture("`docker version`", &mut version, QUESTION_TIMEOUT).map(drop)
}

/// The command that serves Redis on a loopback port, with its data in
/// `folder`. Redis's own arguments may follow.
///
/// # Errors
///
/// When the image is not here and cannot be had.
pub(crate) fn run(port: u16, folder: &Path) -> Result<Command> {
    let mut inspect = tools::command("docker");
    inspect.args(["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    inspect.stderr(Stdio::null());
    if child::capture("docker", &mut inspect, QUESTION_TIMEOUT).is_err() {
        let mut pull = tools::command("docker");
        child::run("docker pull", pull.args(["pull", IMAGE]), None)?;
    }
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let mut run = tools::command("docker");
    run.args(["run", "--rm", "--interactive", "--name", &name(port)]);
    run.args(["--publish", &format!("127.0.0.1:{port}:{port}")]);
    // Else the data would belong to the image's own user.
    run.args(["--user", &format!("{}:{}", user.as_raw(), group.as_raw())]);
    run.arg("--volume")
        .arg(format!("{}:/data", folder.display()));
    run.args([IMAGE, "redis-server"]);
    Ok(run)
}

/// What Docker calls the container.
pub(crate) fn name(port: u16) -> String {
    format!("functional-scaffold-redis-{port}")
}
