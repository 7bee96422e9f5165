//! What a scrape of 100,000 series costs beside reading the same hashes with a
//! pipelined client and throwing them away, both over one connection to one
//! Redis, in turns. Figures are ratios: machines differ, and so do moments.
//!
//! `cargo bench -p functional-scaffold-exporter` (it needs redis-server)

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Turns that are measured; two more come before.
const TURNS: usize = 15;
/// Fields that a page has in both: the exporter's default.
const SCAN_COUNT: u32 = 500;
/// Bounds of the histograms.
const BOUNDS: [&str; 20] = [
    "0.00005", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05",
    "0.075", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5", "10",
];

/// How 100,000 cells are spread.
struct Shape {
    name: &'static str,
    hashes: usize,
    histograms: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "1 counter of 100,000 series",
        hashes: 1,
        histograms: false,
    },
    Shape {
        name: "100 counters of 1,000 series",
        hashes: 100,
        histograms: false,
    },
    Shape {
        name: "10 histograms of 10,000 cells",
        hashes: 10,
        histograms: true,
    },
];

fn main() -> Result<()> {
    for shape in &SHAPES {
        measure(shape)?;
    }
    Ok(())
}

fn measure(shape: &Shape) -> Result<()> {
    let redis = Server::redis()?;
    let mut client = redis::Client::open(("127.0.0.1", redis.address.port()))?.get_connection()?;
    let keys = fill(&mut client, shape)?;
    let exporter = Server::exporter(redis.address.port())?;
    let probe = Probe::start(redis.address)?;

    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut work: [Vec<Duration>; 2] = Default::default();
    for turn in 0..TURNS + 2 {
        if turn == 2 {
            times = Default::default();
            work = Default::default();
        }
        times[0].push(timed(|| scan(&mut client, &keys))?);
        times[1].push(timed(|| get_all(&mut client, &keys))?);
        for (n, header) in ["", "accept-encoding: gzip\r\n"].into_iter().enumerate() {
            let before = exporter.work()?;
            probe.watches.store(true, Ordering::Relaxed);
            times[2 + n].push(timed(|| scrape(exporter.address, header))?);
            probe.watches.store(false, Ordering::Relaxed);
            work[n].push(exporter.work()?.saturating_sub(before));
        }
    }
    let [scans, gets, plain, gzip] = times.map(median);
    println!("{}", shape.name);
    println!("  HSCAN, discarded     {:7.1} ms", millis(scans));
    println!("  HGETALL, discarded   {:7.1} ms", millis(gets));
    for (name, time, work) in [
        ("scrape", plain, &work[0]),
        ("scrape, gzip", gzip, &work[1]),
    ] {
        let ratio = time.as_secs_f64() / scans.as_secs_f64();
        let mean = work.iter().sum::<Duration>() / u32::try_from(work.len())?;
        let (time, mean) = (millis(time), millis(mean));
        println!("  {name:20} {time:7.1} ms   {ratio:.2} times HSCAN, {mean:.0} ms of CPU");
    }
    let (half, most) = pages(&mut client)?;
    println!(
        "  a page of HSCAN      {half:7.2} ms at the median, {most:.2} ms at the 99th percentile"
    );
    let (half, most) = probe.stop();
    println!(
        "  PING meanwhile       {half:7.2} ms at the median, {most:.2} ms at the 99th percentile"
    );
    println!(
        "  exporter's memory    {:7} KiB at most",
        exporter.peak_kib()?
    );
    Ok(())
}

/// How long Redis took for a page and served nobody else, by its own clock.
fn pages(client: &mut redis::Connection) -> Result<(f64, f64)> {
    let log: Vec<Vec<redis::Value>> = redis::cmd("SLOWLOG").arg("GET").arg(-1).query(client)?;
    let page = redis::Value::BulkString(b"HSCAN".to_vec());
    let times = log.iter().filter_map(|entry| match (&entry[2], &entry[3]) {
        (redis::Value::Int(micros), redis::Value::Array(command))
            if command.first() == Some(&page) =>
        {
            Some(Duration::from_micros(u64::try_from(*micros).ok()?))
        }
        _ => None,
    });
    Ok(percentiles(times.collect()))
}

/// The median and the 99th percentile in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied();
    let millis = |percent| millis(at(percent).unwrap_or_default());
    (millis(50), millis(99))
}

