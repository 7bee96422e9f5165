//! Runs a chapter's blocks as its reader would, in order and from the beginning.

use anyhow::{Context as _, bail, ensure};

use super::{
    Result,
    markdown::{Block, Chapter},
    shell::{Shell, shows},
};

/// What is done with a block, by its info string.
enum Step<'a> {
    Run {
        repeat: bool,
    },
    Terminal(&'a str),
    NotRun,
    /// What the block before prints.
    Shown,
    /// Not a command: a configuration, an expression.
    Other,
}

fn step(info: &str) -> Result<Step<'_>> {
    let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
    Ok(match (language, rest) {
        ("sh", "") => Step::Run { repeat: false },
        ("sh", "repeat") => Step::Run { repeat: true },
        ("text", "") => Step::Shown,
        ("yaml" | "promql" | "ini", "") => Step::Other,
        ("sh", rest) => match rest.split_once(['=', ':']) {
            Some(("terminal", name)) if !name.is_empty() => Step::Terminal(name),
            Some(("not-run", reason)) if !reason.trim().is_empty() => Step::NotRun,
            _ => bail!("{info:?} does not say whether the block is run"),
        },
        _ => bail!("{info:?} does not say what the block is"),
    })
}

/// Runs every block of a chapter.
///
/// # Errors
/// The first block, by line, that failed or printed something else.
pub(crate) fn run(chapter: &Chapter) -> Result {
    let mut shell = None;
    let mut blocks = chapter.blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        let step = step(&block.info)?;
        let shown = blocks.next_if(|next| next.info == "text");
        let shown = shown.map(|shown| shown.text.as_str());
        let outcome = match step {
            Step::NotRun | Step::Other => continue,
            Step::Shown => bail!("line {}: nothing was run that prints it", block.line),
            Step::Run { .. } | Step::Terminal(_) => {
                let shell = match &mut shell {
                    Some(shell) => shell,
                    none => none.insert(Shell::new()?),
                };
                take(shell, &step, block, shown)
            }
        };
        outcome.with_context(|| format!("line {}:\n{}", block.line, block.text))?;
    }
    Ok(())
}

fn take(shell: &mut Shell, step: &Step<'_>, block: &Block, shown: Option<&str>) -> Result {
    match step {
        Step::Terminal(name) => {
            let shown = shown.context("nothing is shown by which one sees that it runs")?;
            shell.start(name, &block.text, shown)
        }
        Step::Run { repeat: true } => {
            let shown = shown.context("nothing is shown to be waited for")?;
            shell.run_until(&block.text, shown)
        }
        _ => {
            let printed = shell.run(&block.text)?;
            if let Some(shown) = shown {
                let shown = shell.with_its_ports(shown);
                ensure!(
                    shows(&printed, &shown),
                    "it printed\n{printed}\nnot\n{shown}"
                );
            }
            Ok(())
        }
    }
}

#[test]
fn a_block_without_a_mark_is_refused() {
    for info in [
        "",
        "bash",
        "sh later",
        "sh not-run",
        "sh not-run: ",
        "sh terminal=",
        "text x",
    ] {
        assert!(step(info).is_err(), "{info:?}");
    }
    for info in [
        "sh",
        "sh repeat",
        "sh terminal=app",
        "sh not-run: needs Docker",
        "promql",
    ] {
        assert!(step(info).is_ok(), "{info:?}");
    }
}
