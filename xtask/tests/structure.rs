//! Keeps dependencies pointing one way: no import cycle between the files of a
//! target, and no crate that depends on one it must not know. Keeps the files named
//! in ARCHITECTURE.md where it says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;

/// The packages that a package may depend on, but for its tests. A package that is
/// not listed may depend on any, the dev host excepted.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("protocol", &[]),
    ("guard", &[]),
    ("algorithm", &["algorithm-macros"]),
    ("algorithm-macros", &[]),
    ("devhost", &[]),
    ("exporter", &["protocol"]),
    ("metering", &["protocol"]),
    ("middleware", &["metering", "protocol"]),
    ("functional-scaffold", &["metering", "protocol"]),
];
const MAY_DEPEND_ON_DEVHOST: [&str; 4] = ["benches", "testkit", "tests", "xtask"];

#[test]
fn no_two_files_import_each_other() {
    let mut cycles = String::new();
    for package in packages() {
        let name = short_name(&package);
        for target in array(&package["targets"]) {
            let root = target["src_path"].as_str().expect("a path");
            for cycle in Target::parse(Path::new(root)).cycles() {
                cycles.push_str(&format!("{name}: {cycle}\n"));
            }
        }
    }
    assert!(cycles.is_empty(), "import cycles:\n{cycles}");
}

#[test]
fn packages_depend_one_way() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(short_name).collect();
    for package in &packages {
        let name = short_name(package);
        let allowed = ALLOWED.iter().find(|(listed, _)| *listed == name);
        for dependency in array(&package["dependencies"]) {
            let on = short_name(dependency);
            let for_tests = dependency["kind"] == "dev";
            if names.contains(on) && !for_tests {
                let is_allowed = allowed.is_none_or(|(_, allowed)| allowed.contains(&on));
                assert!(is_allowed, "{name} must not depend on {on}");
            }
            let may_know = on != "devhost" || MAY_DEPEND_ON_DEVHOST.contains(&name);
            assert!(may_know, "{name} must not depend on the dev host");
        }
    }
}

#[test]
fn architecture_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("it is there");
    let code = page.split('`').skip(1).step_by(2);
    let files: Vec<_> = code
        .filter(|code| code.ends_with(".rs") || code.ends_with(".lua"))
        .collect();
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        // `metering/meter.rs` stands for `crates/metering/src/meter.rs`.
        let in_crate = file.split_once('/').is_some_and(|(name, rest)| {
            root.join("crates")
                .join(name)
                .join("src")
                .join(rest)
                .is_file()
        });
        assert!(in_crate || root.join(file).is_file(), "there is no {file}");
    }
}

#[test]
fn a_cycle_is_found_through_children_re_exports_and_macro_arguments() {
    let cycles = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, source) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, source).expect("it can be written");
        }
        Target::parse(&folder.path().join("lib.rs")).cycles()
    };
    // Neither a parent that only declares and re-exports is in a cycle, nor are
    // unit tests that use modules built upon theirs.
    let one_way = [
        ("lib.rs", "mod a; mod b; pub use a::A;"),
        (
            "a.rs",
            "use crate::b::B; pub struct A(B); mod c { use super::A; }",
        ),
        (
            "b.rs",
            "pub struct B; #[cfg(test)] mod tests { use crate::A; }",
        ),
    ];
    assert!(cycles(&one_way).is_empty(), "{:?}", cycles(&one_way));
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
    let expected = "a/mod.rs -> a/b.rs -> a/mod.rs (2 files)";
    assert_eq!(cycles(&with_parent), [expected]);
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

fn short_name(package: &Value) -> &str {
    let name = package["name"].as_str().expect("a name");
    name.strip_prefix("functional-scaffold-").unwrap_or(name)
}

/// The files and modules of a target, its root first.
#[derive(Default)]
struct Target {
    files: Vec<PathBuf>,
    modules: Vec<Module>,
}

/// A module, in its own file or inline.
#[derive(Default)]
struct Module {
    file: usize,
    parent: Option<usize>,
    /// The folder of child modules' files.
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

#[derive(Clone)]
struct Import {
    /// The name in this module; `*` for all names of a module.
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
        let folder = root.parent().expect("a file is in a folder");
        target.add_file(root, None, folder.to_owned());
        target
    }

