//! The dev host's limits on connections, seen from clients. Its own routes need no
//! component.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET /.well-known/spin/health HTTP/1.1\r\nhost: x\r\n\r\n";

struct Devhost {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
    /// Not read further, and not closed.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Drop for Devhost {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Devhost {
    /// Starts an application without components, with at most this many file
    /// descriptors.
    fn start(files: u32, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let manifest = "spin_manifest_version = 2\napplication.name = \"x\"\ntrigger.http = []\n";
        fs::write(folder.path().join("spin.toml"), manifest).expect("file is written");
        let log = File::create(folder.path().join("log")).expect("file is written");
        let mut process = Command::new("sh")
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()])
            .arg(env!("CARGO_BIN_EXE_devhost"))
            .args(["up", "--listen", "127.0.0.1:0", "--disable-cache", "--from"])
            .arg(folder.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("sh is there");
        let output = BufReader::new(process.stdout.take().expect("it is a pipe"));
        let mut lines = output.lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("Serving http://")?.parse().ok());
        Self {
            process,
            folder,
            address: address.expect("it starts"),
            _output: lines,
        }
    }

    fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).expect("it listens");
        connection.set_read_timeout(Some(PATIENCE)).expect("a time");
        connection
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("file is read")
    }
}

/// Sends a request and reads its response. The connection stays open.
fn request(mut connection: &TcpStream) {
    connection.write_all(REQUEST).expect("request is sent");
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\nOK") {
        let mut piece = [0; 1024];
        let length = connection.read(&mut piece).expect("response arrives");
        assert_ne!(length, 0, "closed after {response:?}");
        response.extend_from_slice(&piece[..length]);
    }
}

#[test]
fn connections_without_a_request_are_closed() {
    let devhost = Devhost::start(1024, &["--idle-connection-timeout", "2s"]);
    let open: Vec<_> = [
        ("nothing", &b""[..]),
        ("the beginning of HTTP/2", b"P"),
        (
            "an idle HTTP/2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
        ("half a head", b"GET / HTTP/1.1\r\nhost: x\r\n"),
        ("a request", REQUEST),
    ]
    .map(|(name, sent)| {
        let mut connection = devhost.connect();
        connection.write_all(sent).expect("it is sent");
        (name, connection)
    })
    .into();
    for (name, mut connection) in open {
        let mut received = Vec::new();
        let end = connection.read_to_end(&mut received);
        assert!(
            end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{name}: still open"
        );
        if name == "a request" {
            assert!(received.starts_with(b"HTTP/1.1 200 "));
        }
    }
    // A head that arrives slowly, but within the time.
    let mut slow = devhost.connect();
    for piece in REQUEST.chunks(16) {
        slow.write_all(piece).expect("it is sent");
    }
    request(&slow);
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let devhost = Devhost::start(1024, &["--max-connections", "2"]);
    let served = [(); 2].map(|()| devhost.connect());
    served.iter().for_each(request);
    let mut waiting = devhost.connect();
    waiting.write_all(REQUEST).expect("request is sent");
    waiting
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a time");
    let early = waiting.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock));
    // Those that are served are not affected.
    served.iter().for_each(request);
    drop(served);
    waiting.set_read_timeout(Some(PATIENCE)).expect("a time");
    request(&waiting);
}

#[test]
fn a_lack_of_file_descriptors_is_reported_once_and_survived() {
    const LACK: &str = "Cannot accept connections: ";
    let devhost = Devhost::start(64, &[]);
    let first = devhost.connect();
    request(&first);
    let others = [(); 80].map(|()| devhost.connect());
    let end = Instant::now() + PATIENCE;
    while !devhost.log().contains(LACK) {
        assert!(Instant::now() < end, "80 connections fit into 64 files");
        request(&first);
    }
    // It does not report each attempt.
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        request(&first);
    }
    let log = devhost.log();
    assert_eq!(log.matches(LACK).count(), 1, "{log}");
    drop(others);
    request(&devhost.connect());
}
