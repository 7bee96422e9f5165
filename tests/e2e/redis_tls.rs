//! Redis over TLS: the application and the exporter with a certificate of a
//! private authority, and what they say when they must not trust it.

use std::{ffi::OsStr, fs, path::PathBuf};

use anyhow::ensure;
use functional_scaffold_testkit::{
    exporter::Exporter,
    load::{RequestKind, Tally, Until},
    process::{free_port, poll_until},
    redis::{RedisOptions, RedisServer},
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    service::{PRIME, load_all, readiness},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::Result;

const PASSWORD: &str = "p@ss/word";

/// A Redis that requires TLS and a password on `port`.
struct Secured {
    redis: RedisServer,
    port: u16,
    authority: PathBuf,
    _folder: tempfile::TempDir,
}

impl Secured {
    /// Its certificate is for `host`.
    fn start(host: &str) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate whose issuer has its own name is taken for self-signed.
        let names = &mut authority.distinguished_name;
        names.push(DnType::CommonName, "a private authority");
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let authority = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_owned()])?;
        let certificate = certificate.signed_by(&key, &authority)?;
        let folder = tempfile::tempdir()?;
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let file = folder.path().join(name);
            fs::write(&file, text)?;
            Ok(file)
        };
        let authority = write("ca.pem", authority_certificate.pem())?;
        let certificate = write("cert.pem", certificate.pem())?;
        let key = write("key.pem", key.serialize_pem())?;
        let port = free_port()?;
        let redis = RedisOptions::new()
            .line("tls-port", &[&port.to_string()])
            .line("tls-cert-file", &[&certificate.display().to_string()])
            .line("tls-key-file", &[&key.display().to_string()])
            .line("tls-ca-cert-file", &[&authority.display().to_string()])
            .line("tls-auth-clients", &["no"])
            .line("requirepass", &[PASSWORD])
            .start()?;
        Ok(Self {
            redis,
            port,
            authority,
            _folder: folder,
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

    /// The same, trusting the private authority.
    fn trusting_app(&self) -> AppOptions {
        let mut options = self.app();
        let trusted = ("SSL_CERT_FILE", self.authority.clone());
        options.environment.push(trusted);
        options
    }
}

fn send(app: &App) -> Result<Tally> {
    let kinds = [RequestKind::invoke(PRIME)];
    let tally = load_all(app, &kinds, 4, Until::Requests(40))?;
    ensure!(tally.with_code(200) == 40, "{tally:?}");
    Ok(tally)
}

/// Responses do not change, and log and `/readyz` say why requests are not counted.
fn refuses(options: &AppOptions, words: &str) -> Result {
    let app = App::start(options)?;
    send(&app)?;
    let (code, text) = readiness(&app)?;
    assert!(code == 503 && text.contains(words), "{code} {text}");
    poll_until(PATIENCE, || {
        let lines = app.log("batch_not_stored")?;
        let reason = lines.first().and_then(|line| line["reason"].as_str());
        let reason = reason.unwrap_or_default();
        ensure!(reason.contains(words), "{reason:?} does not say {words:?}");
        Ok(())
    })
}

#[test]
fn counts_over_tls_with_a_private_authority() -> Result {
    let secured = Secured::start("127.0.0.1")?;
    let app = App::start(&secured.trusting_app())?;
    let tally = send(&app)?;
    poll_until(PATIENCE, || {
        let counted = secured.redis.cells("metrics:request_counter")?;
        ensure!(counted == tally.responses, "{counted:?} is not {tally:?}");
        Ok(())
    })?;
    let (code, text) = readiness(&app)?;
    let expected = format!(
        "redis: ok (rediss://127.0.0.1:{} accepts writes)",
        secured.port
    );
    assert!(code == 200 && text.contains(&expected), "{code} {text}");

    let variables = [
        ("REDIS_TLS", OsStr::new("true")),
        ("REDIS_CA_FILE", secured.authority.as_os_str()),
        ("REDIS_PASSWORD", OsStr::new(PASSWORD)),
    ];
    let scraped = Exporter::start_with(secured.port, &variables)?.scrape()?;
    let sample = r#"algorithm_executions_total{algorithm="prime-check",status="success"} 40"#;
    assert!(scraped.contains(sample), "{scraped}");
    Ok(())
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() -> Result {
    let secured = Secured::start("127.0.0.1")?;
    refuses(&secured.app(), "certificate is not trusted")?;
    let variables = [
        ("REDIS_TLS", OsStr::new("true")),
        ("REDIS_PASSWORD", OsStr::new(PASSWORD)),
    ];
    let scraped = Exporter::start_with(secured.port, &variables)?.scrape()?;
    assert!(
        scraped.contains("functional_scaffold_redis_up 0"),
        "{scraped}"
    );
    Ok(())
}

#[test]
fn a_certificate_of_another_host_is_refused() -> Result {
    let secured = Secured::start("redis.test")?;
    refuses(&secured.trusting_app(), "certificate is not trusted")
}
