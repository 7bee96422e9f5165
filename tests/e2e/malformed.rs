//! Requests that no client should send, from a seed: every one is responded to with a
//! documented status, or its connection is closed. The runtime's memory stays bounded, and
//! afterwards a good request is responded to and counted.
//!
//! `SCAFFOLD_MALFORMED_REQUESTS` sets how many are sent, and `SCAFFOLD_MALFORMED_SEED` which.

use std::{
    collections::BTreeMap,
    env,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Instant,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use fastrand::Rng;
use functional_scaffold_testkit::http::{self, connect};
use functional_scaffold_tests::{
    PATIENCE,
    service::{PRIME, Service},
};

use crate::Result;

const CLIENTS: u64 = 8;
/// Statuses that a client may see: the service's problems, a result, and the response of a
/// host's HTTP server to a head that it cannot read.
const STATUSES: [u16; 12] = [200, 400, 401, 404, 405, 408, 413, 414, 415, 422, 431, 505];
/// The most memory that the requests may take.
const MEMORY_BYTES: u64 = 512 << 20;
/// Label values come from bounded sets, so there are never more series.
const MAX_SERIES: usize = 150;

const METHODS: [&str; 12] = [
    "GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "get",
    "M-SEARCH",
];
/// Without the route of the good request.
const PATHS: [&str; 13] = [
    "/invoke",
    "/invoke",
    "/invoke",
    "/invoke",
    "/invoke",
    "/invoke/none",
    "/invoke/%00",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "//..//%2e%2e/%zz",
    "/?a=%ff&&=\"{",
    "*",
];
const CONTENT_TYPES: [&str; 6] = [
    "application/json",
    "application/json",
    "application/json;charset=utf-16",
    "text/plain",
    "application/json,application/json",
    ";;",
];
const NAMES: [&str; 8] = [
    "accept",
    "accept-encoding",
    "authorization",
    "content-encoding",
    "x-request-id",
    "traceparent",
    "cookie",
    "spin-path-info",
];
/// Heads that no server should read as one request.
const BROKEN_LINES: [&str; 12] = [
    "content-length: -1\r\n",
    "content-length: 99999999999999999999999\r\n",
    "content-length: 5\r\ncontent-length: 6\r\n",
    "content-length: 1000\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
    "transfer-encoding: gzip, identity\r\n",
    "expect: 100-continue\r\n",
    "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\n",
    " folded: line\r\n",
    "no colon\r\n",
    "connection: close\r\n",
];
const JSON: [&str; 14] = [
    PRIME,
    r#"{"number": 1e999}"#,
    r#"{"number": -0}"#,
    r#"{"number": 17, "number": 18}"#,
    r#"{"number": "17"}"#,
    r#"{"number": 18446744073709551616}"#,
    r#""\ud800""#,
    r#"{"number": 17}}"#,
    "{\"number\u{0}\": 17}",
    "\u{feff}{}",
    "nul",
    "[]",
    "",
    " ",
];

#[test]
fn malformed_requests_are_refused_and_hurt_nobody() -> Result {
    let number = |name: &str, default: u64| match env::var(name) {
        Ok(text) => text.parse().context("it is no number"),
        Err(_) => Ok(default),
    };
    let requests = number("SCAFFOLD_MALFORMED_REQUESTS", 2_000)?;
    let seed = number("SCAFFOLD_MALFORMED_SEED", 1)?;
    let service = Service::start_with(|options| options.variable("log_level", "warn"))?;
    let address = service.app.address();
    let process = service.app.process();
    // With an instance.
    http::get_text(address, "/healthz")?;
    let before = process.memory("VmRSS")?;
    let began = Instant::now();
    let mut seen = Seen::default();
    let mut halves = Vec::new();
    for half in 0..2 {
        let clients = (0..CLIENTS).map(|client| {
            let number = (seed * 2 + half).wrapping_mul(CLIENTS).wrapping_add(client);
            let mut client = Client {
                address,
                rng: Rng::with_seed(number),
                seen: Seen::default(),
            };
            let share = requests.div_ceil(2 * CLIENTS);
            thread::spawn(move || client.run(share).map(|()| client.seen))
        });
        let clients: Vec<_> = clients.collect();
        for client in clients {
            let client = client
                .join()
                .map_err(|_panic| anyhow!("a client panicked"))?;
            seen.add(&client?);
        }
        halves.push(process.memory("VmRSS")?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let peak = process.memory("VmHWM")?;
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{} requests of seed {seed} in {seconds:.0} s, on {} connections; memory in MiB: {} before, \
         {} after a half, {} after all, {} at most; responses of the service {:?}, of the host {:?}, closed \
         without one {}",
        seen.requests,
        seen.connections,
        mib(before),
        mib(halves[0]),
        mib(halves[1]),
        mib(peak),
        seen.service,
        seen.host,
        seen.closed
    );
    ensure!(peak < before + MEMORY_BYTES, "{peak} bytes");

    let response = http::request(
        address,
        "POST /invoke/prime-check",
        &[("content-type", "application/json")],
        PRIME.as_bytes(),
        PATIENCE,
    )?;
    ensure!(response.status == 200, "{response:?}");
    let good = r#"code="200",endpoint="/invoke/{algorithm}",method="POST",status="success""#;
    functional_scaffold_testkit::process::poll_until(PATIENCE, || {
        service.replay_log()?;
        let cells = service.redis.cells("metrics:request_counter")?;
        ensure!(cells.len() < MAX_SERIES, "{} series", cells.len());
        ensure!(cells.get(good) == Some(&1), "{cells:#?}");
        // Some of the responses reached no client.
        for (code, count) in &seen.service {
            let code = format!("code=\"{code}\"");
            let of_code = cells.iter().filter(|(labels, _)| labels.contains(&code));
            let counted: i64 = of_code.map(|(_, count)| count).sum();
            ensure!(counted >= *count, "{counted} of {count} with {code}");
        }
        Ok(())
    })
}

#[derive(Default)]
struct Seen {
    requests: u64,
    connections: u64,
    /// Responses by status.
    service: BTreeMap<u16, i64>,
    host: BTreeMap<u16, i64>,
    /// Broken requests without a response.
    closed: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.connections += other.connections;
        self.closed += other.closed;
        for (of, others) in [
            (&mut self.service, &other.service),
            (&mut self.host, &other.host),
        ] {
            for (status, count) in others {
                *of.entry(*status).or_default() += count;
            }
        }
    }
}

struct Client {
    address: SocketAddr,
    rng: Rng,
    seen: Seen,
}

impl Client {
    fn run(&mut self, requests: u64) -> Result {
        while self.seen.requests < requests {
            self.seen.connections += 1;
            let mut stream = connect(self.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            let whole = self.rng.u32(0..16);
            let mut is_open = true;
            for number in 0..whole {
                let request = self.whole_request();
                match exchange(&mut stream, &request) {
                    Ok(Some(response)) => self.check(&request, &response)?,
                    // A server may close a connection after any response.
                    Ok(None) | Err(_) if number > 0 => is_open = false,
                    Ok(None) => bail!("no response to {}", shown(&request)),
                    Err(error) => return Err(error.context(shown(&request))),
                }
                if !is_open {
                    break;
                }
            }
            if is_open && self.rng.bool() {
                let request = self.broken_request();
                self.break_off(stream, &request)?;
            }
        }
        Ok(())
    }

    /// Sends a request whose end the server may not find, and no more.
    fn break_off(&mut self, mut stream: TcpStream, request: &[u8]) -> Result {
        self.seen.requests += 1;
        let mut bytes = Vec::new();
        // It may close the connection before it has read everything.
        if stream.write_all(request).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
            let read = stream.read_to_end(&mut bytes);
            let kind = read.err().map(|error| error.kind());
            let is_slow = matches!(
                kind,
                Some(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            );
            ensure!(!is_slow, "it stays open after {}", shown(request));
        }
        // HTTP/2.
        if request.starts_with(b"PRI ") || bytes.is_empty() {
            self.seen.closed += 1;
            return Ok(());
        }
        let mut rest = &bytes[..];
        let mut is_first = true;
        while !rest.is_empty() {
            // Another response after one to HEAD would be taken for its body.
            let Some((response, end)) = parse(rest, !is_first || request.starts_with(b"HEAD"))
            else {
                // The reset that ends a connection may take bytes with it.
                return Ok(());
            };
            self.tally(request, &response)?;
            rest = &rest[end..];
            is_first = false;
        }
        Ok(())
    }

    fn check(&mut self, request: &[u8], response: &Response) -> Result {
        self.seen.requests += 1;
        self.tally(request, response)
    }

    fn tally(&mut self, request: &[u8], response: &Response) -> Result {
        let Response { status, id } = response;
        // Neither host passes on a header that is not UTF-8.
        let is_text = request.is_ascii();
        let is_known = STATUSES.contains(status) || *status == 500 && !is_text && id.is_none();
        ensure!(is_known, "{status} of {id:?} to {}", shown(request));
        let of = match id {
            Some(_) => &mut self.seen.service,
            None => &mut self.seen.host,
        };
        *of.entry(*status).or_default() += 1;
        Ok(())
    }

    /// A request whose end every server finds.
    fn whole_request(&mut self) -> Vec<u8> {
        let body = self.body();
        let length = format!("content-length: {}\r\n", body.len());
        let mut request = self.head();
        request.extend(length.as_bytes());
        request.extend(b"\r\n");
        request.extend(body);
        request
    }

    /// A head without its end and without a length.
    fn head(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let method = METHODS[rng.usize(0..METHODS.len())];
        let mut path = PATHS[rng.usize(0..PATHS.len())].to_owned();
        if rng.u8(0..8) == 0 {
            path = (0..rng.usize(1..200))
                .map(|_| rng.char('!'..='~'))
                .collect();
            path = format!("/{}", path.replace(['#', '<', '>', '^', '`'], "/"));
        }
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n").into_bytes();
        if rng.u8(0..8) != 0 {
            let content_type = CONTENT_TYPES[rng.usize(0..CONTENT_TYPES.len())];
            head.extend(format!("content-type: {content_type}\r\n").as_bytes());
        }
        for _ in 0..rng.usize(0..12) / 3 {
            let name = NAMES[rng.usize(0..NAMES.len())];
            head.extend(format!("{name}: ").as_bytes());
            let last = if rng.u8(0..40) == 0 { 0xff } else { b'~' };
            for _ in 0..rng.usize(0..100) {
                // 127 is no byte of a header.
                head.push(
                    Some(rng.u8(b' '..=last))
                        .filter(|byte| *byte != 127)
                        .unwrap_or(b'x'),
                );
            }
            head.extend(b"\r\n");
        }
        head
    }

    fn body(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut body = match rng.u8(0..8) {
            0 => (0..rng.usize(0..500)).map(|_| rng.u8(..)).collect(),
            1 => vec![b"[{\"0"[rng.usize(0..4)]; rng.usize(0..2_000)],
            2 => {
                let depth = rng.usize(1..200);
                format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
            }
            _ => JSON[rng.usize(0..JSON.len())].as_bytes().to_vec(),
        };
        if rng.u8(0..4) == 0 {
            edit(&mut body, rng);
        }
        body
    }

    /// A request of which some bytes are wrong, so that the server may wait for more.
    fn broken_request(&mut self) -> Vec<u8> {
        match self.rng.u8(0..8) {
            0 => (0..self.rng.usize(1..300))
                .map(|_| self.rng.u8(..))
                .collect(),
            1 => {
                let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
                preface.extend((0..self.rng.usize(0..100)).map(|_| self.rng.u8(..)));
                preface
            }
            2 => {
                let mut request = self.head();
                let long = self.rng.usize(0..100_000);
                match self.rng.bool() {
                    true => request.extend("a: b\r\n".repeat(long / 50).as_bytes()),
                    false => request.extend([b"long: ", &*vec![b'x'; long], b"\r\n"].concat()),
                }
                request.extend(b"\r\n");
                request
            }
            3 => {
                let body = vec![b' '; self.rng.usize(0..3_000_000)];
                let mut request = self.head();
                request.extend(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                request.extend(body);
                request
            }
            4 | 5 => {
                let mut request = self.head();
                let line = BROKEN_LINES[self.rng.usize(0..BROKEN_LINES.len())];
                request.extend(line.as_bytes());
                request.extend(b"\r\n");
                request.extend(self.body());
                request
            }
            _ => {
                let mut request = self.whole_request();
                for _ in 0..self.rng.u8(1..8) {
                    edit(&mut request, &mut self.rng);
                }
                request
            }
        }
    }
}

/// Changes, inserts, removes or repeats some bytes, or cuts off the end.
fn edit(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(0..=bytes.len());
    let to = (at + rng.usize(0..8)).min(bytes.len());
    match rng.u8(0..5) {
        0 => bytes[at..to].fill_with(|| rng.u8(..)),
        1 => bytes.insert(at, rng.u8(..)),
        2 => drop(bytes.drain(at..to)),
        3 => bytes.extend_from_within(at..to),
        _ => bytes.truncate(at),
    }
}

fn shown(request: &[u8]) -> String {
    request[..request.len().min(500)].escape_ascii().to_string()
}

struct Response {
    status: u16,
    /// The request's id, which only the service has.
    id: Option<String>,
}

/// Sends a request and reads one response, or none if the connection ends before it.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<Option<Response>> {
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    let mut some = [0; 8192];
    loop {
        if let Some((response, end)) = parse(&bytes, request.starts_with(b"HEAD ")) {
            ensure!(end == bytes.len(), "more than one response to a request");
            return Ok(Some(response));
        }
        match stream.read(&mut some)? {
            0 if bytes.is_empty() => return Ok(None),
            0 => bail!("a response is cut off: {}", shown(&bytes)),
            read => bytes.extend(&some[..read]),
        }
    }
}

/// The first response and its length; none if it is not whole.
fn parse(bytes: &[u8], may_be_to_head: bool) -> Option<(Response, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(": ")
    };
    let status = head.get(9..12)?.parse().ok()?;
    if status == 100 {
        let (response, rest) = parse(&bytes[end..], may_be_to_head)?;
        return Some((response, end + rest));
    }
    let id = header("x-request-id").map(str::to_owned);
    let mut length = header("content-length").and_then(|length| length.parse().ok());
    let rest = &bytes[end..];
    if may_be_to_head && (rest.is_empty() || rest.starts_with(b"HTTP/1")) {
        length = Some(0);
    }
    if header("transfer-encoding").is_some() {
        let last = b"0\r\n\r\n";
        length = rest.windows(last.len()).position(|part| part == last);
        length = length.map(|at| at + last.len());
    }
    // Without a length it ends with the connection.
    let end = end + length.unwrap_or(rest.len());
    (bytes.len() >= end).then_some((Response { status, id }, end))
}
