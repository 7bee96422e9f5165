//! A page of Markdown as far as its tests need it: chapters, code blocks,
//! headings with the anchors GitHub gives them, and links to files.

use std::collections::BTreeSet;

use anyhow::ensure;

use crate::Result;

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The text below each `##`. The text before the first is a chapter, too.
    pub(crate) chapters: Vec<Chapter>,
    /// The levels of all headings, in order.
    pub(crate) levels: Vec<usize>,
    /// The names that a link may have after `#`.
    pub(crate) anchors: BTreeSet<String>,
    /// The targets of links within the repository.
    pub(crate) links: Vec<String>,
}

/// A chapter.
#[derive(Debug, Default)]
pub(crate) struct Chapter {
    pub(crate) heading: String,
    pub(crate) blocks: Vec<Block>,
}

/// A fenced block of code.
#[derive(Debug)]
pub(crate) struct Block {
    /// The language, and what follows it.
    pub(crate) info: String,
    pub(crate) text: String,
    /// The number of the line it begins with.
    pub(crate) line: usize,
}

impl Block {
    /// Returns whether it equals a block of a translation.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.info == other.info && self.text == other.text
    }
}

impl Document {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut document = Self::default();
        let mut chapter = Chapter::default();
        let mut open: Option<Block> = None;
        for (index, line) in text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(info)) => {
                    open = Some(Block {
                        info: info.to_owned(),
                        text: String::new(),
                        line: index + 1,
                    });
                }
                (Some(_), Some("")) => chapter.blocks.extend(open.take()),
                (Some(block), _) => block.text.extend([line.trim_end(), "\n"]),
                (None, None) => {
                    if let Some(heading) = document.read_line(line) {
                        document.chapters.push(chapter);
                        chapter = Chapter {
                            heading: heading.to_owned(),
                            blocks: Vec::new(),
                        };
                    }
                }
            }
        }
        ensure!(open.is_none(), "a block is not closed: {open:?}");
        document.chapters.push(chapter);
        Ok(document)
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.chapters.iter().flat_map(|chapter| &chapter.blocks)
    }

    /// Reads a line that is not code. Returns the heading of a chapter.
    fn read_line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let links = line.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.contains("://"));
        self.links.extend(links.map(str::to_owned));
        let ids = line.split("<a id=\"").skip(1);
        let ids = ids.filter_map(|rest| rest.split('"').next());
        self.anchors.extend(ids.map(str::to_owned));

        let level = line.len() - line.trim_start_matches('#').len();
        let heading = line[level..].strip_prefix(' ').filter(|_| level > 0)?;
        self.levels.push(level);
        self.anchors.insert(anchor(heading));
        (level == 2).then_some(heading)
    }
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower
        .chars()
        .filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn finds_what_a_page_holds() -> Result {
    let text = "# A\n[b](c.md#d) [e](http://f)\n```sh x\n# no heading\n```\n\
                ## `C`, or: d_e?\n<a id=\"f\"></a>\n### 运行手册：G\n1. a\n   ```sh\n   b\n   ```\n";
    let page = Document::parse(text)?;
    assert_eq!(page.levels, [1, 2, 3]);
    assert_eq!(page.links, ["c.md#d"]);
    let anchors = ["a", "c-or-d_e", "f", "运行手册g"];
    assert_eq!(page.anchors, anchors.map(str::to_owned).into());
    let blocks: Vec<_> = page
        .blocks()
        .map(|block| (&*block.info, &*block.text))
        .collect();
    assert_eq!(blocks, [("sh x", "# no heading\n"), ("sh", "   b\n")]);
    assert_eq!(page.chapters.len(), 2);
    assert!(Document::parse("```sh\n").is_err());
    Ok(())
}
