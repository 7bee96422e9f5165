//! That a reader of `docs/guide.md` who copies its commands, block by block, sees
//! what it shows, and that the guide in Chinese is the same guide.
//!
//! What is done with a block, its info string says after the language:
//!
//! | info string | the block is |
//! |---|---|
//! | `sh` | run to its end; a `text` block after it is what it prints |
//! | `sh repeat` | likewise, and again until it prints that |
//! | `sh terminal=NAME` | run in a terminal of this name, after a Ctrl-C there, until the `text` after it was printed; it runs on until another command in that terminal, or the end of the chapter (`##`) |
//! | `sh not-run: REASON` | not run |
//!
//! In a `text` block, `…` stands for any text.

#[path = "guide/chapter.rs"]
mod chapter;
#[path = "guide/markdown.rs"]
mod markdown;
#[path = "guide/shell.rs"]
mod shell;

use std::{collections::BTreeSet, env, fs, path::Path};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::repository;

use markdown::Document;

type Result<T = ()> = anyhow::Result<T>;

const ENGLISH: &str = "docs/guide.md";
const CHINESE: &str = "docs/guide.zh-CN.md";

fn read(path: &str) -> Result<Document> {
    let text = fs::read_to_string(repository().join(path));
    Document::parse(&text.with_context(|| path.to_owned())?).with_context(|| path.to_owned())
}

/// `SCAFFOLD_GUIDE` names a part of a chapter's heading, to run that one alone.
#[test]
fn every_command_shows_what_the_guide_says() -> Result {
    let guide = read(ENGLISH)?;
    let asked = env::var("SCAFFOLD_GUIDE").unwrap_or_default();
    let chapters = guide.chapters.iter();
    for chapter in chapters.filter(|chapter| chapter.heading.contains(&asked)) {
        chapter::run(chapter).with_context(|| chapter.heading.clone())?;
    }
    Ok(())
}

#[test]
fn both_languages_have_the_same_commands_in_the_same_sections() -> Result {
    for (english, chinese) in [(ENGLISH, CHINESE), ("README.md", "README.zh-CN.md")] {
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
fn every_alert_has_its_runbook_in_both_languages() -> Result {
    let rules = fs::read_to_string(repository().join("monitoring/alerts/rules.yaml"))?;
    let runbooks: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook_url: docs/guide.md#"))
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
            ensure!(
                index.contains(&name),
                "docs/adr/README.md does not list {name}"
            );
            decisions += 1;
        }
    }
    ensure!(decisions > 20, "{decisions} decisions");
    Ok(())
}
