//! Programs that have to be installed or built.

use std::path::PathBuf;

use anyhow::Context as _;

/// A program of the system.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The name in messages.
    pub name: &'static str,
    /// The executable, by its names in different distributions.
    pub executables: &'static [&'static str],
    /// Debian's package.
    pub package: &'static str,
}

impl Program {
    /// The path of the first executable that is on `PATH`.
    #[must_use]
    pub fn on_path(&self) -> Option<PathBuf> {
        let mut executables = self.executables.iter();
        executables.find_map(|name| which::which(name).ok())
    }

    /// Like [`Self::on_path`].
    ///
    /// # Errors
    /// Names the missing program and the command that installs it.
    pub fn find(&self) -> anyhow::Result<PathBuf> {
        self.on_path().with_context(|| {
            format!(
                "no {} on PATH ({}); install it with `apt-get install {}`",
                self.name,
                self.executables.join(", "),
                self.package
            )
        })
    }
}

/// The path of a program of this workspace: in the folder that `SCAFFOLD_BIN_DIR`
/// names, else beside the running program.
///
/// # Errors
/// It is not built.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let folders = match std::env::var_os("SCAFFOLD_BIN_DIR") {
        Some(folder) => vec![PathBuf::from(folder)],
        // A test is in the folder `deps` beside the programs.
        None => {
            let program = std::env::current_exe()?;
            program
                .ancestors()
                .skip(1)
                .take(2)
                .map(PathBuf::from)
                .collect()
        }
    };
    let mut programs = folders.iter().map(|folder| folder.join(name));
    programs.find(|program| program.is_file()).with_context(|| {
        format!("{name} is not built in any of {folders:?}; run `cargo xtask build`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let program = Program {
            name: "Nothing",
            executables: &["no-such-program", "nor-this"],
            package: "nothing-server",
        };
        let error = program.find().expect_err("it is missing").to_string();
        assert_eq!(
            error,
            "no Nothing on PATH (no-such-program, nor-this); \
             install it with `apt-get install nothing-server`"
        );
    }
}
