use clap::{CommandFactory as _, FromArgMatches as _, builder::Resettable};
use redis::ConnectionAddr;

use super::*;

/// The options that flags give, independent of the environment of the tests.
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
    let config = check(arguments).expect("valid options");
    let info = config.stores[0].redis.clone();
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
fn a_url_replaces_host_and_port_and_other_options_complete_it() {
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
fn each_shard_has_a_prefix_and_a_host() {
    let stores = |arguments: &[&str]| {
        let config = check(arguments).expect("valid options");
        let stores = config.stores.into_iter();
        let stores = stores.map(|store| (store.shard, store.prefix, store.redis.addr.to_string()));
        stores.collect::<Vec<_>>()
    };
    let shard = |shard: u32, address: &str| {
        let prefix = format!("metrics:{{{shard}}}:");
        (Some(shard), prefix, address.to_owned())
    };
    assert_eq!(
        stores(&[]),
        [(None, "metrics:".into(), "127.0.0.1:6379".into())]
    );
    // As Compose makes it.
    assert_eq!(stores(&["--metrics-shards", ""]), stores(&[]));
    assert_eq!(
        stores(&["--metrics-shards", "2", "--redis-host", "h"]),
        [shard(0, "h:6379"), shard(1, "h:6379")]
    );
    let list = "a, b:7,[::1]:8,::1";
    let shards = stores(&["--metrics-shards", "4", "--redis-host", list]);
    let expected = ["a:6379", "b:7", "::1:8", "::1:6379"];
    assert_eq!(
        shards,
        [0, 1, 2, 3].map(|number| shard(number, expected[number as usize]))
    );
    for (arguments, part) in [
        (vec!["--redis-host", "a,b"], "set METRICS_SHARDS"),
        (
            vec!["--redis-host", "a,b", "--metrics-shards", "3"],
            "has 2 hosts, and METRICS_SHARDS is 3",
        ),
        (vec!["--metrics-shards", "0"], "not a number from 1 to 256"),
        (
            vec!["--metrics-shards", "2", "--metrics-prefix", "{m}:"],
            "contains a brace",
        ),
        (
            vec!["--metrics-shards", "2", "--redis-host", "a,"],
            "an empty host",
        ),
        (
            vec!["--metrics-shards", "2", "--redis-host", "a:x,b"],
            "the port of \"a\" in REDIS_HOST is not a port",
        ),
    ] {
        let text = refusal(&arguments);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn a_host_is_no_url_and_its_password_is_not_shown() {
    for host in [
        "redis://app:s3cret@127.0.0.1:1",
        "redis://:s3cret@h",
        "app:s3cret@h",
        "s3cret@h:x",
        "a,app:s3cret@[::1]:7",
        "[s3cret@",
        "h/s3cret",
    ] {
        let text = refusal(&["--metrics-shards", "2", "--redis-host", host]);
        assert!(text.contains("use REDIS_URL"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    for host in ["redis_1.example", "fe80::1%eth0", "[fe80::1%eth0]:7"] {
        assert!(check(&["--redis-host", host]).is_ok(), "{host}");
    }
}

#[test]
fn tls_is_an_option_or_a_url() {
    let over_tls = |arguments: &[&str]| {
        let config = check(arguments).expect("valid options");
        let addr = &config.stores[0].redis.addr;
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
    assert!(both.contains("does not begin with"), "{both}");
    let none = refusal(&["--redis-tls", "--redis-ca-file", "/nowhere"]);
    assert!(none.contains("/nowhere"), "{none}");
    let empty = refusal(&["--redis-tls", "--redis-ca-file", "/dev/null"]);
    assert!(empty.contains("no certificate"), "{empty}");
}

#[test]
fn redis_options_are_accepted_before_and_after_the_command() {
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
        (["--page-interval-ms", "499"], "from 500 to 60000"),
        (["--settle-interval-ms", "5000"], "--settle-interval-ms"),
        (["--settle-interval-ms", "5000"], "5000 is not in 10..=4999"),
        (["--log-level", "loud"], "loud"),
    ] {
        let text = refusal(&arguments);
        assert!(text.contains(reason), "{arguments:?}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn a_link_is_a_url_without_credentials() {
    let read = |url: &str| link("--x", &Some(url.into())).map_err(|error| format!("{error:#}"));
    assert_eq!(link("--x", &None).expect("none"), None);
    assert_eq!(read(""), Ok(None));
    let grafana = "https://grafana.internal/d/x?theme=light";
    assert_eq!(read(grafana), Ok(Some(grafana.to_owned())));
    for url in [
        "grafana",
        "javascript:alert(1)",
        "http://user:s3cret@grafana",
        "http://s3cret@grafana",
    ] {
        let error = read(url).expect_err(url);
        assert!(
            error.contains("--x") && !error.contains("s3cret"),
            "{error}"
        );
    }
}

#[test]
fn the_pages_interval_is_off_or_bounded() {
    for (text, millis) in [
        ("0", Some(0)),
        ("500", Some(500)),
        ("60000", Some(60_000)),
        ("499", None),
        ("60001", None),
        ("-1", None),
        ("5s", None),
    ] {
        assert_eq!(page_interval(text).ok(), millis, "{text}");
    }
}

#[test]
fn groupings_are_labels_with_any_value() {
    let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
    assert_eq!(grouping("a=b=c"), pair("a", "b=c"));
    assert_eq!(grouping("instance="), pair("instance", ""));
    for text in ["a", "=b", "1=b", "job=b", "__a=b", "a-b=c"] {
        assert!(grouping(text).is_err(), "{text}");
    }
}

#[test]
fn push_intervals_are_bounded() {
    assert_eq!(push_interval("1m 30s"), Ok(Duration::from_secs(90)));
    for text in ["", "15", "0s", "99ms", "2days"] {
        assert!(push_interval(text).is_err(), "{text}");
    }
}

#[test]
fn every_option_is_documented_with_its_variable_and_default() {
    let docs = include_str!("../../../docs/exporter.md");
    let command = Cli::command();
    let push = command.find_subcommand("push").expect("it is a command");
    let options = command.get_arguments().chain(push.get_arguments());
    let mut documented = 0;
    for option in options {
        let name = option.get_long().expect("every option has a long flag");
        let flag = format!("`--{name}");
        let row = docs.lines().find(|line| {
            let mut uses = line.split(&flag).skip(1);
            line.starts_with('|') && uses.any(|rest| rest.starts_with(['`', ' ']))
        });
        let row = row.unwrap_or_else(|| panic!("--{name} is not in docs/exporter.md"));
        let values = option.get_default_values();
        for text in option
            .get_env()
            .into_iter()
            .chain(values.iter().map(|value| &**value))
        {
            let code = format!("`{}`", text.display());
            assert!(row.contains(&code), "{code} is not in {row}");
        }
        documented += 1;
    }
    assert!(documented > 25, "{documented} options");
}
