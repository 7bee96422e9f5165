//! Tests of the options.

use clap::{CommandFactory as _, FromArgMatches as _, builder::Resettable};
use redis::ConnectionAddr;

use super::*;

/// The options that flags give, whatever the environment of the tests holds.
fn check(arguments: &[&str]) -> anyhow::Result<Config> {
    let matches = Cli::command()
        .mut_args(|option| option.env(Resettable::Reset))
        .try_get_matches_from(["exporter"].iter().chain(arguments))?;
    Cli::from_arg_matches(&matches)?.check()
}

fn refusal(arguments: &[&str]) -> String {
    match check(arguments) {
        Ok(_) => panic!("accepted {arguments:?}"),
        Err(error) => format!("{error:#}"),
    }
}

fn redis(arguments: &[&str]) -> (String, i64, Option<String>, Option<String>) {
    let info = check(arguments).expect("valid options").redis;
    let redis = info.redis;
    (
        info.addr.to_string(),
        redis.db,
        redis.username,
        redis.password,
    )
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_has_a_variable() {
    let command = Cli::command();
    for option in command.get_arguments() {
        let name = option.get_id().as_str();
        let has_one = option.get_env().is_some() || ["help", "version"].contains(&name);
        assert!(has_one, "{name} has no environment variable");
    }
}

#[test]
fn a_url_goes_before_host_and_port_and_the_rest_fills_it() {
    let others = ["--redis-host", "h", "--redis-port", "1", "--redis-db", "3"];
    let user = ["--redis-username", "u", "--redis-password", "p"];
    let all = |url: &'static str| {
        let mut all = vec!["--redis-url", url];
        all.extend(others);
        all.extend(user);
        redis(&all)
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        all("redis://other:2"),
        ("other:2".into(), 3, text("u"), text("p"))
    );
    assert_eq!(
        all("redis://v:q%40@other:2/4"),
        ("other:2".into(), 4, text("v"), text("q@"))
    );
    assert_eq!(
        all("redis+unix:///run/redis.sock"),
        ("/run/redis.sock".into(), 3, text("u"), text("p"))
    );
    assert_eq!(all("").0, "h:1");
}

#[test]
fn tls_is_an_option_or_a_url() {
    let over_tls = |arguments: &[&str]| {
        let addr = check(arguments).expect("valid options").redis.addr;
        matches!(
            addr,
            ConnectionAddr::TcpTls {
                insecure: false,
                ..
            }
        )
    };
    assert!(over_tls(&["--redis-tls"]));
    assert!(over_tls(&["--redis-tls=true"]));
    assert!(over_tls(&["--redis-url", "rediss://h"]));
    assert!(over_tls(&["--redis-url", "rediss://h", "--redis-tls"]));
    assert!(!over_tls(&["--redis-tls="]));
    assert!(!over_tls(&["--redis-url", "redis://h"]));
    let both = refusal(&["--redis-url", "redis://h", "--redis-tls"]);
    assert!(both.contains("which one holds"), "{both}");
    let none = refusal(&["--redis-tls", "--redis-ca-file", "/nowhere"]);
    assert!(none.contains("/nowhere"), "{none}");
    let empty = refusal(&["--redis-tls", "--redis-ca-file", "/dev/null"]);
    assert!(empty.contains("no certificate"), "{empty}");
}

#[test]
fn options_of_redis_hold_before_and_after_the_command() {
    let address = |arguments: &[&str]| redis(arguments).0;
    assert_eq!(address(&["--redis-host", "h", "replay", "f"]), "h:6379");
    assert_eq!(address(&["replay", "f", "--redis-host", "h"]), "h:6379");
    assert!(refusal(&["replay", "--listen", "h:1"]).contains("--listen"));
}

#[test]
fn the_password_may_be_in_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("password");
    let path = file.to_str().expect("a UTF-8 path");
    std::fs::write(&file, "pass word \r\n").expect("written");
    let options = ["--redis-password-file", path];
    assert_eq!(redis(&options).3.as_deref(), Some("pass word "));
    std::fs::write(&file, "\n").expect("written");
    assert_eq!(redis(&options).3, None);
    let both = ["--redis-password-file", path, "--redis-password", "p"];
    assert!(refusal(&both).contains("REDIS_PASSWORD_FILE"));
    let none = refusal(&["--redis-password-file", "/nowhere"]);
    assert!(
        none.contains("/nowhere") && none.contains("No such file"),
        "{none}"
    );
}

#[test]
fn wrong_values_are_refused_with_a_reason_and_without_a_secret() {
    for (arguments, reason) in [
        (["--redis-url", "rediss://:s3cret@h#insecure"], "#"),
        (["--redis-tls=yes", "--redis-tls=yes"], "not true or false"),
        (["--redis-ca-file", "ca.pem"], "REDIS_TLS=true"),
        (["--redis-url", "http://:s3cret@h"], "begins with redis://"),
        (["--redis-url", "s3cret"], "begins with redis://"),
        (["--redis-url", "redis://:s3cret@h/db"], "database number"),
        (["--redis-port", "0"], "1 to 65535"),
        (
            ["--redis-port", "tcp://10.0.0.1:6379"],
            "enableServiceLinks",
        ),
        (["--redis-db", "-1"], "-1"),
        (["--redis-timeout-ms", "0"], "0 is not in 1..=600000"),
        (["--redis-host", ""], "--redis-host"),
        (["--settle-interval-ms", "5000"], "--settle-interval-ms"),
        (["--settle-interval-ms", "5000"], "5000 is not in 10..=4999"),
        (["--log-level", "loud"], "loud"),
    ] {
        let text = refusal(&arguments);
        assert!(text.contains(reason), "{arguments:?}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
