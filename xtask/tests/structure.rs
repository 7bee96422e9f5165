//! Keeps dependencies pointing one way: no import cycle between the files of a
//! target, and no crate that depends on one it must not know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;

/// Packages that still have import cycles. Nothing is added here, and the test
/// fails where one is listed that has none any more.
const KNOWN_CYCLES: &[&str] = &["functional-scaffold-tests"];

/// The workspace packages that each package may depend on (but for tests).
/// Packages that are not listed may depend on any, the dev host excepted.
const ALLOWED: &[(&str, &[&str])] = &[
    ("functional-scaffold-protocol", &[]),
    ("functional-scaffold-guard", &[]),
    (
        "functional-scaffold-algorithm",
        &["functional-scaffold-algorithm-macros"],
    ),
    ("functional-scaffold-devhost", &[]),
    (
        "functional-scaffold-exporter",
        &["functional-scaffold-protocol"],
    ),
    (
        "functional-scaffold-metering",
        &["functional-scaffold-protocol"],
    ),
    (
        "functional-scaffold-middleware",
        &[
            "functional-scaffold-metering",
            "functional-scaffold-protocol",
        ],
    ),
    (
        "functional-scaffold",
        &[
            "functional-scaffold-metering",
            "functional-scaffold-protocol",
        ],
    ),
];

const DEV_HOST: &str = "functional-scaffold-devhost";
const MAY_KNOW_THE_DEV_HOST: [&str; 4] = [
    "functional-scaffold-benches",
    "functional-scaffold-testkit",
    "functional-scaffold-tests",
    "xtask",
];

#[test]
fn no_two_files_import_each_other() {
    let mut with_cycles = BTreeSet::new();
    let mut report = String::new();
    for package in packages() {
        let name = text(&package["name"]);
        for target in array(&package["targets"]) {
            let root = PathBuf::from(text(&target["src_path"]));
            for cycle in Target::parse(&root).cycles() {
                report.push_str(&format!("{name}: {cycle}\n"));
                with_cycles.insert(name.to_owned());
            }
        }
    }
    let known: BTreeSet<String> = KNOWN_CYCLES.iter().map(|name| (*name).to_owned()).collect();
    let new: Vec<_> = with_cycles.difference(&known).collect();
    let gone: Vec<_> = known.difference(&with_cycles).collect();
    assert!(new.is_empty(), "import cycles in {new:?}:\n{report}");
    assert!(
        gone.is_empty(),
        "no import cycle is left in {gone:?}: take them out of KNOWN_CYCLES"
    );
}

#[test]
fn packages_depend_one_way() {
    let packages = packages();
    let names: BTreeSet<_> = packages.iter().map(|it| text(&it["name"])).collect();
    for package in &packages {
        let name = text(&package["name"]);
        let allowed = ALLOWED.iter().find(|(listed, _)| *listed == name);
        for dependency in array(&package["dependencies"]) {
            let on = text(&dependency["name"]);
            if !names.contains(on) {
                continue;
            }
            let for_tests = dependency["kind"] == "dev";
            let is_allowed = allowed.is_none_or(|(_, allowed)| allowed.contains(&on));
            assert!(for_tests || is_allowed, "{name} must not depend on {on}");
            let may_know = on != DEV_HOST || MAY_KNOW_THE_DEV_HOST.contains(&name);
            assert!(may_know, "{name} must not depend on the dev host");
        }
    }
}

#[test]
fn a_cycle_is_found_through_children_re_exports_and_inline_paths() {
    let cycles = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, source) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, source).expect("it can be written");
        }
        Target::parse(&folder.path().join("lib.rs")).cycles()
    };
    // Neither a parent that only declares and re-exports is in a cycle, nor unit
    // tests that use what is built upon their module.
    let one_way = [
        ("lib.rs", "mod a; mod b; pub use a::A;"),
        (
            "a.rs",
            "use crate::b::B; pub struct A(B); #[cfg(test)] mod tests { use super::*; }",
        ),
        (
            "b.rs",
            "pub struct B; #[cfg(test)] mod tests { use crate::A; }",
        ),
    ];
    assert!(cycles(&one_way).is_empty(), "{:?}", cycles(&one_way));
    // The path goes through a re-export, and stands in a macro's arguments.
    let around = [
        ("lib.rs", "mod a; mod b; pub use a::A;"),
        ("a.rs", "use crate::b; pub struct A(b::B);"),
        (
            "b.rs",
            "pub struct B; fn f() { println!(\"{}\", crate::A::g()); }",
        ),
    ];
    assert_eq!(cycles(&around), ["a.rs -> b.rs -> a.rs (2 files)"]);
    let with_parent = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod b; pub struct A; fn f() { b::g() }"),
        ("a/b.rs", "use super::A; pub fn g() {}"),
    ];
    assert_eq!(
        cycles(&with_parent),
        ["a/mod.rs -> a/b.rs -> a/mod.rs (2 files)"]
    );
}

