//! `dependencies.middleware` of a trigger, and the headers that describe its route.

use functional_scaffold_testkit::{
    http, repository,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::PATIENCE;

use crate::Result;

fn start_echo() -> Result<App> {
    App::start(&AppOptions {
        manifest: repository().join("tests/echo/spin.toml"),
        component: None,
        variables: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
    })
}

/// The values under a name that the component got, in their order.
fn values<'a>(echoed: &'a str, name: &str) -> Vec<&'a str> {
    let headers = echoed.lines().filter_map(|line| line.split_once(": "));
    let named = headers.filter(|(header, _)| *header == name);
    named.map(|(_, value)| value).collect()
}

#[test]
fn middleware_runs_in_order_with_what_it_inherits() -> Result {
    let echo = start_echo()?;
    for (path, expected) in [
        ("/plain/a", &[][..]),
        (
            "/traced/a",
            &[
                "variable var, environment denied",
                "variable denied, environment env",
                "variable denied, environment denied",
            ],
        ),
        (
            "/traced/otherwise",
            &[
                "variable denied, environment denied",
                "variable var, environment env",
            ],
        ),
    ] {
        let echoed = http::get_text(echo.address(), path)?;
        assert_eq!(values(&echoed, "trace"), expected, "{path}");
    }
    Ok(())
}

/// On Spin a client's come before the host's own. So middleware must take the last.
#[test]
fn the_last_value_of_a_header_of_the_route_is_the_hosts() -> Result {
    let echo = start_echo()?;
    let raw = "/plain/:Some_Name/...";
    let full_url = echo.url("/plain/val/a/b?x=y");
    let expected = [
        ("spin-path-info", "/a/b"),
        ("spin-full-url", &full_url),
        ("spin-matched-route", raw),
        ("spin-base-path", "/"),
        ("spin-raw-component-route", raw),
        ("spin-component-route", "/plain/:Some_Name"),
        ("spin-path-match-some-name", "val"),
    ];
    let mut sent: Vec<_> = expected.iter().map(|(name, _)| (*name, "sent")).collect();
    sent.extend([("spin-client-addr", "sent"), ("spin-path-match-x", "sent")]);
    let line = "GET /plain/val/a/b?x=y";
    let echoed = http::request(echo.address(), line, &sent, b"", PATIENCE)?.text()?;
    for (name, value) in expected {
        assert_eq!(values(&echoed, name).last(), Some(&value), "{name}");
    }
    let client = values(&echoed, "spin-client-addr");
    assert!(
        client
            .last()
            .is_some_and(|client| client.starts_with("127.0.0.1:"))
    );
    Ok(())
}
