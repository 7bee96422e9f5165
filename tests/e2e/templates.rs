//! A project made of a template outside the repository, by a user who only has
//! `dist/`: built, served and counted there. With `SPIN_BIN`, Spin itself makes,
//! extends, builds and serves the same project.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, Weak},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    exporter::{EXPORTER, Exporter},
    http,
    process::{Process, on_free_port},
    program,
    redis::RedisServer,
    repository,
    runtime::{LASTING_INSTANCE, Runtime},
};
use functional_scaffold_tests::{
    PATIENCE, copy_repository, run_with_input, service::Service, share_builds, shell, xtask,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::Result;

const NAME: &str = "my-function";
const LANGUAGES: [&str; 3] = ["rust", "python", "javascript"];
/// The guard's default, which the template in Rust shows.
const DEFAULT_BUDGET: &str = "20_000_000_000";
/// The languages of algorithms that are built in the repository. In Python, build and
/// start take 40 s, and a project of its own does the same.
const BUILT: [&str; 2] = ["rust", "javascript"];

#[test]
fn the_checksums_are_right_and_the_same_build_gives_the_same_files() -> Result {
    let folder = TempDir::new()?;
    let other = folder.path().join("other");
    lay_out(&other)?;
    let dist = Dist::shared()?;
    let one = dist.folder();
    assert_eq!(contents(&one)?, contents(&other)?);
    // Also if the repository has a link there.
    let rules = one.join("chart/files/rules.yaml");
    ensure!(fs::symlink_metadata(rules)?.is_file());
    let mut sha256sum = Command::new("sha256sum");
    sha256sum.args(["--check", "SHA256SUMS"]).current_dir(&one);
    let checked = run(&mut sha256sum)?;
    // But for SHA256SUMS itself.
    assert_eq!(checked.matches(": OK\n").count() + 1, contents(&one)?.len());
    Ok(())
}

#[test]
fn its_readme_names_everything_and_only_static_exporters_are_left_out() -> Result {
    let folder = TempDir::new()?;
    let dist = folder.path().join("dist");
    let said = lay_out(&dist)?;
    let readme = fs::read_to_string(dist.join("README.md"))?;
    let table = readme.lines().filter(|line| line.starts_with('|'));
    let files = table.filter_map(|line| line.split('|').nth(1));
    let quoted = files.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let named: BTreeSet<&str> = quoted.collect();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&dist)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(
            named.contains(&*name) || name == "README.md",
            "no {name} in\n{readme}"
        );
        found.insert(name);
    }
    let mut left_out = 0;
    for name in named.iter().filter(|name| !found.contains(**name)) {
        ensure!(name.ends_with("-unknown-linux-musl"), "no {name}");
        ensure!(said.contains(&format!("LEFT OUT: {name}")), "{said}");
        left_out += 1;
    }
    assert_eq!(said.matches("LEFT OUT").count(), left_out, "{said}");
    Ok(())
}

#[test]
fn each_program_has_a_bill_of_materials() -> Result {
    let dist = Dist::shared()?;
    let dist = dist.folder();
    for (built, crates) in [
        ("functional_scaffold.wasm", ["spin-sdk", "subtle"]),
        (
            "functional_scaffold_middleware.wasm",
            ["spin-sdk", "humantime"],
        ),
        ("functional-scaffold-exporter", ["redis", "axum"]),
        ("functional-scaffold-guard", ["wasmparser", "wasm-encoder"]),
    ] {
        ensure!(dist.join(built).is_file(), "no {built}");
        let text = fs::read_to_string(dist.join(built).with_extension("cdx.json"))?;
        let bill: Value = serde_json::from_str(&text)?;
        let components = bill["components"].as_array().context("no components")?;
        for name in crates {
            let component = components.iter().find(|it| it["name"] == name);
            let component = component.with_context(|| format!("{built} without {name}"))?;
            assert_eq!(component["hashes"][0]["alg"], "SHA-256", "{component}");
        }
        let names = components.iter().filter_map(|it| it["name"].as_str());
        let strange: Vec<_> = names.filter(|name| name.contains("wasmtime")).collect();
        assert!(strange.is_empty(), "{built} contains no {strange:?}");
        let place = repository().canonicalize()?;
        ensure!(!text.contains(&place.display().to_string()), "{built}");
    }
    let crates = |target| {
        let mut tree = Command::new(env::var_os("CARGO").context("cargo runs the tests")?);
        tree.args(["tree", "--quiet", "--locked", "--offline", "--edges=normal"]);
        tree.args(["--prefix=none", "--package", EXPORTER, "--target", target]);
        let tree = run(tree.current_dir(repository()))?;
        let crates = tree
            .lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned());
        Ok::<BTreeSet<_>, anyhow::Error>(crates.collect())
    };
    let described = crates("x86_64-unknown-linux-gnu")?;
    ensure!(described.len() > 100, "{described:?}");
    for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"] {
        assert_eq!(described, crates(target)?, "{target}");
    }
    Ok(())
}