/// The workspace's packages, as `cargo metadata` describes them.
fn packages() -> Vec<Value> {
    let output = Command::new(env::var_os("CARGO").expect("cargo runs the tests"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata failed: {output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    array(&metadata["packages"]).to_vec()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// A target's modules, the root first, and its files.
#[derive(Default)]
struct Target {
    files: Vec<PathBuf>,
    modules: Vec<Module>,
}

/// A module, in a file of its own or inline.
#[derive(Default)]
struct Module {
    file: usize,
    parent: Option<usize>,
    /// Where files of child modules are searched.
    folder: PathBuf,
    children: BTreeMap<String, usize>,
    /// Names defined here.
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in code.
    paths: Vec<Vec<String>>,
    /// Every identifier outside of `use` declarations.
    identifiers: BTreeSet<String>,
}

struct Import {
    /// The name in this module; `*` for all of a module's names.
    name: String,
    path: Vec<String>,
    is_public: bool,
}

/// The target of a path within the crate.
enum Resolved {
    Module(usize),
    ItemIn(usize),
}

const ITEM_KEYWORDS: [&str; 8] = [
    "const", "enum", "fn", "static", "struct", "trait", "type", "union",
];

impl Target {
    fn parse(root: &Path) -> Self {
        let mut target = Self::default();
        let folder = root.parent().expect("a file is in a folder").to_owned();
        target.add_file(root, None, folder);
        target
    }

    fn add_file(&mut self, path: &Path, parent: Option<usize>, folder: PathBuf) -> usize {
        let source = fs::read_to_string(path);
        let source = source.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tokens: TokenStream = source.parse().expect("it compiles");
        self.files.push(path.to_owned());
        self.add_module(self.files.len() - 1, parent, folder, tokens)
    }

    fn add_module(
        &mut self,
        file: usize,
        parent: Option<usize>,
        folder: PathBuf,
        tokens: TokenStream,
    ) -> usize {
        self.modules.push(Module {
            file,
            parent,
            folder,
            ..Module::default()
        });
        let module = self.modules.len() - 1;
        self.read(module, tokens);
        module
    }

    fn read(&mut self, module: usize, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match (&tokens[at], tokens.get(at + 1)) {
                (TokenTree::Ident(word), Some(TokenTree::Ident(name))) if word == "mod" => {
                    self.declare(module, &name.to_string(), &tokens[..at], tokens.get(at + 2));
                    at += 3;
                }
                (TokenTree::Ident(word), next) if word == "use" && !is_punct(next, '<') => {
                    let length = tokens[at..].iter().position(|it| is_punct(Some(it), ';'));
                    let end = at + length.expect("a use declaration ends");
                    let is_public = tokens[..at].iter().rev().take(2).any(is_pub);
                    self.import(module, &tokens[at + 1..end], Vec::new(), is_public);
                    at = end + 1;
                }
                (TokenTree::Ident(word), next) => {
                    let word = word.to_string();
                    let is_definition = ITEM_KEYWORDS.contains(&word.as_str());
                    if let (true, Some(TokenTree::Ident(name))) = (is_definition, next) {
                        self.modules[module].items.insert(name.to_string());
                        at += 2;
                        continue;
                    }
                    if word == "macro_rules"
                        && let Some(TokenTree::Ident(name)) = tokens.get(at + 2)
                    {
                        self.modules[module].items.insert(name.to_string());
                    }
                    let path = path(&tokens[at..]);
                    at += 3 * path.len() - 2;
                    let module = &mut self.modules[module];
                    module.identifiers.extend(path.iter().cloned());
                    if path.len() > 1 {
                        module.paths.push(path);
                    }
                }
                (TokenTree::Group(group), _) => {
                    self.read(module, group.stream());
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    /// `mod name;` or `mod name { … }`, after `before`.
    fn declare(
        &mut self,
        module: usize,
        name: &str,
        before: &[TokenTree],
        body: Option<&TokenTree>,
    ) {
        let folder = self.modules[module].folder.clone();
        let child = match body {
            Some(TokenTree::Group(group)) => {
                let mut file = self.modules[module].file;
                // Unit tests are a file of their own: nothing imports them.
                if is_for_tests(before) {
                    let tests = format!("{} (tests)", self.files[file].display());
                    self.files.push(PathBuf::from(tests));
                    file = self.files.len() - 1;
                }
                self.add_module(file, Some(module), folder.join(name), group.stream())
            }
            _ => {
                let candidates = match path_attribute(before) {
                    Some(path) => {
                        let file = &self.files[self.modules[module].file];
                        vec![file.with_file_name(path)]
                    }
                    None => vec![
                        folder.join(format!("{name}.rs")),
                        folder.join(name).join("mod.rs"),
                    ],
                };
                let path = candidates.iter().find(|path| path.is_file());
                let path = path.unwrap_or_else(|| panic!("no file of {candidates:?}"));
                let folder = match path.ends_with("mod.rs") {
                    true => path.with_file_name(""),
                    false => path.with_extension(""),
                };
                self.add_file(path, Some(module), folder)
            }
        };
        self.modules[module].children.insert(name.to_owned(), child);
    }

    /// Reads the tree of a `use` declaration, below `path`.
    fn import(
        &mut self,
        module: usize,
        tree: &[TokenTree],
        mut path: Vec<String>,
        is_public: bool,
    ) {
        let mut name = None;
        let mut tokens = tree.iter();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => name = tokens.next().map(text_of),
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == '*' => name = Some("*".to_owned()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in inner.split(|token| is_punct(Some(token), ',')) {
                        if !tree.is_empty() {
                            self.import(module, tree, path.clone(), is_public);
                        }
                    }
                    return;
                }
                _ => {}
            }
        }
        let name = name.or_else(|| path.last().cloned());
        self.modules[module].imports.push(Import {
            name: name.expect("an import has a name"),
            path,
            is_public,
        });
    }

    fn resolve(&self, module: usize, path: &[String], depth: usize) -> Option<Resolved> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Resolved::Module(module));
        };
        if depth > 20 {
            return None;
        }
        let here = &self.modules[module];
        match name.as_str() {
            "crate" => return self.resolve(0, rest, depth),
            "self" => return self.resolve(module, rest, depth),
            "super" => return self.resolve(here.parent?, rest, depth),
            _ => {}
        }
        if let Some(child) = here.children.get(name) {
            return self.resolve(*child, rest, depth);
        }
        if here.items.contains(name) {
            return Some(Resolved::ItemIn(here.file));
        }
        if let Some(import) = here.imports.iter().find(|import| import.name == *name) {
            let path: Vec<_> = import.path.iter().chain(rest).cloned().collect();
            return self.resolve(module, &path, depth + 1);
        }
        let globs = here.imports.iter().filter(|import| import.name == "*");
        globs.into_iter().find_map(|import| {
            match self.resolve(module, &import.path, depth + 1)? {
                Resolved::Module(other) if other != module => self.resolve(other, path, depth + 1),
                _ => None,
            }
        })
    }

    /// The files that each file uses items of.
    fn edges(&self) -> Vec<BTreeSet<usize>> {
        let mut edges = vec![BTreeSet::new(); self.files.len()];
        for (module, here) in self.modules.iter().enumerate() {
            // A re-export alone is no use.
            let is_used =
                |import: &&Import| !import.is_public || here.identifiers.contains(&import.name);
            let imports = here.imports.iter().filter(is_used);
            for import in imports {
                match self.resolve(module, &import.path, 0) {
                    Some(Resolved::ItemIn(file)) => drop(edges[here.file].insert(file)),
                    Some(Resolved::Module(other)) if import.name == "*" => {
                        let other = &self.modules[other];
                        if !other.items.is_empty() {
                            edges[here.file].insert(other.file);
                        }
                    }
                    // Paths that begin with the module tell what is used of it.
                    _ => {}
                }
            }
            for path in &here.paths {
                if let Some(Resolved::ItemIn(file)) = self.resolve(module, path, 0) {
                    edges[here.file].insert(file);
                }
            }
        }
        for (file, edges) in edges.iter_mut().enumerate() {
            edges.remove(&file);
        }
        edges
    }

    /// The shortest cycle of each group of files that import each other.
    fn cycles(&self) -> Vec<String> {
        let edges = self.edges();
        let reachable = |from: usize| {
            let mut seen = BTreeSet::new();
            let mut left = vec![from];
            while let Some(file) = left.pop() {
                left.extend(edges[file].iter().filter(|next| seen.insert(**next)));
            }
            seen
        };
        let reachable: Vec<_> = (0..self.files.len()).map(reachable).collect();
        let mut reported = BTreeSet::new();
        let mut cycles = Vec::new();
        for file in 0..self.files.len() {
            let group: BTreeSet<usize> = reachable[file]
                .iter()
                .copied()
                .filter(|other| reachable[*other].contains(&file))
                .collect();
            if group.contains(&file) && reported.insert(group.clone()) {
                let shortest = group.iter().map(|file| shortest_cycle(&edges, *file));
                let shortest = shortest.min_by_key(Vec::len).expect("a group has files");
                let names: Vec<_> = shortest.iter().map(|file| self.name(*file)).collect();
                cycles.push(format!("{} ({} files)", names.join(" -> "), group.len()));
            }
        }
        cycles
    }

    fn name(&self, file: usize) -> String {
        let folder = self.files[0].parent().expect("a file is in a folder");
        let path = self.files[file].strip_prefix(folder);
        path.unwrap_or(&self.files[file]).display().to_string()
    }
}

/// From `file` back to it, in the fewest steps.
fn shortest_cycle(edges: &[BTreeSet<usize>], file: usize) -> Vec<usize> {
    let mut came_from = BTreeMap::new();
    let mut left = VecDeque::from([file]);
    while let Some(at) = left.pop_front() {
        for next in &edges[at] {
            if !came_from.contains_key(next) {
                came_from.insert(*next, at);
                left.push_back(*next);
            }
        }
    }
    let mut cycle = vec![file];
    loop {
        let at = came_from[cycle.last().expect("it has one")];
        cycle.push(at);
        if at == file {
            cycle.reverse();
            return cycle;
        }
    }
}

/// The path that begins here: `a::b::c`; one name if it is none.
fn path(tokens: &[TokenTree]) -> Vec<String> {
    let mut path = vec![text_of(&tokens[0])];
    for next in tokens[1..].chunks(3) {
        match next {
            [first, second, TokenTree::Ident(name)]
                if is_punct(Some(first), ':') && is_punct(Some(second), ':') =>
            {
                path.push(name.to_string());
            }
            _ => break,
        }
    }
    path
}

fn text_of(token: &TokenTree) -> String {
    token.to_string()
}

fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

/// `pub`, before `use` or before the parentheses that restrict it.
fn is_pub(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(word) if word == "pub")
}

/// The value of `#[path = "…"]` among the attributes directly before a module.
fn path_attribute(before: &[TokenTree]) -> Option<String> {
    attributes(before).find_map(|tokens| match tokens.as_slice() {
        [TokenTree::Ident(name), _, TokenTree::Literal(value)] if name == "path" => {
            Some(value.to_string().trim_matches('"').to_owned())
        }
        _ => None,
    })
}

/// Whether a module has `#[cfg(test)]`.
fn is_for_tests(before: &[TokenTree]) -> bool {
    attributes(before).any(|tokens| {
        let text: Vec<_> = tokens.iter().map(text_of).collect();
        text == ["cfg", "(test)"]
    })
}

/// The contents of the attributes directly before an item.
fn attributes(before: &[TokenTree]) -> impl Iterator<Item = Vec<TokenTree>> {
    let attributes = before.iter().rev().take_while(|token| {
        matches!(token, TokenTree::Group(_)) || is_punct(Some(token), '#') || is_pub(token)
    });
    attributes.filter_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    })
}