    fn add_file(&mut self, path: &Path, parent: Option<usize>, folder: PathBuf) -> usize {
        let source = fs::read_to_string(path);
        let source = source.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.files.push(path.to_owned());
        let file = self.files.len() - 1;
        self.add_module(file, parent, folder, source.parse().expect("it compiles"))
    }

    fn add_module(
        &mut self,
        file: usize,
        parent: Option<usize>,
        folder: PathBuf,
        tokens: TokenStream,
    ) -> usize {
        let module = self.modules.len();
        self.modules.push(Module {
            file,
            parent,
            folder,
            ..Module::default()
        });
        self.read(module, tokens);
        module
    }

    fn read(&mut self, module: usize, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let name_at = |at: usize| match tokens.get(at) {
            Some(TokenTree::Ident(name)) => Some(name.to_string()),
            _ => None,
        };
        let mut at = 0;
        while at < tokens.len() {
            if let TokenTree::Group(group) = &tokens[at] {
                self.read(module, group.stream());
            }
            let Some(word) = name_at(at) else {
                at += 1;
                continue;
            };
            let next = name_at(at + 1);
            if let ("mod", Some(name)) = (word.as_str(), &next) {
                self.declare(module, name, &tokens[..at], &tokens[at + 2]);
                at += 3;
            } else if word == "use" && !is_punct(&tokens[at + 1], '<') {
                let mut rest = tokens[at..].iter();
                let length = rest.position(|token| is_punct(token, ';'));
                let end = at + length.expect("a use declaration ends");
                let is_public = tokens[..at].iter().rev().take(2).any(is_pub);
                self.import(module, &tokens[at + 1..end], Vec::new(), is_public);
                at = end + 1;
            } else {
                let here = &mut self.modules[module];
                if ITEM_KEYWORDS.contains(&word.as_str()) {
                    here.items.extend(next);
                } else if word == "macro_rules" {
                    here.items.extend(name_at(at + 2));
                }
                let path = path(&tokens[at..]);
                at += 3 * path.len() - 2;
                here.identifiers.extend(path.iter().cloned());
                here.paths.push(path);
            }
        }
    }

    /// `mod name;` or `mod name { … }`, after `before`.
    fn declare(&mut self, module: usize, name: &str, before: &[TokenTree], body: &TokenTree) {
        let Module { file, folder, .. } = &self.modules[module];
        let (mut file, folder) = (*file, folder.clone());
        let attributes = attributes(before);
        let child = if let TokenTree::Group(group) = body {
            // Unit tests are a file of their own: nothing imports them.
            if attributes.contains(&"cfg(test)".to_owned()) {
                let tests = format!("{} (tests)", self.files[file].display());
                self.files.push(PathBuf::from(tests));
                file = self.files.len() - 1;
            }
            self.add_module(file, Some(module), folder.join(name), group.stream())
        } else {
            let paths = attributes.iter();
            let mut paths = paths.filter_map(|it| it.strip_prefix("path=\"")?.strip_suffix('"'));
            let named = paths
                .next()
                .map(|path| self.files[file].with_file_name(path));
            let mut path = named.unwrap_or_else(|| folder.join(format!("{name}.rs")));
            if !path.is_file() {
                path = folder.join(name).join("mod.rs");
            }
            let folder = match path.ends_with("mod.rs") {
                true => path.with_file_name(""),
                false => path.with_extension(""),
            };
            self.add_file(&path, Some(module), folder)
        };
        self.modules[module].children.insert(name.to_owned(), child);
    }

