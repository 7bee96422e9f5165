//! With `SPIN_BIN`: the applications in a registry, from which Spin serves them. That is
//! how the chart runs them.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    http,
    manifest::Manifest,
    process::{Process, on_free_port, poll_until},
    redis::RedisServer,
    repository,
    runtime::Runtime,
};
use functional_scaffold_tests::PATIENCE;
use tempfile::TempDir;

use crate::Result;

fn start_registry(folder: &Path) -> Result<(Process, SocketAddr)> {
    on_free_port(|port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let configuration = folder.join("registry.yml");
        let storage = folder.join("storage");
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nhttp: {{addr: \"{address}\"}}\n\
                 storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n",
                storage.display()
            ),
        )?;
        let mut registry = Command::new("docker-registry");
        let registry = Process::start_group(registry.arg("serve").arg(configuration));
        let mut registry = registry.context("apt-get install docker-registry")?;
        registry.wait_until(PATIENCE, |_| http::check_ok(address, "/v2/"))?;
        Ok((registry, address))
    })
}

/// Pushes an application, serves it from the registry, and waits until Redis holds the
/// count of its requests.
fn is_served_and_counted(
    manifest: &Path,
    component: &str,
    request: (&str, &str),
    (key, cell): (&str, &str),
) -> Result {
    if env::var_os("SPIN_BIN").is_none_or(|name| name.is_empty()) {
        return Ok(());
    }
    let spin = Runtime::spin()?;
    let folder = TempDir::new()?;
    let (_registry, address) = start_registry(folder.path())?;
    let reference = format!("{address}/team/{component}:1.2.3");
    let manifest = Manifest::serving(manifest, &["redis_port"], Some(component))?;
    let spin = |subcommand: &[&str], cache: &str| {
        let mut command = Command::new(spin.program());
        command.args(subcommand).args(["--insecure", "--cache-dir"]);
        command.arg(folder.path().join(cache)).current_dir(&folder);
        command
    };
    let mut push = spin(&["registry", "push"], "pushed");
    let output = push
        .arg("--from")
        .arg(manifest.path())
        .arg(&reference)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{push:?}:\n{said}");

    let redis = RedisServer::start()?;
    let (_app, address) = on_free_port(|port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // A cache of its own: all of it comes from the registry.
        let mut up = spin(&["up", "--from", &reference, "--state-dir", ""], "fetched");
        up.args(["--listen", &address.to_string()]);
        up.env("SPIN_VARIABLE_REDIS_PORT", redis.port().to_string());
        let mut app = Process::start_group(&mut up)?;
        app.wait_for_output("Serving http://", PATIENCE)?;
        Ok((app, address))
    })?;
    let (line, body) = request;
    for _ in 0..3 {
        let response = http::request(address, line, &[], body.as_bytes(), PATIENCE)?;
        assert_eq!(response.status, 200, "{response:?}");
    }
    poll_until(PATIENCE, || {
        let cells = redis.cells(key)?;
        ensure!(cells.get(cell) == Some(&3), "{cells:?}");
        Ok(())
    })
}

#[test]
fn an_algorithm_is_served_and_counted() -> Result {
    is_served_and_counted(
        &repository().join("spin.toml"),
        "prime-check",
        ("POST /invoke", r#"{"number": 17}"#),
        (
            "metrics:algorithm_counter",
            "algorithm=\"prime-check\",status=\"success\"",
        ),
    )
}

#[test]
fn a_metered_app_is_served_and_counted() -> Result {
    is_served_and_counted(
        &repository().join("examples/metered-app/spin.toml"),
        "shop",
        ("GET /products", ""),
        (
            "metrics:request_counter",
            "code=\"200\",endpoint=\"/products\",method=\"GET\",status=\"success\"",
        ),
    )
}
