//! `cargo xtask monitoring`: rules and dashboard from the mixin in monitoring/mixin/. A
//! test compares the committed files.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::command;
use crate::process;

/// Names each file that is generated, and its text.
const FILES: &str = "monitoring/mixin/files.jsonnet";

/// Write the rules and the dashboard of monitoring/mixin/.
#[derive(Args)]
pub(crate) struct Monitoring {}

impl Monitoring {
    pub(crate) fn run(self) -> Result<()> {
        process::run("jsonnet", &mut jsonnet(Path::new(".")), None)
            .context("the mixin needs jsonnet (`apt-get install jsonnet`)")
    }
}

/// Writes the generated files below a folder, and lists them.
fn jsonnet(folder: &Path) -> Command {
    let mut jsonnet = command::program("jsonnet");
    jsonnet.args(["--string", "--multi"]).arg(folder).arg(FILES);
    jsonnet
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_committed_files_are_those_of_the_mixin() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = TempDir::new().expect("a folder");
        // jsonnet 0.18 does not create them.
        for name in [
            "monitoring/alerts",
            "monitoring/grafana/dashboards",
            "deployment/chart/files",
        ] {
            fs::create_dir_all(folder.path().join(name)).expect("a folder");
        }
        let mut jsonnet = jsonnet(folder.path());
        let output = jsonnet.current_dir(&workspace).output();
        let output = output.expect("`apt-get install jsonnet`");
        assert!(output.status.success(), "{output:?}");
        let files = String::from_utf8(output.stdout).expect("paths");
        assert_eq!(files.lines().count(), 4, "{files}");
        for file in files.lines().map(Path::new) {
            let path = file.strip_prefix(folder.path()).expect("in the folder");
            let read = |file: &Path| fs::read_to_string(file).expect("it is there");
            let committed = read(&workspace.join(path));
            let hint = "run `cargo xtask monitoring`";
            assert!(committed == read(file), "{} is old; {hint}", path.display());
        }
    }
}