    /// Reads the tree of a `use` declaration, below `path`.
    fn import(&mut self, module: usize, tree: &[TokenTree], mut path: Vec<String>, public: bool) {
        let mut name = None;
        let mut tokens = tree.iter();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => name = tokens.next().map(text),
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == '*' => name = Some("*".to_owned()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in inner.split(|token| is_punct(token, ',')) {
                        if !tree.is_empty() {
                            self.import(module, tree, path.clone(), public);
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
            is_public: public,
        });
    }

    fn resolve(&self, module: usize, path: &[String], depth: usize) -> Option<Resolved> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Resolved::Module(module));
        };
        let here = &self.modules[module];
        match name.as_str() {
            _ if depth > 20 => return None,
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
            let path = [&import.path, rest].concat();
            return self.resolve(module, &path, depth + 1);
        }
        let mut globs = here.imports.iter().filter(|import| import.name == "*");
        globs.find_map(
            |import| match self.resolve(module, &import.path, depth + 1)? {
                Resolved::Module(other) if other != module => self.resolve(other, path, depth + 1),
                _ => None,
            },
        )
    }

    /// The files that each file uses items of.
    fn edges(&self) -> Vec<BTreeSet<usize>> {
        let mut edges = vec![BTreeSet::new(); self.files.len()];
        for (module, here) in self.modules.iter().enumerate() {
            let edges = &mut edges[here.file];
            for import in &here.imports {
                match self.resolve(module, &import.path, 0) {
                    // A re-export alone is no use.
                    Some(Resolved::ItemIn(file))
                        if !import.is_public || here.identifiers.contains(&import.name) =>
                    {
                        edges.insert(file);
                    }
                    Some(Resolved::Module(other)) if import.name == "*" && !import.is_public => {
                        edges.insert(self.modules[other].file);
                    }
                    // The paths that begin with a module show the items used.
                    _ => {}
                }
            }
            for path in here.paths.iter().filter(|path| path.len() > 1) {
                if let Some(Resolved::ItemIn(file)) = self.resolve(module, path, 0) {
                    edges.insert(file);
                }
            }
            edges.remove(&here.file);
        }
        edges
    }

    /// The shortest cycle of each group of files that import each other.
    fn cycles(&self) -> Vec<String> {
        let edges = self.edges();
        let files = 0..self.files.len();
        let paths: Vec<_> = files
            .clone()
            .map(|file| shortest_paths(&edges, file))
            .collect();
        let mut groups = BTreeMap::new();
        for file in files {
            let is_mutual = |other: &usize| paths[*other].contains_key(&file);
            let group: Vec<usize> = paths[file].keys().copied().filter(is_mutual).collect();
            if group.contains(&file) {
                let shortest = groups
                    .entry(group)
                    .or_insert_with(|| paths[file][&file].clone());
                if paths[file][&file].len() < shortest.len() {
                    shortest.clone_from(&paths[file][&file]);
                }
            }
        }
        let folder = self.files[0].parent().expect("a file is in a folder");
        let name = |file: &usize| {
            let path = &self.files[*file];
            path.strip_prefix(folder)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        let cycles = groups.iter().map(|(group, cycle)| {
            let names: Vec<_> = cycle.iter().map(name).collect();
            format!("{} ({} files)", names.join(" -> "), group.len())
        });
        cycles.collect()
    }
}

/// The shortest path from `file` to each file that it reaches, maybe itself.
fn shortest_paths(edges: &[BTreeSet<usize>], file: usize) -> BTreeMap<usize, Vec<usize>> {
    let mut paths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut left = VecDeque::from([vec![file]]);
    while let Some(path) = left.pop_front() {
        for next in &edges[*path.last().expect("it begins with the file")] {
            if !paths.contains_key(next) {
                let path = [path.as_slice(), &[*next]].concat();
                paths.insert(*next, path.clone());
                left.push_back(path);
            }
        }
    }
    paths
}

/// The path that begins here, `a::b::c`, or a single name.
fn path(tokens: &[TokenTree]) -> Vec<String> {
    let mut path = vec![text(&tokens[0])];
    for next in tokens[1..].chunks(3) {
        match next {
            [first, second, TokenTree::Ident(name)]
                if is_punct(first, ':') && is_punct(second, ':') =>
            {
                path.push(name.to_string());
            }
            _ => break,
        }
    }
    path
}

fn text(token: &TokenTree) -> String {
    token.to_string()
}

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

fn is_pub(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(word) if word == "pub")
}

/// The attributes directly before an item, without spaces: `cfg(test)`.
fn attributes(before: &[TokenTree]) -> Vec<String> {
    let attributes = before.iter().rev().take_while(|token| {
        matches!(token, TokenTree::Group(_)) || is_punct(token, '#') || is_pub(token)
    });
    let attributes = attributes.filter_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
            Some(group.stream().to_string().replace(' ', ""))
        }
        _ => None,
    });
    attributes.collect()
}
