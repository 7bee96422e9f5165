//! The launchers of testkit, with the shortcuts of these tests. A program that is
//! missing on the machine fails a test by its name.

use std::{
    ffi::OsStr,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    ops::{Deref, DerefMut},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use functional_scaffold_protocol::{
    calls::{Call, DEFAULT_PREFIX, Registration, Script, lease_command, register_call},
    catalog::{Catalog, RouteLabels},
    lease::Lease,
};
use functional_scaffold_testkit::{
    exporter, http,
    process::{self, Signal},
    program::Program,
    prometheus::Prometheus,
    redis::{RedisOptions, RedisServer},
};

pub(crate) use functional_scaffold_testkit::http::Response;

/// How long anything may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Calls `poll` until it returns a value, or panics with what was waited for.
pub(crate) fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let value = process::poll_until(PATIENCE, || {
        poll().ok_or_else(|| anyhow::anyhow!("no {what}"))
    });
    value.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The command of a program, by its one name or path, or a panic with how to install it.
pub(crate) fn program(executable: &'static [&'static str; 1], package: &'static str) -> Command {
    let program = Program {
        name: executable[0],
        executables: executable,
        package,
    };
    Command::new(program.find().unwrap_or_else(|error| panic!("{error:#}")))
}

/// Passes a text to a program's standard input. Returns whether it succeeded, and its
/// output.
pub(crate) fn pipe(text: &str, mut command: Command) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A port on which nothing listens.
pub(crate) fn free_port() -> u16 {
    process::free_port().expect("a free port")
}

/// Sends a request without a body, such as `GET /metrics`.
pub(crate) fn request(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> Response {
    http::request(address, line, headers, b"", PATIENCE).expect("a response in time")
}

/// The body of a response.
pub(crate) fn text(response: &Response) -> String {
    String::from_utf8(response.body.clone()).expect("a body of UTF-8")
}

/// A redis-server with shortcuts.
pub(crate) struct Redis(RedisServer);

impl Deref for Redis {
    type Target = RedisServer;

    fn deref(&self) -> &RedisServer {
        &self.0
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut RedisServer {
        &mut self.0
    }
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(RedisOptions::new())
    }

    pub(crate) fn start_with(options: RedisOptions) -> Self {
        Self(options.start().expect("redis-server starts"))
    }

    /// Restarts it so that it loads its data until [`Self::finish_loading`], or for
    /// minutes.
    pub(crate) fn restart_loading(self) -> Self {
        let mut redis = self;
        // While it loads, it responds once a kilobyte.
        let fill = "for i = 1, 10000 do redis.call('SET', i, string.rep('x', 500)) end";
        redis.cli(&["CONFIG", "SET", "rdbcompression", "no"]);
        redis.cli(&["EVAL", fill, "0"]);
        redis.cli(&["SAVE"]);
        let slowly = RedisOptions::new()
            .line("key-load-delay", &["20000"])
            .line("loading-process-events-interval-bytes", &["1024"]);
        redis.restart_with(&slowly).expect("it restarts");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()));
        wait_for("port", || http::connect(address, PATIENCE).ok());
        redis
    }

    /// Ends what [`Self::restart_loading`] began.
    pub(crate) fn finish_loading(&self) {
        self.cli(&["CONFIG", "SET", "key-load-delay", "0"]);
    }

    /// Makes it refuse writes, because it cannot save its data (MISCONF).
    pub(crate) fn fail_to_save(&self) {
        // A directory in the place of the snapshot.
        let snapshot = self.folder().join("dump.rdb");
        std::fs::create_dir(snapshot).expect("a directory");
        self.cli(&["CONFIG", "SET", "save", "3600 1"]);
        self.cli(&["BGSAVE"]);
        wait_for("snapshot that failed", || {
            let info = self.cli(&["INFO", "persistence"]);
            info.contains("rdb_last_bgsave_status:err").then_some(())
        });
    }

    /// Runs redis-cli, and returns its output.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let mut command = program(&["redis-cli"], "redis-tools");
        command.args(["-p", &self.port().to_string()]);
        let output = command.args(arguments).output().expect("redis-cli ends");
        assert!(output.status.success(), "redis-cli {arguments:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.starts_with("ERR"), "redis-cli {arguments:?}: {text}");
        text
    }

    /// Sets many cells (key, field, value) of any bytes at once.
    pub(crate) fn set_cells<F: redis::ToRedisArgs>(&self, cells: &[(&str, F, &str)]) {
        let mut connection = self.connect().expect("a connection");
        for some in cells.chunks(10_000) {
            let mut all = redis::pipe();
            for (key, field, value) in some {
                all.cmd("HSET").arg(*key).arg(field).arg(*value).ignore();
            }
            all.exec(&mut connection).expect("set");
        }
    }

    /// The number of calls of a command.
    pub(crate) fn count_calls(&self, command: &str) -> u64 {
        self.calls(command).expect("statistics")
    }

    /// Calls a script as the service does; its reply.
    pub(crate) fn call_script(&self, script: &Script, call: &Call) -> String {
        let parts = call
            .parts()
            .map(|part| String::from_utf8(part).expect("UTF-8"));
        let arguments: Vec<String> = ["EVAL".to_owned(), script.source.to_owned()]
            .into_iter()
            .chain(parts)
            .collect();
        self.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Registers the families of an algorithm, as its first instance does.
    pub(crate) fn register(&self, algorithm: &str) {
        let catalog = Catalog::new(DEFAULT_PREFIX);
        let registration = Registration::of_catalog(&catalog, algorithm, &["/invoke"]);
        self.call_script(
            &Script::REGISTER,
            &register_call(DEFAULT_PREFIX, 1, &registration),
        );
    }

    /// Takes a lease on an execution.
    pub(crate) fn lease(&self, id: &str, algorithm: &str, millis: u64) -> Lease {
        let lease = Lease {
            id: id.to_owned(),
            millis,
            count: Catalog::new(DEFAULT_PREFIX)
                .crash_cells(algorithm, RouteLabels::new("POST", "/invoke")),
        };
        let command = lease_command(DEFAULT_PREFIX, &lease.begin(self.lease_time()));
        self.cli(&command.words().collect::<Vec<_>>());
        lease
    }

    /// The lease time, in milliseconds.
    pub(crate) fn lease_time(&self) -> i64 {
        let nothing = register_call(DEFAULT_PREFIX, 1, &Registration::new([], &[]));
        let reply = self.call_script(&Script::REGISTER, &nothing);
        let time = reply.lines().next().map(str::parse);
        time.expect("a reply").expect("lease time")
    }
}