#[test]
fn a_project_in_rust_is_served_outside_the_repository() -> Result {
    is_served_outside_the_repository("rust")
}

#[test]
fn a_project_in_python_is_served_outside_the_repository() -> Result {
    is_served_outside_the_repository("python")
}

#[test]
fn a_project_in_javascript_is_served_outside_the_repository() -> Result {
    is_served_outside_the_repository("javascript")
}

/// In this repository, one `spin.toml` serves all of them.
#[test]
fn new_algorithms_are_served_beside_the_others() -> Result {
    let folder = TempDir::new()?;
    let copy = folder.path();
    copy_repository(copy)?;
    for language in LANGUAGES {
        let name = format!("mean-in-{language}");
        run(&mut new(copy, &name, language)?)?;
        let manifests = ["spin.toml", "Cargo.toml"].map(|file| fs::read(copy.join(file)));
        let error = run(&mut new(copy, &name, language)?).expect_err("it is taken");
        assert!(error.to_string().contains("exists already"), "{error}");
        let unchanged = ["spin.toml", "Cargo.toml"].map(|file| fs::read(copy.join(file)));
        for (before, after) in manifests.into_iter().zip(unchanged) {
            assert_eq!(before?, after?);
        }
    }
    for language in LANGUAGES {
        build_and_test(copy, &format!("mean-in-{language}"), language)?;
    }
    let manifest = copy.join("spin.toml");
    let service = start(manifest)?;
    let mut expected = BTreeMap::new();
    for language in BUILT {
        let name = format!("mean-in-{language}");
        expected.extend(serves(
            &service,
            &format!("/invoke/{name}"),
            &name,
            language,
        )?);
    }
    service.wait_for("metrics:algorithm_counter", &expected)
}

/// `spin add` puts the middleware in front of the last trigger of an app.
#[test]
fn spin_add_meters_an_app() -> Result {
    if env::var_os("SPIN_BIN").is_none_or(|name| name.is_empty()) {
        return Ok(());
    }
    let folder = TempDir::new()?;
    let dist = Dist::shared()?;
    let app = folder.path().join("app");
    fs::create_dir(&app)?;
    let component = repository().join("target/wasm32-wasip2/release/http_rust.wasm");
    fs::copy(component, app.join("hello.wasm"))?;
    let manifest = app.join("spin.toml");
    fs::write(
        &manifest,
        "spin_manifest_version = 2\n\n[application]\nname = \"app\"\n\n\
         [variables]\nredis_port = { default = \"6379\" }\n\n\
         [[trigger.http]]\nroute = \"/other\"\ncomponent = \"hello\"\n\n\
         [[trigger.http]]\nroute = \"/hello\"\ncomponent = \"hello\"\n\n\
         [component.hello]\nsource = \"hello.wasm\"\n\
         allowed_outbound_hosts = [\"redis://127.0.0.1:{{ redis_port }}\"]\n\
         [component.hello.variables]\nredis_port = \"{{ redis_port }}\"\n",
    )?;
    let spin = Spin::new(&dist.folder(), folder.path())?;
    run(&mut spin.command(&app, "add -t functional-scaffold-meter metrics")?)?;
    let service = start(manifest)?;
    for path in ["/other", "/hello"] {
        assert_eq!(
            http::get_text(service.app.address(), path)?,
            "Hello, world!"
        );
    }
    let counted = "code=\"200\",endpoint=\"/hello\",method=\"GET\",status=\"success\"";
    service.wait_for("metrics:request_counter", &[(counted.to_owned(), 1)].into())
}

