//! Runs the commands of `docs/guide.md`, `docs/coming-from-python.md` and of README's
//! "Add an algorithm", block by block, and compares their output with the page's. With
//! `SPIN_BIN`, also those of `docs/release.md`, in a folder without a clone. The Chinese
//! pages have the same commands, and links and settings are right.
//!
//! The info string of a block says after the language what is done with it:
//!
//! | info string | the block is |
//! |---|---|
//! | `sh` | run to its end; a `text` block after it is what it prints |
//! | `sh repeat` | likewise, and again until it prints that |
//! | `sh terminal=NAME` | run in a terminal of this name, after a Ctrl-C there, until the `text` after it was printed; it runs on until another command in that terminal, or the end of the chapter (`##`) |
//! | `sh not-run: REASON` | not run |
//! | `rust file=PATH` | the new content of this file |
//! | `python tested=PATH`, `rust tested=PATH` | the end of this file, which has tests |
//! | `python` | compiled |
//!
//! In a `text` block, `…` stands for any text.

mod markdown;
mod shell;

use std::{collections::BTreeSet, env, fs, path::Path, process::Command, sync::Mutex, thread};

use anyhow::{Context as _, bail, ensure};
use functional_scaffold_testkit::repository;

use crate::{Result, templates::Dist};
use markdown::{Block, Chapter, Document};
use shell::{Shell, shows};

const ENGLISH: &str = "docs/guide.md";
const CHINESE: &str = "docs/guide.zh-CN.md";
const FROM_PYTHON: &str = "docs/coming-from-python.md";
const FROM_PYTHON_CHINESE: &str = "docs/coming-from-python.zh-CN.md";

fn read(path: &str) -> Result<Document> {
    let text = fs::read_to_string(repository().join(path));
    Document::parse(&text.with_context(|| path.to_owned())?).with_context(|| path.to_owned())
}

/// Chapters that run at the same time: their commands wait for servers most of the
/// time.
const CHAPTERS_AT_A_TIME: usize = 3;

