//! `cargo xtask new`: makes an algorithm of a template, in the workspace or as a
//! project of its own. Renders the files that `spin new` renders, by the same
//! rules.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser as _, ValueEnum};
use liquid::partials::{EagerCompiler, InMemorySource};
use liquid::{Object, Parser, ParserBuilder, object};
use toml::de::DeTable;

const ALGORITHMS: &str = "algorithms";
const MANIFEST: &str = "spin.toml";
const WORKSPACE: &str = "Cargo.toml";
/// The service component, which a template of `cargo xtask dist` contains.
const SERVICE: &str = "functional_scaffold.wasm";
/// The entry of an algorithm in this repository's `spin.toml`.
const ENTRY: &str = "templates/entry.toml";

/// Files of a project that an algorithm in the workspace does not have.
const OF_A_PROJECT: [&str; 4] = [".cargo/config.toml", ".gitignore", "README.md", "spin.toml"];

/// An input of the templates' function.
const EXAMPLE: &str = r#"{"numbers": [1, 2, 6]}"#;

/// The package that Python finds in an algorithm's folder.
const PYTHON_SDK: &str = "../../sdk/python/functional_scaffold";

/// The longest name.
const NAME_LENGTH: usize = 64;

/// Names that a Rust library cannot have: keywords, and crates of the compiler.
const RESERVED: &str = "\
    abstract alloc as async await become box break const continue core crate do dyn else \
    enum extern false final fn for gen if impl in let loop macro match mod move mut override \
    priv proc-macro pub ref return self static std struct super test trait true try type \
    typeof unsafe unsized use virtual where while yield";

/// Make an algorithm that builds, has a test, and is served at /invoke/NAME.
#[derive(clap::Parser)]
#[command(name = "cargo xtask new", bin_name = "cargo xtask new")]
struct New {
    /// Its name, such as word-count: words of lowercase letters and digits that
    /// begin with a letter.
    name: String,

    /// The language of the function.
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,

    /// Make a project of its own in this folder, of the templates in dist/, as
    /// `spin new` does.
    #[arg(long, value_name = "FOLDER")]
    project: Option<PathBuf>,

    /// The folder that `cargo xtask dist` wrote.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "dist",
        requires = "project"
    )]
    dist: PathBuf,
}

fn main() -> ExitCode {
    match New::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Language {
    Rust,
    Python,
    Javascript,
}

impl Language {
    /// The folder of its template, below the one of `templates/`.
    fn template(self, root: &Path) -> PathBuf {
        let name = match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
        };
        root.join("templates").join(name)
    }

    /// The component that the build makes of the algorithm.
    fn component(self, name: &str, folder: &Path) -> PathBuf {
        match self {
            Self::Rust => {
                let file = name.replace('-', "_") + ".guarded.wasm";
                Path::new("target/wasm32-wasip2/release").join(file)
            }
            Self::Python | Self::Javascript => folder.join(name.to_owned() + ".wasm"),
        }
    }

    /// The file with the function.
    fn source(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Python => "app.py",
            Self::Javascript => "app.js",
        }
    }
}

impl New {
    fn run(self) -> Result<()> {
        check_name(&self.name, self.lang)?;
        match &self.project {
            None => self.make_algorithm(),
            Some(folder) => self.make_project(folder),
        }
    }

    fn make_algorithm(&self) -> Result<()> {
        let Self { name, lang, .. } = self;
        let folder = Path::new(ALGORITHMS).join(name);
        let manifest = read(Path::new(MANIFEST))?;
        check_free(name, &folder, &manifest, &read(Path::new("Cargo.lock"))?)?;

        let template = lang.template(Path::new(""));
        let globals = object!({
            "project-name": name,
            "workspace": true,
            "guarded": *lang == Language::Rust,
            "component": lang.component(name, &folder).display().to_string(),
            "variables": variables(&manifest)?,
        });
        let renderer = Renderer::new(&template, globals)?;
        let mut files = renderer.render_folder(&template.join("content"))?;
        files.retain(|path, _| !OF_A_PROJECT.iter().any(|file| path == Path::new(file)));
        let entry = renderer.render(&read(Path::new(ENTRY))?)?;
        let manifest = format!("{}\n\n{entry}", manifest.trim_end());
        DeTable::parse(&manifest).with_context(|| format!("cannot add an entry to {MANIFEST}"))?;

        let workspace = match lang {
            Language::Rust => None,
            _ => Some(excluding(&read(Path::new(WORKSPACE))?, &folder)?),
        };

        write(&folder, &files)?;
        if *lang == Language::Python {
            symlink(PYTHON_SDK, folder.join("functional_scaffold"))
                .with_context(|| format!("cannot link {PYTHON_SDK}"))?;
        }
        if let Some(workspace) = workspace {
            write_file(Path::new(WORKSPACE), workspace)?;
        }
        write_file(Path::new(MANIFEST), manifest)?;
        println!(
            "{} is in {MANIFEST}, under /invoke/{name}. Next:\n",
            folder.display()
        );
        println!("  edit {}", folder.join(lang.source()).display());
        println!("  cargo xtask up");
        println!("  curl -X POST localhost:8000/invoke/{name} -d '{EXAMPLE}'");
        Ok(())
    }

