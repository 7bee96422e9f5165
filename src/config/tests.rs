//! Tests of the variables.

use super::*;

fn config(values: &[(&'static str, &str)]) -> Result<Config, Vec<ConfigError>> {
    let values = values
        .iter()
        .map(|&(name, value)| (name, value.to_owned()))
        .collect();
    Config::from_values(&values)
}

#[test]
fn every_variable_has_a_default() {
    let config = config(&[("api_key", ""), ("redis_tls", "")]).ok();
    let config = config.expect("nothing is wrong");
    assert_eq!(config.redis.url(), "redis://127.0.0.1:6379/0");
    assert_eq!(config.max_body_bytes, 1 << 20);
    assert_eq!(config.api_key, None);
}

#[test]
fn increments_collect_for_longer_where_there_are_no_leases() {
    for (values, millis) in [
        (&[("metrics_durability", "exact")][..], 20),
        (&[("metrics_durability", "strict")], 20),
        (&[("metrics_durability", "relaxed")], 50),
        (&[("metrics_backend", "pushgateway")], 50),
        (
            &[
                ("metrics_durability", "relaxed"),
                ("flush_interval_ms", "7"),
            ],
            7,
        ),
    ] {
        let config = config(values).ok();
        let config = config.expect("nothing is wrong");
        assert_eq!(config.flush_interval, Duration::from_millis(millis));
    }
}

#[test]
fn wrong_values_are_refused_by_name_all_at_once() {
    let (long_prefix, long_name) = ("é".repeat(65), "x".repeat(257));
    for (name, value) in [
        ("metrics_backend", "statsd"),
        ("metrics_durability", "sure"),
        ("lease_timeout_ms", "0"),
        ("execution_limit_ms", "99"),
        ("redis_host", ""),
        ("redis_host", "redis://x"),
        ("redis_port", ""),
        ("redis_port", "0"),
        ("redis_port", "65536"),
        ("redis_tls", "yes"),
        ("redis_metrics_db", "-1"),
        ("redis_timeout_ms", "0"),
        ("flush_interval_ms", "501"),
        ("flush_interval_ms", "1.5"),
        ("max_body_bytes", "1MiB"),
        ("log_level", "loud"),
        ("metrics_endpoint", "on"),
        ("push_timeout_ms", "1001"),
        ("pushgateway_url", "127.0.0.1:9091"),
        ("pushgateway_url", "redis://h:9091"),
        ("pushgateway_url", "http://h:9091/pushgateway"),
        ("pushgateway_url", "http://h:x"),
        ("pushgateway_url", "http://h:"),
        ("pushgateway_url", "http://h:0"),
        ("pushgateway_url", "http://[::1"),
        ("pushgateway_url", "http://"),
        ("pushgateway_url", "http://*:9091"),
        ("metrics_prefix", &long_prefix),
        ("metrics_job_name", &long_name),
        ("instance_id", &long_name),
    ] {
        let errors = config(&[(name, value)]).err().expect("it is refused");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].name, name);
        assert!(errors[0].reason.contains(value), "{}", errors[0]);
    }
    let both = config(&[("redis_port", "x"), ("log_level", "y")]);
    assert_eq!(both.err().map(|errors| errors.len()), Some(2));
}

#[test]
fn a_pushgateway_is_named_by_scheme_host_and_port() {
    let origin = |url| {
        let config = config(&[("pushgateway_url", url)]).ok();
        config.expect("nothing is wrong").pushgateway.origin
    };
    for (url, shown) in [
        ("http://127.0.0.1:9091", "http://127.0.0.1:9091"),
        ("http://push.example_1/", "http://push.example_1"),
        ("https://[::1]:9091", "https://[::1]:9091"),
        ("https://[::1]", "https://[::1]"),
        ("", "http://127.0.0.1:9091"),
    ] {
        assert_eq!(origin(url).to_string(), shown);
    }
    let needed = [("metrics_backend", "pushgateway"), ("pushgateway_url", "")];
    assert!(config(&needed).is_err(), "no host would be allowed");
    let secret = config(&[("pushgateway_url", "http://me:s3cret@h:9091")]);
    let errors = secret.err().expect("it is refused");
    assert!(!errors[0].to_string().contains("s3cret"), "{}", errors[0]);
}

#[test]
fn only_redis_acknowledges() {
    let durability = |backend| {
        let config = config(&[
            ("metrics_backend", backend),
            ("metrics_durability", "strict"),
        ]);
        let config = config.ok();
        config.expect("nothing is wrong").durability
    };
    assert_eq!(durability("redis"), Durability::Strict);
    assert_eq!(durability("pushgateway"), Durability::Relaxed);
    assert_eq!(durability("pull"), Durability::Relaxed);
}

#[test]
fn tls_is_a_scheme_of_its_own() {
    let config = config(&[("redis_tls", "true"), ("redis_password", "s3cret")]).ok();
    let redis = config.expect("nothing is wrong").redis;
    assert_eq!(redis.url(), "rediss://:s3cret@127.0.0.1:6379/0");
    assert_eq!(redis.shown(), "rediss://127.0.0.1:6379");
}

#[test]
fn user_info_is_percent_encoded() {
    let config = config(&[
        ("redis_host", "::1"),
        ("redis_username", "me"),
        ("redis_password", "p@ss/w:rd é"),
        ("redis_metrics_db", "3"),
    ])
    .ok();
    let config = config.expect("nothing is wrong");
    assert_eq!(
        config.redis.url(),
        "redis://me:p%40ss%2Fw%3Ard%20%C3%A9@[::1]:6379/3"
    );
}