fn fill(client: &mut redis::Connection, shape: &Shape) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for hash in 0..shape.hashes {
        let key = format!("metrics:{hash:03}");
        let (name, json) = if shape.histograms {
            let bounds = BOUNDS.join(",");
            (
                format!("a_{hash:03}_seconds"),
                format!(
                    r#"{{"type":"histogram","key":"{key}","unit":"seconds","scale":1000000000,"bounds":[{bounds}]}}"#
                ),
            )
        } else {
            (
                format!("a_{hash:03}_total"),
                format!(r#"{{"type":"counter","key":"{key}"}}"#),
            )
        };
        let mut all = redis::pipe();
        all.hset("metrics:families", name, json).ignore();
        for n in 0..100_000 / shape.hashes {
            let (n, suffix) = if shape.histograms {
                let cell = n % (BOUNDS.len() + 2);
                let suffix = BOUNDS.get(cell).copied();
                let other = if cell == BOUNDS.len() { "+Inf" } else { "sum" };
                (
                    n / (BOUNDS.len() + 2),
                    format!("|{}", suffix.unwrap_or(other)),
                )
            } else {
                (n, String::new())
            };
            let labels =
                format!("code=\"200\",endpoint=\"/invoke/{n}\",method=\"POST\",status=\"success\"");
            all.hset(&key, labels + &suffix, 1_000_003 * (n + 1))
                .ignore();
        }
        all.exec(client)?;
        keys.push(key);
    }
    let _: () = redis::cmd("CONFIG")
        .arg("SET")
        .arg("slowlog-log-slower-than")
        .arg(0)
        .query(client)?;
    let _: () = redis::cmd("CONFIG")
        .arg("SET")
        .arg("slowlog-max-len")
        .arg(100_000)
        .query(client)?;
    Ok(keys)
}

/// Reads every hash page by page, the next page of each at once.
fn scan(client: &mut redis::Connection, keys: &[String]) -> Result<()> {
    let mut left: Vec<(&String, Vec<u8>)> = keys.iter().map(|key| (key, b"0".to_vec())).collect();
    while !left.is_empty() {
        let mut pages = redis::pipe();
        for (key, cursor) in &left {
            pages
                .cmd("HSCAN")
                .arg(*key)
                .arg(cursor)
                .arg("COUNT")
                .arg(SCAN_COUNT);
        }
        let pages: Vec<(Vec<u8>, redis::Value)> = pages.query(client)?;
        for ((_, at), (cursor, _discarded)) in left.iter_mut().zip(pages) {
            *at = cursor;
        }
        left.retain(|(_, cursor)| cursor != b"0");
    }
    Ok(())
}

fn get_all(client: &mut redis::Connection, keys: &[String]) -> Result<()> {
    let mut all = redis::pipe();
    for key in keys {
        all.cmd("HGETALL").arg(key);
    }
    let _discarded: Vec<redis::Value> = all.query(client)?;
    Ok(())
}

fn scrape(exporter: SocketAddr, header: &str) -> Result<()> {
    let mut stream = TcpStream::connect(exporter)?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") || answer.len() < 100_000 {
        return Err("no scrape".into());
    }
    Ok(())
}

fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    run()?;
    Ok(began.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Another client of Redis, and how long it waits while a scrape is served.
struct Probe {
    watches: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    probing: thread::JoinHandle<Vec<Duration>>,
}

impl Probe {
    fn start(redis: SocketAddr) -> Result<Self> {
        let mut client = redis::Client::open(("127.0.0.1", redis.port()))?.get_connection()?;
        let watches = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicBool::new(false));
        let (watching, ending) = (Arc::clone(&watches), Arc::clone(&ended));
        let probing = thread::spawn(move || {
            let mut waits = Vec::new();
            while !ending.load(Ordering::Relaxed) {
                let began = Instant::now();
                let pong: redis::RedisResult<()> = redis::cmd("PING").exec(&mut client);
                if pong.is_ok() && watching.load(Ordering::Relaxed) {
                    waits.push(began.elapsed());
                }
                thread::sleep(Duration::from_micros(500));
            }
            waits
        });
        Ok(Self {
            watches,
            ended,
            probing,
        })
    }

    fn stop(self) -> (f64, f64) {
        self.ended.store(true, Ordering::Relaxed);
        percentiles(self.probing.join().unwrap_or_default())
    }
}

/// A process that ends with this.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn redis() -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Self { child, address };
        for _attempt in 0..500 {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("redis-server does not listen".into())
    }

    fn exporter(redis_port: u16) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_functional-scaffold-exporter"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--redis-port",
                &redis_port.to_string(),
            ])
            .args(["--scan-count", &SCAN_COUNT.to_string()])
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().ok_or("no log")?);
        let mut line = String::new();
        log.read_line(&mut line)?;
        let address = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split_once('/')?.0.parse().ok())
            .ok_or_else(|| format!("no address in {line:?}"))?;
        Ok(Self { child, address })
    }

    /// The time that it was on a processor, of all its threads.
    fn work(&self) -> Result<Duration> {
        let mut nanos = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end meanwhile.
            let stat = std::fs::read_to_string(thread?.path().join("schedstat"));
            let spent = stat.unwrap_or_default();
            nanos += spent
                .split(' ')
                .next()
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    fn peak_kib(&self) -> Result<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = peak.and_then(|peak| peak.split_whitespace().next());
        Ok(number.unwrap_or("unknown").to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