    fn make_project(&self, folder: &Path) -> Result<()> {
        let Self { name, lang, .. } = self;
        ensure!(!folder.exists(), "{} exists", folder.display());
        let template = lang.template(&self.dist);
        let content = template.join("content");
        ensure!(
            content.join(SERVICE).is_file(),
            "{} has no {SERVICE}; run `cargo xtask dist` first",
            content.display()
        );
        let renderer = Renderer::new(&template, object!({ "project-name": name }))?;
        write(folder, &renderer.render_folder(&content)?)?;
        println!("{} is a project of its own. Next:\n", folder.display());
        println!("  cd {}", folder.display());
        println!("  edit {}", lang.source());
        println!("  spin up --build");
        println!("  curl -X POST localhost:3000/invoke -d '{EXAMPLE}'");
        Ok(())
    }
}

/// Fails where cargo or Spin would refuse the name, or the service: Spin wants each
/// word of a component's name to begin with a letter.
fn check_name(name: &str, lang: Language) -> Result<()> {
    let is_word = |word: &str| {
        word.starts_with(|letter: char| letter.is_ascii_lowercase())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    ensure!(
        name.split('-').all(is_word),
        "{name:?} is not a name: use words of a-z and 0-9 that begin with a letter, \
         joined by a hyphen, such as word-count"
    );
    ensure!(
        name.len() <= NAME_LENGTH,
        "{name:?} has {} letters; {NAME_LENGTH} are the most",
        name.len()
    );
    ensure!(
        lang != Language::Rust || RESERVED.split(' ').all(|word| word != name),
        "{name:?} is a reserved word of Rust"
    );
    Ok(())
}

/// Fails where the name is taken in the workspace or in `spin.toml`.
fn check_free(name: &str, folder: &Path, manifest: &str, lock: &str) -> Result<()> {
    ensure!(!folder.exists(), "{} exists already", folder.display());
    let lock = DeTable::parse(lock).context("cannot parse Cargo.lock")?;
    // Files of the build have names in snake case.
    let is_taken = packages(lock.get_ref()).any(|package| package.replace('_', "-") == name);
    ensure!(!is_taken, "{name:?} is a package in Cargo.lock already");
    let manifest = DeTable::parse(manifest).with_context(|| format!("cannot parse {MANIFEST}"))?;
    let manifest = manifest.get_ref();
    let components = table(manifest, "component");
    ensure!(
        components.is_none_or(|components| components.get(name).is_none()),
        "{name:?} is a component in {MANIFEST} already"
    );
    let route = format!("/invoke/{name}");
    ensure!(
        routes(manifest).all(|other| other != route),
        "{route} is a route in {MANIFEST} already"
    );
    Ok(())
}

/// The workspace's `Cargo.toml` with a folder that has no package: the pattern of its
/// members contains the folder.
fn excluding(workspace: &str, folder: &Path) -> Result<String> {
    const LIST: &str = "\nexclude = [";
    ensure!(
        workspace.contains(LIST),
        "{WORKSPACE} has no list of excluded folders"
    );
    let entry = format!("{LIST}\"{}\", ", folder.display());
    let workspace = workspace.replacen(LIST, &entry, 1);
    DeTable::parse(&workspace).with_context(|| format!("cannot change {WORKSPACE}"))?;
    Ok(workspace)
}

fn packages<'a>(lock: &'a DeTable<'_>) -> impl Iterator<Item = &'a str> {
    tables(lock, "package").filter_map(|package| string(package, "name"))
}

fn routes<'a>(manifest: &'a DeTable<'_>) -> impl Iterator<Item = &'a str> {
    let triggers = table(manifest, "trigger").into_iter();
    let triggers = triggers.flat_map(|triggers| tables(triggers, "http"));
    triggers.filter_map(|trigger| string(trigger, "route"))
}

/// The variables that the manifest declares.
fn variables(manifest: &str) -> Result<Vec<String>> {
    let manifest = DeTable::parse(manifest).with_context(|| format!("cannot parse {MANIFEST}"))?;
    let variables = table(manifest.get_ref(), "variables");
    let names = variables.into_iter().flat_map(|table| table.keys());
    Ok(names.map(|name| name.get_ref().to_string()).collect())
}

fn table<'a, 'b>(parent: &'a DeTable<'b>, key: &str) -> Option<&'a DeTable<'b>> {
    parent.get(key)?.get_ref().as_table()
}

fn tables<'a, 'b>(
    parent: &'a DeTable<'b>,
    key: &str,
) -> impl Iterator<Item = &'a DeTable<'b>> + use<'a, 'b> {
    let values = parent.get(key).and_then(|value| value.get_ref().as_array());
    values
        .into_iter()
        .flatten()
        .filter_map(|value| value.get_ref().as_table())
}

fn string<'a>(table: &'a DeTable<'_>, key: &str) -> Option<&'a str> {
    table.get(key)?.get_ref().as_str()
}

/// Renders files as Spin does.
struct Renderer {
    parser: Parser,
    globals: Object,
}

impl Renderer {
    /// A renderer with the partials of a template.
    fn new(template: &Path, globals: Object) -> Result<Self> {
        let mut partials = EagerCompiler::<InMemorySource>::empty();
        let folder = template.join("metadata/partials");
        for path in list_files(&folder)? {
            let name = path.strip_prefix(&folder)?.display().to_string();
            partials.add(name, read(&path)?);
        }
        let parser = ParserBuilder::with_stdlib().partials(partials).build()?;
        Ok(Self { parser, globals })
    }

    fn render(&self, text: &str) -> Result<String> {
        Ok(self.parser.parse(text)?.render(&self.globals)?)
    }

    /// The files of a folder by their paths in it, rendered unless they are binary,
    /// without the ending `.tmpl`.
    fn render_folder(&self, folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for path in list_files(folder)? {
            let cannot_render = || format!("cannot render {}", path.display());
            let content = match String::from_utf8(fs::read(&path).with_context(cannot_render)?) {
                Ok(text) => self.render(&text).with_context(cannot_render)?.into_bytes(),
                Err(binary) => binary.into_bytes(),
            };
            let mut path = path.strip_prefix(folder)?.to_owned();
            if path
                .extension()
                .is_some_and(|extension| extension == "tmpl")
            {
                path.set_extension("");
            }
            files.insert(path, content);
        }
        Ok(files)
    }
}

/// The files in a folder and below.
fn list_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(list_files(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for (path, content) in files {
        let path = folder.join(path);
        let folder = path.with_file_name("");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        write_file(&path, content)?;
    }
    Ok(())
}

fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST_TEXT: &str = r#"
        [[trigger.http]]
        route = "/..."
        component = "prime-check"
        [[trigger.http]]
        route = "/invoke/routed"
        component = "prime-check"
        [component.prime-check]
        source = "a.wasm"
        [component.other]
        source = "b.wasm"
    "#;
    const LOCK: &str = "[[package]]\nname = \"count_primes\"\n[[package]]\nname = \"serde\"\n";

    fn is_free(name: &str) -> Result<()> {
        check_free(name, Path::new("nowhere"), MANIFEST_TEXT, LOCK)
    }

    #[test]
    fn a_name_consists_of_words() {
        for name in ["a", "word-count", "sha256-of-text", &"a".repeat(64)] {
            check_name(name, Language::Rust).expect(name);
        }
        let too_long = "a".repeat(65);
        for name in [
            "", "-", "a-", "-a", "a--b", "1a", "a-1", "A", "a_b", "a b", "a/b", "é", "..",
            &too_long,
        ] {
            check_name(name, Language::Python).expect_err(name);
        }
    }

    #[test]
    fn a_word_of_rust_is_no_name_of_a_library() {
        check_name("match", Language::Rust).expect_err("a keyword");
        check_name("test", Language::Rust).expect_err("a crate of the compiler");
        check_name("match", Language::Python).expect("a module has another name");
    }

    #[test]
    fn spin_adds_the_entry_that_a_new_project_has() {
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates");
        for language in ["rust", "python", "javascript"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            for part in ["common", language].map(|part| templates.join(part)) {
                let files = list_files(&part).expect("a template").into_iter();
                let files = files.map(|path| {
                    let name = path.strip_prefix(&part).expect("it is below").to_owned();
                    (name, fs::read(&path).expect("it is readable"))
                });
                write(folder.path(), &files.collect()).expect("it can be written");
            }
            let globals = object!({ "project-name": "second", "output-path": "second" });
            let renderer = Renderer::new(folder.path(), globals).expect("partials");
            let render = |path| {
                let text = read(&folder.path().join(path)).expect("a file");
                renderer.render(&text).expect(path)
            };
            let project = render("content/spin.toml");
            DeTable::parse(&project).expect("TOML");
            let added = render("metadata/snippets/component.txt");
            assert!(added.contains("source = \"second/functional_scaffold.wasm\""));
            let at_root = added
                .replace("workdir = \"second\"\n", "")
                .replace("second/", "")
                .replace("/invoke/second", "/...");
            assert!(project.ends_with(&at_root), "{project}\n{at_root}");
            let variables = render("metadata/snippets/variables.txt");
            let declared = format!("\n[variables]\n{variables}");
            assert!(project.contains(&declared), "{project}\n{variables}");
        }
    }

    #[test]
    fn a_name_that_is_taken_is_refused_with_its_place() {
        is_free("word-count").expect("nothing has this name");
        for (name, place) in [
            ("serde", "Cargo.lock"),
            ("count-primes", "Cargo.lock"),
            ("other", "a component in spin.toml"),
            ("routed", "/invoke/routed is a route in spin.toml"),
        ] {
            let error = is_free(name).expect_err(name).to_string();
            assert!(error.contains(place), "{error}");
        }
        let here = check_free("free", Path::new("."), MANIFEST_TEXT, LOCK);
        let error = here.expect_err("there is a folder").to_string();
        assert_eq!(error, ". exists already");
    }
}