fn is_served_outside_the_repository(language: &str) -> Result {
    let folder = TempDir::new()?;
    let shared = Dist::shared()?;
    let dist = shared.folder();
    let project = folder.path().join(NAME);
    let mut new = new(folder.path(), NAME, language)?;
    new.arg("--dist").arg(&dist).arg("--project").arg(&project);
    run(&mut new)?;
    let made = contents(&project)?;
    prepare(&project, language)?;

    run(&mut shell(&project, &build_command(&project)?)?)?;
    let service = start(project.join("spin.toml"))?;
    let expected = serves(&service, "/invoke", NAME, language)?;
    service.wait_for("metrics:algorithm_counter", &expected)?;
    let exporter = Exporter::start_program(&dist.join(EXPORTER), service.redis.port(), &[])?;
    let scraped = exporter.scrape()?;
    for (labels, count) in expected {
        let line = format!("algorithm_executions_total{{{labels}}} {count}\n");
        ensure!(scraped.contains(&line), "no {line} in\n{scraped}");
    }
    if language == "rust" {
        // What tests the guard is no dependency of a project.
        let lock = fs::read_to_string(project.join("Cargo.lock"))?;
        ensure!(lock.contains("\"wasmparser\"") && !lock.contains("\"wasmtime\""));
    }

    if env::var_os("SPIN_BIN").is_some_and(|name| !name.is_empty()) {
        let project = folder.path().join("by-spin").join(NAME);
        Spin::new(&dist, folder.path())?.makes_and_serves(language, &project, &made)?;
    }
    Ok(())
}

/// The Spin CLI with templates of its own.
struct Spin {
    program: PathBuf,
    data: PathBuf,
}

impl Spin {
    fn new(dist: &Path, folder: &Path) -> Result<Self> {
        let program = Runtime::spin()?.program().to_owned();
        let data = folder.join("spin-data");
        let spin = Self { program, data };
        let install = format!("templates install --dir {}", dist.display());
        run(&mut spin.command(folder, &install)?)?;
        Ok(spin)
    }

    fn command(&self, folder: &Path, arguments: &str) -> Result<Command> {
        let mut command = shell(folder, &format!("exec \"$SPIN\" {arguments}"))?;
        command
            .env("SPIN", &self.program)
            .env("SPIN_DATA_DIR", &self.data);
        Ok(command)
    }

    /// Makes a project with the given files, adds a second algorithm, and serves both.
    fn makes_and_serves(&self, language: &str, project: &Path, made: &Files) -> Result {
        let template = format!("functional-scaffold-{language}");
        let parent = project.parent().context("it is in a folder")?;
        fs::create_dir_all(parent)?;
        run(&mut self.command(parent, &format!("new -t {template} {NAME}"))?)?;
        let mut by_spin = contents(project)?;
        by_spin.retain(|path, _| !path.starts_with(".git/"));
        assert_eq!(&by_spin, made);
        run(&mut self.command(project, &format!("add -t {template} second"))?)?;
        prepare(project, language)?;
        prepare(&project.join("second"), language)?;
        run(&mut self.command(project, "build")?)?;

        let redis = RedisServer::start()?;
        let (_app, address) = on_free_port(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let lasting = LASTING_INSTANCE.join(" ");
            let up = format!("up --listen {address} {lasting}");
            let mut up = self.command(project, &up)?;
            up.env("SPIN_VARIABLE_REDIS_PORT", redis.port().to_string());
            let mut app = Process::start_group(&mut up)?;
            // Spin compiles two components in Python for a minute.
            app.wait_for_output("Serving http://", PATIENCE * 4)?;
            Ok((app, address))
        })?;
        for path in ["/invoke", "/invoke/second"] {
            calculates(address, path)?;
            if language == "rust" {
                survives(address, path)?;
            }
        }
        Ok(())
    }
}

