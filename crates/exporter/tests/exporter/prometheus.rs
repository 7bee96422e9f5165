//! A real Prometheus and a real Pushgateway on free ports, stopped on drop.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    client::{Answer, ask},
    support::{free_port, needed, wait_for},
};

/// A server of Debian's package `prometheus` or `prometheus-pushgateway`.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    _directory: TempDir,
}

impl Server {
    fn start(program: &str, configure: impl Fn(&mut Command, &TempDir)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new(program);
        command.arg(format!("--web.listen-address={address}"));
        configure(&mut command, &directory);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = needed(program, program, &mut command);
        let server = Self {
            child,
            address,
            _directory: directory,
        };
        wait_for(program, || TcpStream::connect(address).ok());
        server
    }

    /// A Pushgateway, with further options.
    pub(crate) fn pushgateway(options: &[&str]) -> Self {
        Self::start("prometheus-pushgateway", |command, directory| {
            let file = directory.path().join("groups");
            command
                .arg(format!("--persistence.file={}", file.display()))
                .args(options);
        })
    }

    /// A Prometheus that scrapes these addresses every second.
    pub(crate) fn prometheus(targets: &[SocketAddr]) -> Self {
        Self::prometheus_with(targets, "scheme: http")
    }

    /// The same with further lines of its scrape configuration.
    pub(crate) fn prometheus_with(targets: &[SocketAddr], further: &str) -> Self {
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - job_name: scraped\n  honor_labels: true\n  {further}\n  \
             static_configs: [{{targets: [{}]}}]\n",
            targets.join(",")
        );
        let server = Self::start("prometheus", |command, directory| {
            let path = |name: &str| directory.path().join(name).display().to_string();
            std::fs::write(path("config.yml"), &config).expect("written");
            command
                .arg(format!("--config.file={}", path("config.yml")))
                .arg(format!("--storage.tsdb.path={}", path("data")));
        });
        wait_for("ready Prometheus", || {
            (server.get("/-/ready").status == 200).then_some(())
        });
        server
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(self.address, &format!("GET {path}"), &[])
    }

    /// The value of an instant query that gives at most one.
    pub(crate) fn query(&self, query: &str) -> Option<f64> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={escaped}"));
        let text = String::from_utf8_lossy(&answer.body);
        // Prometheus sends no length where it streams: the JSON is one chunk.
        let json = &text[text.find('{')?..=text.rfind('}')?];
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let result = json["data"]["result"].as_array().expect("a vector");
        assert!(result.len() <= 1, "{query}: {json}");
        result.first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
