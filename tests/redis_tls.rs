//! Redis over TLS: the application and the exporter with a certificate of a
//! private authority, and what they say when they should not trust it.

use std::{ffi::OsStr, fs, path::PathBuf, time::Duration};

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Until, load},
    exporter::Exporter,
    process::{free_port, poll_until},
    redis_server::RedisServer,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

type Result<T = ()> = anyhow::Result<T>;

const PASSWORD: &str = "p@ss/word";
const BOUND: Duration = Duration::from_secs(5);

/// A Redis that wants TLS and a password on `port`.
struct Secured {
    redis: RedisServer,
    port: u16,
    authority: PathBuf,
}

impl Secured {
    /// Its certificate is for `host`.
    fn start(host: &str) -> Result<Self> {
        let mut redis = RedisServer::start()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate whose issuer has its own name is taken for self-signed.
        let names = &mut authority.distinguished_name;
        names.push(DnType::CommonName, "an authority of one's own");
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let authority = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &authority)?;
        for (name, text) in [
            ("ca.pem", authority_certificate.pem()),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(redis.folder().join(name), text)?;
        }
        let port = free_port()?;
        redis.relaunch(&[
            "--tls-port",
            &port.to_string(),
            // Relative to its data.
            "--tls-cert-file",
            "cert.pem",
            "--tls-key-file",
            "key.pem",
            "--tls-ca-cert-file",
            "ca.pem",
            "--tls-auth-clients",
            "no",
            "--requirepass",
            PASSWORD,
        ])?;
        redis.wait_until_it_answers()?;
        Ok(Self {
            authority: redis.folder().join("ca.pem"),
            redis,
            port,
        })
    }

    fn app(&self) -> AppOptions {
        AppOptions::with_redis(self.port)
            .variable("redis_tls", "true")
            .variable("redis_password", PASSWORD)
            // Spin reads every certificate that the machine trusts for each
            // connection, which takes a busy machine a while.
            .variable("lease_timeout_ms", "1000")
            .variable("redis_timeout_ms", "5000")
    }
}

async fn readiness(app: &App) -> Result<(u16, String)> {
    let response = reqwest::get(app.url("/readyz")).await?;
    Ok((response.status().as_u16(), response.text().await?))
}

/// Requests are answered as ever, and log and `/readyz` say why they are not
/// counted.
async fn refuses(options: &AppOptions, words: &str) -> Result {
    let app = App::start(options)?;
    let kinds = [Kind::invoke(r#"{"number": 17}"#)];
    let ledger = load(&app.url(""), &kinds, 4, Until::Requests(40)).await?;
    assert_eq!(ledger.with_code(200), 40, "{ledger:?}");
    let (code, text) = readiness(&app).await?;
    assert!(code == 503 && text.contains(words), "{code} {text}");
    poll_until(BOUND, || {
        let lines = app.log("batch_not_stored")?;
        let reason = lines.first().and_then(|line| line["reason"].as_str());
        let reason = reason.unwrap_or_default();
        ensure!(reason.contains(words), "{reason:?} does not say {words:?}");
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_over_tls_with_an_authority_of_ones_own() -> Result {
    let secured = Secured::start("127.0.0.1")?;
    let mut options = secured.app();
    options
        .environment
        .push(("SSL_CERT_FILE", secured.authority.clone()));
    let app = App::start(&options)?;
    let kinds = [Kind::invoke(r#"{"number": 17}"#)];
    let ledger = load(&app.url(""), &kinds, 4, Until::Requests(40)).await?;
    poll_until(BOUND, || {
        let counted = secured.redis.cells("metrics:request_counter")?;
        ensure!(counted == ledger.answers, "{counted:?} is not {ledger:?}");
        Ok(())
    })?;
    let (code, text) = readiness(&app).await?;
    let expected = format!(
        "redis: ok (rediss://127.0.0.1:{} accepts writes)",
        secured.port
    );
    assert!(code == 200 && text.contains(&expected), "{code} {text}");

    let exporter = Exporter::start_with(
        secured.port,
        &[
            ("REDIS_TLS", OsStr::new("true")),
            ("REDIS_CA_FILE", secured.authority.as_os_str()),
            ("REDIS_PASSWORD", OsStr::new(PASSWORD)),
        ],
    )
    .await?;
    let scraped = exporter.scrape().await?;
    let sample = r#"algorithm_executions_total{algorithm="prime-check",status="success"} 40"#;
    assert!(scraped.contains(sample), "{scraped}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_is_refused() -> Result {
    let secured = Secured::start("127.0.0.1")?;
    refuses(&secured.app(), "certificate is not trusted").await?;
    let variables = [
        ("REDIS_TLS", OsStr::new("true")),
        ("REDIS_PASSWORD", OsStr::new(PASSWORD)),
    ];
    let exporter = Exporter::start_with(secured.port, &variables).await?;
    let scraped = exporter.scrape().await?;
    assert!(
        scraped.contains("functional_scaffold_redis_up 0"),
        "{scraped}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_host_is_refused() -> Result {
    let secured = Secured::start("redis.test")?;
    let mut options = secured.app();
    options
        .environment
        .push(("SSL_CERT_FILE", secured.authority.clone()));
    refuses(&options, "certificate is not trusted").await
}