fn start(manifest: PathBuf) -> Result<Service> {
    Service::start_on(RedisServer::start()?, |options| {
        options.manifest(manifest).lasting()
    })
}

/// Sends requests to an algorithm, and returns the executions that are counted then.
fn serves(
    service: &Service,
    path: &str,
    name: &str,
    language: &str,
) -> Result<BTreeMap<String, i64>> {
    let executions = |status, count| (format!("algorithm=\"{name}\",status=\"{status}\""), count);
    calculates(service.app.address(), path)?;
    if language != "rust" {
        return Ok([executions("success", 1), executions("invalid_input", 2)].into());
    }
    survives(service.app.address(), path)?;
    let executions = [("success", 3), ("invalid_input", 2), ("crashed", 2)]
        .map(|(status, count)| executions(status, count));
    Ok(executions.into())
}

fn invoke(address: SocketAddr, path: &str, body: &str) -> Result<(u16, Value)> {
    let line = format!("POST {path}");
    let response = http::request(address, &line, &[], body.as_bytes(), PATIENCE)?;
    let value = serde_json::from_slice(&response.body);
    let text = || format!("{body}: {} {response:?}", response.status);
    Ok((response.status, value.with_context(text)?))
}

/// Sends the requests of which one succeeds and two are refused.
fn calculates(address: SocketAddr, path: &str) -> Result {
    let (status, response) = invoke(address, path, r#"{"numbers": [1, 2, 6]}"#)?;
    assert_eq!(status, 200, "{response}");
    assert_eq!(response["result"]["mean"].as_f64(), Some(3.0), "{response}");
    let (status, response) = invoke(address, path, r#"{"numbers": []}"#)?;
    assert_eq!(status, 422, "{response}");
    assert_eq!(response["detail"], "numbers: at least one is needed");
    let (status, response) = invoke(address, path, r#"{"numbers": [1, "x"]}"#)?;
    assert_eq!(status, 422, "{response}");
    let detail = response["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("numbers[1]: "), "{response}");
    Ok(())
}

/// Sends the inputs with which a [`faulty`] function crashes and loops, and a good one
/// after each. One instance responds to all of them.
fn survives(address: SocketAddr, path: &str) -> Result {
    let mut instances = BTreeSet::new();
    for (number, problem) in [(7, "algorithm-crashed"), (8, "limit-exceeded")] {
        for (number, expected) in [(number, 500), (3, 200)] {
            let body = format!(r#"{{"numbers": [{number}]}}"#);
            let (status, response) = invoke(address, path, &body)?;
            assert_eq!(status, expected, "{response}");
            if status == 500 {
                let problem = format!("urn:functional-scaffold:problem:{problem}");
                assert_eq!(response["type"], problem, "{response}");
            }
            let id = response["request_id"].as_str().context("no request id")?;
            let (instance, _) = id.split_once('-').context("no number in the id")?;
            instances.insert(instance.to_owned());
        }
    }
    assert_eq!(instances.len(), 1, "{instances:?}");
    Ok(())
}

/// Lets the template's function crash with one input and loop with another, within a
/// smaller budget.
fn faulty(folder: &Path) -> Result {
    let help = run(Command::new(guard()?).arg("--help"))?;
    ensure!(help.contains(&DEFAULT_BUDGET.replace('_', "")), "{help}");
    let path = folder.join("src/lib.rs");
    let mut source = fs::read_to_string(&path)?;
    let faults = "    assert!(numbers != [7.0]);\n    while numbers == [8.0] {\n        \
                  std::hint::spin_loop();\n    }\n    let sum";
    for (code, changed) in [(DEFAULT_BUDGET, "10_000_000"), ("    let sum", faults)] {
        ensure!(source.matches(code).count() == 1, "{code} in {source}");
        source = source.replace(code, changed);
    }
    Ok(fs::write(path, source)?)
}

/// `cargo xtask new`.
fn new(folder: &Path, name: &str, language: &str) -> Result<Command> {
    let mut new = Command::new(program::built("xtask-new")?);
    new.args([name, "--lang", language]).current_dir(folder);
    Ok(new)
}

/// Tests a new algorithm, and builds the [`BUILT`], as `cargo xtask build` and `test` do.
fn build_and_test(copy: &Path, name: &str, language: &str) -> Result {
    let folder = copy.join("algorithms").join(name);
    match language {
        "python" => {
            let tested = run(&mut shell(&folder, "python3 -m unittest")?)?;
            ensure!(tested.contains("Ran 1 test"), "{tested}");
        }
        "javascript" => {
            prepare(&folder, language)?;
            let tested = run(&mut shell(&folder, "npm run build && npm test")?)?;
            ensure!(tested.contains("pass 1"), "{tested}");
        }
        _ => {
            faulty(&folder)?;
            let build = "cargo build --release --target wasm32-wasip2 --package";
            let mut build = shell(copy, &format!("{build} {name}"))?;
            run(build.env("CARGO_PROFILE_RELEASE_LTO", "fat"))?;
            let component = copy.join("target/wasm32-wasip2/release");
            let component = component.join(name.replace('-', "_"));
            let mut guard = Command::new(guard()?);
            guard.arg(component.with_extension("wasm"));
            run(guard
                .arg("-o")
                .arg(component.with_extension("guarded.wasm")))?;
            let cargo = env::var_os("CARGO").context("cargo runs the tests")?;
            let mut test = Command::new(&cargo);
            test.args(["test", "--release", "--offline", "--package", name]);
            let tested = run(test.current_dir(copy))?;
            ensure!(tested.contains("1 passed"), "{tested}");
            let mut format = Command::new(&cargo);
            format.args(["fmt", "--check", "--package", name]);
            run(format.current_dir(copy))?;
        }
    }
    Ok(())
}

/// Lays out what was built, as `cargo xtask dist` does. Returns what it says.
fn lay_out(folder: &Path) -> Result<String> {
    let mut dist = Command::new(xtask()?);
    run(dist.args(["dist", "--no-build", "--output"]).arg(folder))
}

/// What was built, laid out once for the tests that run at the same time: it takes 7 s
/// of processor time.
pub(crate) struct Dist(TempDir);

impl Dist {
    pub(crate) fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Dist>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().expect("no panic while it is held");
        if let Some(dist) = shared.upgrade() {
            return Ok(dist);
        }
        let dist = Arc::new(Self(TempDir::new()?));
        lay_out(&dist.folder())?;
        *shared = Arc::downgrade(&dist);
        Ok(dist)
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.0.path().join("dist")
    }
}

fn guard() -> Result<PathBuf> {
    program::built("functional-scaffold-guard")
}

/// The command that Spin runs to build the project.
fn build_command(project: &Path) -> Result<String> {
    let manifest = fs::read_to_string(project.join("spin.toml"))?;
    let mut lines = manifest.lines();
    let command = lines.find_map(|line| line.strip_prefix("command = \"")?.strip_suffix('"'));
    Ok(command.context("spin.toml has no command")?.to_owned())
}

/// Lets a folder use what is built and downloaded for the algorithms here.
fn prepare(folder: &Path, language: &str) -> Result {
    let repository = repository().canonicalize()?;
    match language {
        "python" => {
            let environment = repository.join("algorithms/word-count-py/.venv");
            symlink(environment, folder.join(".venv"))?;
        }
        "javascript" => {
            let packages = repository.join("algorithms/statistics-js/node_modules");
            run(Command::new("cp").arg("-a").arg(packages).arg(folder))?;
        }
        _ => {
            faulty(folder)?;
            share_builds(folder)?;
            fs::copy(repository.join("Cargo.lock"), folder.join("Cargo.lock"))?;
        }
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<String> {
    run_with_input(command, "", "run `cargo xtask build`")
}

/// The files of a folder, by their paths in it.
type Files = BTreeMap<String, Vec<u8>>;

fn contents(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(below)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder)?.display().to_string();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}
