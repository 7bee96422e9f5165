//! Starts redis-server and the exporter on free ports, asks them, and stops
//! them on drop. Whatever is missing on the machine fails a test by its name.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use functional_scaffold_protocol::{
    calls::{Call, DEFAULT_PREFIX, Registration, Script, lease_command, register_call},
    catalog::Catalog,
    lease::{EncodedLease, Lease},
};
use tempfile::TempDir;

use crate::client::ask;

/// How long anything may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until there is an answer, or panics with what was waited for.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a program that is needed, or says how to get it.
pub(crate) fn needed(program: &str, package: &str, command: &mut Command) -> Child {
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it: apt-get install {package}"))
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", child.id())])
        .status();
    assert!(status.expect("sh runs").success(), "cannot send {name}");
}

/// A redis-server of its own, without a password, persistence or data.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    directory: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(options: &[&str]) -> Self {
        // Another process may take the free port before Redis does.
        for _attempt in 0..5 {
            let port = free_port();
            if let Some(redis) = Self::start_on(port, options) {
                return redis;
            }
        }
        panic!("redis-server did not start on any of 5 free ports");
    }

    /// One that is busy loading its data for as long, and the folder of that.
    pub(crate) fn start_loading(time: Duration) -> (Self, TempDir) {
        const KEYS: u32 = 1_000;
        let directory = tempfile::tempdir().expect("a directory");
        let data = ["--dir", directory.path().to_str().expect("a UTF-8 path")];
        let redis = Self::start_with(&data);
        let fill = format!("for i = 1, {KEYS} do redis.call('SET', i, i) end");
        redis.cli(&["EVAL", &fill, "0"]);
        redis.cli(&["SAVE"]);
        drop(redis);
        let delay = (time / KEYS).as_micros().to_string();
        let slowly = [
            "--key-load-delay",
            &delay,
            "--loading-process-events-interval-bytes",
            "1024",
        ];
        let redis = Self::start_with(&[&data[..], &slowly[..]].concat());
        (redis, directory)
    }

    /// Makes it refuse writes, because what it has cannot be saved (MISCONF).
    pub(crate) fn fail_to_save(&self) {
        // A folder is where the snapshot is to be.
        let snapshot = self.directory.path().join("dump.rdb");
        std::fs::create_dir(snapshot).expect("a directory");
        self.cli(&["CONFIG", "SET", "save", "3600 1"]);
        self.cli(&["BGSAVE"]);
        wait_for("snapshot that failed", || {
            let info = self.cli(&["INFO", "persistence"]);
            info.contains("rdb_last_bgsave_status:err").then_some(())
        });
    }

    pub(crate) fn start_on(port: u16, options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory for Redis");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(directory.path())
            .args(options)
            .stdout(Stdio::null());
        let child = needed("redis-server", "redis-server", &mut command);
        let mut redis = Self {
            child,
            port,
            directory,
        };
        wait_for("redis-server", || {
            let ended = redis.child.try_wait().expect("its state").is_some();
            let open = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            (ended || open).then_some(!ended)
        })
        .then_some(redis)
    }

    /// What a stranger types into redis-cli; its output.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(arguments);
        let child = needed("redis-cli", "redis-tools", command.stdout(Stdio::piped()));
        let output = child.wait_with_output().expect("redis-cli ends");
        assert!(output.status.success(), "redis-cli {arguments:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.starts_with("ERR"), "redis-cli {arguments:?}: {text}");
        text
    }

    /// Sets many cells (key, field, value) of any bytes at once.
    pub(crate) fn set_cells<F: redis::ToRedisArgs>(&self, cells: &[(&str, F, &str)]) {
        let client = redis::Client::open(("127.0.0.1", self.port)).expect("an address");
        let mut connection = client.get_connection().expect("it listens");
        for some in cells.chunks(10_000) {
            let mut all = redis::pipe();
            for (key, field, value) in some {
                all.cmd("HSET").arg(*key).arg(field).arg(*value).ignore();
            }
            all.exec(&mut connection).expect("set");
        }
    }

    /// Calls a script as the api component does; its reply.
    pub(crate) fn call(&self, script: &Script, call: &Call) -> String {
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
        self.call(
            &Script::REGISTER,
            &register_call(DEFAULT_PREFIX, 1, &registration),
        );
    }

    /// Takes a lease on an execution.
    pub(crate) fn lease(&self, id: &str, algorithm: &str, millis: u64) -> Lease {
        let lease = Lease {
            id: id.to_owned(),
            millis,
            count: Catalog::new(DEFAULT_PREFIX).crash_cells(algorithm, "/invoke"),
        };
        let reply = self.call(
            &Script::REGISTER,
            &register_call(DEFAULT_PREFIX, 1, &Registration::new([], &[])),
        );
        let time = reply.trim().parse().expect("lease time");
        let command = lease_command(DEFAULT_PREFIX, &EncodedLease::from(&lease), time);
        self.cli(&command.words().collect::<Vec<_>>());
        lease
    }

    /// How often a command was called, from INFO commandstats.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats = self.cli(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{command}:calls=");
        stats
            .lines()
            .find_map(|line| line.strip_prefix(&start)?.split(',').next()?.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// The exporter's command with no variable of the caller's environment.
pub(crate) fn exporter_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_functional-scaffold-exporter"));
    command.env_clear();
    command
}

/// A running exporter.
pub(crate) struct Exporter {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Exporter {
    pub(crate) fn start(redis_port: u16) -> Self {
        Self::start_with(redis_port, &[])
    }

    pub(crate) fn start_with(redis_port: u16, options: &[(&str, &str)]) -> Self {
        let mut command = exporter_command();
        command
            .env("REDIS_PORT", redis_port.to_string())
            .env("EXPORTER_LISTEN", "127.0.0.1:0")
            // Tests count reads and calls.
            .env("EXPORTER_PAGE_INTERVAL_MS", "0")
            .envs(options.iter().copied())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the exporter starts");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = kept.lock().expect("no panic while it is held");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut exporter = Self {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            log,
        };
        exporter.address = wait_for("address in the exporter's log", || {
            let log = exporter.log();
            let (_, rest) = log.split_once("serving http")?.1.split_once("://")?;
            rest.split_once("/metrics")?.0.parse().ok()
        });
        exporter
    }

    /// Stops it; all that it logged, which reaches [`Self::log`] with a delay.
    pub(crate) fn stop(mut self) -> String {
        self.signal("TERM");
        self.wait();
        wait_for("end of the log", || {
            let log = self.log();
            log.contains("stopping on").then_some(log)
        })
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic while it is held").clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("end of the exporter", || {
            self.child.try_wait().expect("its state")
        })
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Response {
        ask(self.address, &format!("{method} {path}"), &[]).into()
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path)
    }

    /// The text of /metrics.
    pub(crate) fn metrics(&self) -> String {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200);
        response.body
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP response; the head is in lower case.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The lines of an exposition that are not of the exporter's own metrics.
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

/// Puts a text through a program's standard input; whether it was content and
/// all that it said.
pub(crate) fn pipe(text: &str, program: &str, package: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = needed(program, package, command.stderr(Stdio::piped()));
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