const EXPORTER: &str = env!("CARGO_BIN_EXE_functional-scaffold-exporter");

/// The exporter's command without the environment of the tests.
pub(crate) fn exporter_command() -> Command {
    exporter::command(Path::new(EXPORTER))
}

/// A running exporter with shortcuts.
pub(crate) struct Exporter(exporter::Exporter);

impl Exporter {
    pub(crate) fn start(redis_port: u16) -> Self {
        Self::start_with(redis_port, &[])
    }

    pub(crate) fn start_with(redis_port: u16, options: &[(&str, &str)]) -> Self {
        // Tests count reads and calls.
        let mut variables = vec![("EXPORTER_PAGE_INTERVAL_MS", OsStr::new("0"))];
        variables.extend(
            options
                .iter()
                .map(|&(name, value)| (name, OsStr::new(value))),
        );
        let exporter =
            exporter::Exporter::start_program(Path::new(EXPORTER), redis_port, &variables);
        let exporter = Self(exporter.expect("the exporter starts"));
        wait_for("start in the log", || {
            exporter.log().contains("serving http").then_some(())
        });
        exporter
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    pub(crate) fn log(&self) -> String {
        self.0.process().output().expect("its log")
    }

    /// Kills it, and starts it with the same options.
    pub(crate) fn kill_and_restart(&mut self) {
        self.0.kill_and_restart().expect("it starts");
    }

    /// Stops it, and returns the whole log.
    pub(crate) fn stop(self) -> String {
        self.0.stop().expect("it stops")
    }

    /// The most memory that it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.0.process().id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        1024 * kilobytes.expect("a size").parse::<u64>().expect("a number")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.0.process().signal(signal).expect("it runs");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.0.process_mut().wait(PATIENCE).expect("it ends")
    }

    pub(crate) fn request(&self, line: &str, headers: &[(&str, &str)]) -> Response {
        request(self.address(), line, headers)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request(&format!("GET {path}"), &[])
    }

    /// The text of /metrics.
    pub(crate) fn metrics(&self) -> String {
        self.0.scrape().expect("a scrape")
    }
}

/// A Prometheus that scrapes these addresses every second, with further lines of the
/// scrape configuration.
pub(crate) fn start_prometheus(targets: &[SocketAddr], further: &str) -> Prometheus {
    let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    let configuration = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs:\n\
         - job_name: scraped\n  honor_labels: true\n  {further}\n  \
         static_configs: [{{targets: [{}]}}]\n",
        targets.join(",")
    );
    Prometheus::start_with(&configuration).expect("Prometheus starts")
}

/// The value of an instant query that returns at most one.
pub(crate) fn instant_query(prometheus: &Prometheus, expression: &str) -> Option<f64> {
    prometheus.value(expression).expect("a valid expression")
}

/// The lines of an exposition without the exporter's own metrics.
pub(crate) fn families_of(text: &str) -> String {
    text.split_inclusive('\n')
        .filter(|line| !line.contains("functional_scaffold_"))
        .collect()
}

/// The value of a sample, by its name and labels as they are written.
pub(crate) fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