/// `SCAFFOLD_GUIDE` names a part of a chapter's heading, to run that one alone.
#[test]
fn every_command_prints_what_the_guide_shows() -> Result {
    let pages = [read(ENGLISH)?, read(FROM_PYTHON)?];
    let named = env::var("SCAFFOLD_GUIDE").unwrap_or_default();
    let chapters = pages.iter().flat_map(|page| &page.chapters);
    let chapters: Vec<_> = chapters
        .filter(|chapter| chapter.heading.contains(&named))
        .collect();
    let left = Mutex::new(chapters.into_iter());
    let run_chapters = || {
        loop {
            let next = left.lock().expect("no panic while it is held").next();
            let Some(chapter) = next else { return Ok(()) };
            run(chapter, Shell::new).with_context(|| chapter.heading.clone())?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CHAPTERS_AT_A_TIME)
            .map(|_| scope.spawn(run_chapters))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}

#[test]
fn an_algorithm_is_added_as_readme_says() -> Result {
    let readme = read("README.md")?;
    let mut chapters = readme.chapters.iter();
    let chapter = chapters.find(|chapter| chapter.heading == "Add an algorithm");
    let chapter = chapter.context("README.md does not say how to add an algorithm")?;
    ensure!(chapter.blocks.len() > 5, "{chapter:?}");
    run(chapter, Shell::in_a_copy)
}

/// With `SPIN_BIN`.
#[test]
fn a_folder_with_nothing_but_dist_serves_a_function_as_its_readme_says() -> Result {
    if env::var_os("SPIN_BIN").is_none_or(|name| name.is_empty()) {
        return Ok(());
    }
    let dist = Dist::shared()?;
    let readme = fs::read_to_string(dist.folder().join("README.md"))?;
    let readme = Document::parse(&readme)?;
    let mut chapters = readme.chapters.iter();
    let chapter = chapters.find(|chapter| chapter.heading == "Serve a function");
    let chapter = chapter.context("README.md does not say how to serve a function")?;
    ensure!(chapter.blocks.len() > 5, "{chapter:?}");
    run(chapter, || Shell::without_a_clone(&dist.folder()))
}

#[test]
fn both_languages_have_the_same_commands_in_the_same_sections() -> Result {
    for (english, chinese) in [
        (ENGLISH, CHINESE),
        (FROM_PYTHON, FROM_PYTHON_CHINESE),
        ("README.md", "README.zh-CN.md"),
    ] {
        let (english, translated) = (read(english)?, read(chinese)?);
        ensure!(
            english.levels == translated.levels,
            "{chinese} has other headings: {:?} instead of {:?}",
            translated.levels,
            english.levels
        );
        let mut blocks = english.blocks().zip(translated.blocks());
        if let Some((block, other)) = blocks.find(|(one, other)| !one.says_the_same(other)) {
            anyhow::bail!("{chinese}:{}: not {block:?}", other.line);
        }
        ensure!(english.blocks().count() == translated.blocks().count());
    }
    Ok(())
}

#[test]
fn code_that_is_shown_is_tested_code() -> Result {
    let page = read(FROM_PYTHON)?;
    let mut kinds = Vec::new();
    for block in page.blocks() {
        let check = match step(&block.info)? {
            Step::Tested(path) => ends_with(path, &block.text),
            Step::Python => compile_python(&block.text),
            _ => continue,
        };
        check.with_context(|| format!("{FROM_PYTHON}:{}", block.line))?;
        kinds.push(&*block.info);
    }
    let languages = kinds
        .iter()
        .map(|info| info.split(' ').next().unwrap_or(info));
    ensure!(languages.eq(["python", "python", "rust"]), "{kinds:?}");
    Ok(())
}

fn ends_with(path: &str, code: &str) -> Result {
    let file = fs::read_to_string(repository().join(path)).with_context(|| path.to_owned())?;
    ensure!(file.ends_with(code), "{path} does not end with\n{code}");
    Ok(())
}

fn compile_python(code: &str) -> Result {
    let check = "import sys; compile(sys.argv[1], 'block', 'exec')";
    let compiled = Command::new("/usr/bin/python3")
        .args(["-c", check, code])
        .output()?;
    let errors = String::from_utf8_lossy(&compiled.stderr);
    ensure!(compiled.status.success(), "{errors}");
    Ok(())
}

#[test]
fn every_alert_has_its_runbook_in_both_languages() -> Result {
    let rules = fs::read_to_string(repository().join("monitoring/alerts/rules.yaml"))?;
    let runbooks: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook_url: "))
        .filter_map(|url| url.trim_matches('"').split_once("/docs/guide.md#"))
        .map(|(_, anchor)| anchor)
        .collect();
    ensure!(!runbooks.is_empty());
    for guide in [ENGLISH, CHINESE] {
        let anchors = read(guide)?.anchors;
        let found: BTreeSet<&str> = anchors
            .iter()
            .map(String::as_str)
            .filter(|anchor| anchor.starts_with("runbook-"))
            .collect();
        ensure!(found == runbooks, "{guide}: {found:?}, not {runbooks:?}");
    }
    Ok(())
}

#[test]
fn every_link_to_a_file_leads_somewhere() -> Result {
    let root = repository();
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/adr", "monitoring", "deployment"] {
        for entry in fs::read_dir(root.join(folder))? {
            let name = entry?.file_name();
            let path = Path::new(folder).join(&name);
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    ensure!(pages.len() > 8, "{pages:?}");
    for page in pages {
        let place = page.display();
        for link in read(&page.display().to_string())?.links {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap_or(Path::new("")).join(file),
            };
            ensure!(root.join(&target).exists(), "{place}: no file {link}");
            if !anchor.is_empty() {
                let anchors = read(&target.display().to_string())?.anchors;
                ensure!(anchors.contains(anchor), "{place}: no heading {link}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_decision_is_in_the_index() -> Result {
    let folder = Path::new("docs/adr");
    let index = read("docs/adr/README.md")?.links;
    let mut decisions = 0;
    for entry in fs::read_dir(repository().join(folder))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "README.md" {
            let is_listed = index.contains(&name);
            ensure!(is_listed, "docs/adr/README.md does not list {name}");
            decisions += 1;
        }
    }
    ensure!(decisions > 20, "{decisions} decisions");
    Ok(())
}

/// What is done with a block, by its info string.
enum Step<'a> {
    Run {
        repeat: bool,
    },
    Terminal(&'a str),
    NotRun,
    File(&'a str),
    /// The end of a file.
    Tested(&'a str),
    /// Python that is in no file.
    Python,
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
        ("yaml" | "promql" | "ini" | "toml", "") => Step::Other,
        ("python", "") => Step::Python,
        ("rust" | "python", rest) => match rest.split_once('=') {
            Some(("file", path)) if !path.is_empty() => Step::File(path),
            Some(("tested", path)) if !path.is_empty() => Step::Tested(path),
            _ => bail!("{info:?} does not say which file it is"),
        },
        ("sh", rest) => match rest.split_once(['=', ':']) {
            Some(("terminal", name)) if !name.is_empty() => Step::Terminal(name),
            Some(("not-run", reason)) if !reason.trim().is_empty() => Step::NotRun,
            _ => bail!("{info:?} does not say whether the block is run"),
        },
        _ => bail!("{info:?} does not say what the block is"),
    })
}

/// Runs every block of a chapter, up to the first that fails or prints something
/// else.
fn run(chapter: &Chapter, new_shell: impl Fn() -> Result<Shell>) -> Result {
    let mut shell = None;
    let mut blocks = chapter.blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        let step = step(&block.info)?;
        let shown = blocks.next_if(|next| next.info == "text");
        let shown = shown.map(|shown| shown.text.as_str());
        let outcome = match step {
            Step::NotRun | Step::Tested(_) | Step::Python | Step::Other => continue,
            Step::Shown => bail!("line {}: nothing was run that prints it", block.line),
            Step::Run { .. } | Step::Terminal(_) | Step::File(_) => {
                let shell = match &mut shell {
                    Some(shell) => shell,
                    none => none.insert(new_shell()?),
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
        Step::File(path) => shell.write(path, &block.text),
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
        "rust",
        "rust file=",
    ] {
        assert!(step(info).is_err(), "{info:?}");
    }
    for info in [
        "sh",
        "sh repeat",
        "sh terminal=app",
        "sh not-run: needs Docker",
        "rust file=src/lib.rs",
        "promql",
        "python",
        "python tested=app.py",
    ] {
        assert!(step(info).is_ok(), "{info:?}");
    }
}
