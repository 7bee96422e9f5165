//! What an algorithm's misdeeds cost, with and without a guard: the table in
//! `docs/guard.md`, and a load of which some requests crash or loop forever.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use functional_scaffold_testkit::{
    exporter::Exporter,
    http::{self, Response},
    load::{RequestKind, Tally, Until},
    process::poll_until,
    repository,
};
use functional_scaffold_tests::{PATIENCE, service::Service};
use serde_json::Value;

use crate::Result;

/// How long a client waits for a response that does not come. Meanwhile a busy machine
/// starts the execution, for which `rogue.guarded.wasm` has a budget of 20 ms.
const ENDLESS: Duration = Duration::from_secs(5);

const NO_RESPONSE: &str = "no response";
const BY_LEASE: &str = "`crashed`, by its lease";

/// A row of the table: a misdeed and what it costs.
#[derive(Debug)]
struct Row {
    misdeed: String,
    is_guarded: bool,
    costs: Costs,
}

/// The last three cells of a row.
#[derive(Debug, PartialEq)]
struct Costs {
    /// The response to the misdeed.
    caller: String,
    /// The responses to other requests in flight in the same instance.
    neighbours: String,
    /// How and when the misdeed is counted.
    counted: String,
}

/// Reads the table in `docs/guard.md`.
fn documented_rows() -> Result<Vec<Row>> {
    let page = fs::read_to_string(repository().join("docs/guard.md"))?;
    let table = page
        .lines()
        .skip_while(|line| *line != "## What each misdeed costs")
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let mut rows = Vec::new();
    for line in table {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let &["", misdeed, guard, caller, neighbours, counted, ""] = cells.as_slice() else {
            bail!("not five cells: {line}");
        };
        let above = rows.last().map(|row: &Row| row.misdeed.clone());
        let named = misdeed.split('`').nth(1).map(str::to_owned);
        rows.push(Row {
            misdeed: named.or(above).with_context(|| line.to_owned())?,
            is_guarded: guard == "yes",
            costs: Costs {
                caller: caller.to_owned(),
                neighbours: neighbours.to_owned(),
                counted: counted.to_owned(),
            },
        });
    }
    ensure!(!rows.is_empty(), "docs/guard.md has no table of misdeeds");
    Ok(rows)
}

/// The rogue algorithms with their own Redis, and what must be counted there. No
/// exporter settles leases before the end.
struct World {
    service: Service,
    /// By their labels.
    executions: BTreeMap<String, i64>,
    by_lease: i64,
}

impl World {
    fn start() -> Result<Self> {
        let service = Service::start_rogue(|options| {
            options
                .guarded_rogue()
                // However long it idles between two requests of a busy machine.
                .lasting()
                .variable("execution_limit_ms", "100")
                .variable("max_output_bytes", "1000")
        })?;
        Ok(Self {
            service,
            executions: BTreeMap::new(),
            by_lease: 0,
        })
    }

    /// Commits a misdeed while two other requests are in flight in the same instance.
    fn commit(&mut self, misdeed: &str, is_guarded: bool, limit: Duration) -> Result<Costs> {
        let path = match is_guarded {
            true => "/invoke/rogue",
            false => "/invoke",
        };
        let address = self.service.app.address();
        let line = format!("POST {path}");
        // The instance that responded takes the next requests.
        let sound = http::request(address, &line, &[], Neighbour::BODY, PATIENCE)?;
        ensure!(sound.status == 200, "{sound:?}");
        *self.executions.entry(labels("success")).or_default() += 1;
        self.service
            .wait_for("metrics:algorithm_counter", &self.executions)?;
        let neighbours = [
            Neighbour::begin(&self.service, path, limit)?,
            Neighbour::begin(&self.service, path, limit)?,
        ];
        let body = Value::from(misdeed).to_string();
        let caller = http::request(address, &line, &[], body.as_bytes(), limit).ok();
        let [first, second] = neighbours.map(Neighbour::finish);

        let [one, other] = [&first, &second].map(|response| show(response.as_ref()));
        ensure!(one == other, "the neighbours get {one} and {other}");
        let counted = match &caller {
            Some(response) if !response.body.is_empty() => {
                let status = self.count_result()?;
                ensure_one_instance(response, [&first, &second], status == "crashed")?;
                format!("`{status}`, at once")
            }
            _ => {
                self.by_lease += 1;
                let expected = self.by_lease;
                poll_until(PATIENCE, || {
                    let leases: i64 = self.service.redis.call(&["ZCARD", "metrics:leases"])?;
                    ensure!(leases == expected, "{leases} of {expected} leases are open");
                    Ok(())
                })?;
                BY_LEASE.to_owned()
            }
        };
        Ok(Costs {
            caller: show(caller.as_ref()),
            neighbours: one,
            counted,
        })
    }

    /// Waits until Redis has counted the results of a misdeed and of its neighbours, and
    /// returns the status of the misdeed.
    fn count_result(&mut self) -> Result<String> {
        *self.executions.entry(labels("success")).or_default() += 2;
        let expected = self.executions.values().sum::<i64>() + 1;
        let counted = poll_until(PATIENCE, || {
            self.service.replay_log()?;
            let counted = self.service.redis.cells("metrics:algorithm_counter")?;
            let executions: i64 = counted.values().sum();
            ensure!(executions == expected, "{executions} of {expected}");
            Ok(counted)
        })?;
        let is_new = |status: &&str| {
            let before = self.executions.get(&labels(status)).copied();
            counted.get(&labels(status)).copied().unwrap_or_default() > before.unwrap_or_default()
        };
        let mut statuses = ["success", "invalid_input", "failed", "crashed"].into_iter();
        let status = statuses.find(is_new).context("no status has grown")?;
        self.executions = counted;
        Ok(status.to_owned())
    }

    /// Stops the application, lets an exporter settle the leases, and checks all counts.
    fn settle(self) -> Result {
        let Self {
            service,
            mut executions,
            by_lease,
        } = self;
        let Service { app, redis } = service;
        drop(app);
        let _exporter = Exporter::start(redis.port())?;
        if by_lease > 0 {
            *executions.entry(labels("crashed")).or_default() += by_lease;
        }
        let sum = |key: &str, leaves_out: &str| -> Result<i64> {
            let cells = redis.cells(key)?.into_iter();
            let cells =
                cells.filter(|(field, _)| leaves_out.is_empty() || !field.ends_with(leaves_out));
            Ok(cells.map(|(_, count)| count).sum())
        };
        poll_until(PATIENCE, || {
            let counted = redis.cells("metrics:algorithm_counter")?;
            ensure!(counted == executions, "{counted:#?} is not {executions:#?}");
            Ok(())
        })?;
        ensure!(sum("metrics:settled_counter", "")? == by_lease);
        // Histograms lack the executions that were counted by their leases.
        let crashed = executions.get(&labels("crashed")).copied();
        for (counter, histogram, lacks) in [
            ("request_counter", "request_latency", by_lease),
            (
                "algorithm_counter",
                "algorithm_latency",
                crashed.unwrap_or_default(),
            ),
        ] {
            let counted = sum(&format!("metrics:{counter}"), "")?;
            let observed = sum(&format!("metrics:{histogram}"), "|sum")?;
            ensure!(
                counted - observed == lacks,
                "{histogram} has {observed} of {counted}, and should lack {lacks}"
            );
        }
        Ok(())
    }
}

/// The labels under which executions of the rogue algorithm are counted.
fn labels(status: &str) -> String {
    format!("algorithm=\"rogue\",status=\"{status}\"")
}

/// A request in flight: an instance waits for the rest of its body.
struct Neighbour(TcpStream);

impl Neighbour {
    const BODY: &[u8] = b"\"calls\"";

    fn begin(service: &Service, path: &str, limit: Duration) -> Result<Self> {
        let address = service.app.address();
        let mut stream = http::connect(address, limit)?;
        let length = Self::BODY.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        )?;
        // The server sends this when the instance reads the body.
        let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut interim)?;
        let interim = String::from_utf8_lossy(&interim);
        ensure!(interim.contains(" 100 "), "{interim}");
        Ok(Self(stream))
    }

    /// Sends the body and reads the response.
    fn finish(mut self) -> Option<Response> {
        // The server may have responded and closed the connection.
        let _sent = self.0.write_all(Self::BODY);
        let mut bytes = Vec::new();
        let _closed = self.0.read_to_end(&mut bytes);
        Response::parse(&bytes).ok()
    }
}

/// A response as a cell of the table.
fn show(response: Option<&Response>) -> String {
    let Some(response) = response else {
        return NO_RESPONSE.to_owned();
    };
    let status = response.status;
    if response.body.is_empty() {
        return format!("{status}, empty");
    }
    match json(response)["type"].as_str() {
        Some(uri) => format!("{status} `{}`", uri.rsplit(':').next().unwrap_or_default()),
        None => status.to_string(),
    }
}

fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_default()
}

/// Checks that one instance served all of them, and that the algorithm is in its initial
/// state after a crash, and only then.
fn ensure_one_instance(
    caller: &Response,
    neighbours: [&Option<Response>; 2],
    crashed: bool,
) -> Result {
    let nonce = |body: &Value| {
        let id = body["request_id"].as_str().unwrap_or_default();
        id.split('-').next().unwrap_or_default().to_owned()
    };
    let expected = nonce(&json(caller));
    let mut calls = Vec::new();
    for response in neighbours {
        let body = response.as_ref().map(json).unwrap_or_default();
        ensure!(nonce(&body) == expected, "another instance served {body}");
        calls.push(body["result"].as_u64().context("no number of calls")?);
    }
    ensure!(calls[1] == calls[0] + 1, "{calls:?}");
    ensure!((calls[0] == 1) == crashed, "crashed: {crashed}, {calls:?}");
    Ok(())
}

#[test]
fn each_misdeed_costs_what_the_documentation_says() -> Result {
    let rows = documented_rows()?;
    let (endless, others): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row.costs.caller == NO_RESPONSE);
    thread::scope(|scope| {
        let others = scope.spawn(|| commit_all(&others, PATIENCE));
        // Each of them occupies its application for good.
        let endless: Vec<_> = endless
            .chunks(1)
            .map(|row| scope.spawn(|| commit_all(row, ENDLESS)))
            .collect();
        for worlds in endless.into_iter().chain([others]) {
            worlds.join().expect("no panic")?;
        }
        Ok(())
    })
}

fn commit_all(rows: &[&Row], limit: Duration) -> Result {
    let mut world = World::start()?;
    let mut wrong = Vec::new();
    for row in rows {
        let guard = if row.is_guarded { "yes" } else { "no" };
        let costs = world.commit(&row.misdeed, row.is_guarded, limit);
        let costs = costs.with_context(|| format!("{}, guard: {guard}", row.misdeed))?;
        if costs != row.costs {
            let Costs {
                caller,
                neighbours,
                counted,
            } = costs;
            wrong.push(format!(
                "| `{}` | {guard} | {caller} | {neighbours} | {counted} |",
                row.misdeed
            ));
        }
    }
    ensure!(
        wrong.is_empty(),
        "the documentation should say\n{}",
        wrong.join("\n")
    );
    world.settle()
}

/// Of a thousand requests, ten panic and one loops for ever. `SCAFFOLD_FAULTS_SECONDS`
/// sets how long the load lasts.
#[test]
fn crashes_and_loops_hurt_no_other_request() -> Result {
    let seconds = env::var("SCAFFOLD_FAULTS_SECONDS").unwrap_or_else(|_| "2".to_owned());
    let slice = Duration::from_secs(seconds.parse()?) / SLICES;
    let service = Service::start_rogue(|options| {
        options
            .guarded_rogue()
            .variable("metrics_durability", "batched")
            .variable("log_level", "error")
    })?;
    let sound: Vec<_> = (0..1000)
        .map(|_| request("\"talk 12\"", "\"result\":\"xxxxxxxxxx\""))
        .collect();
    let mut faulty = sound.clone();
    for at in (0..1000).step_by(100) {
        faulty[at] = request("\"panic\"", ":algorithm-crashed\"");
    }
    faulty[50] = request("\"loop\"", ":limit-exceeded\"");

    let mut total = Tally::default();
    let mut crashed = 0;
    let mut seconds = [Duration::ZERO; 2];
    let mut requests = [0; 2];
    for _ in 0..SLICES {
        for (of, kinds) in [&sound, &faulty].into_iter().enumerate() {
            let began = Instant::now();
            let tally = service.load(kinds, 32, Until::Elapsed(slice))?;
            seconds[of] += began.elapsed();
            requests[of] += tally.total();
            let sent = usize::try_from(tally.total())?;
            let expected = (0..sent).filter(|number| kinds[number % 1000].body != sound[0].body);
            let expected = i64::try_from(expected.count())?;
            ensure!(
                tally.with_code(500) == expected,
                "{expected} should fail: {tally:?}"
            );
            crashed += expected;
            total.add(&tally);
        }
    }
    service.wait_for_counts(&total)?;
    let executions = [
        (labels("crashed"), crashed),
        (labels("success"), total.total() - crashed),
    ];
    service.wait_for("metrics:algorithm_counter", &executions.into())?;
    let [sound, faulty] = [0, 1].map(|of| requests[of] as f64 / seconds[of].as_secs_f64());
    println!(
        "{} requests, {crashed} of which crashed; {sound:.0} requests/s without faults, \
         {faulty:.0} with: {:.2}",
        total.total(),
        faulty / sound
    );
    Ok(())
}

/// Loads with and without faults take turns, each this many times.
const SLICES: u32 = 2;

fn request(body: &'static str, response: &'static str) -> RequestKind {
    RequestKind {
        path: "/invoke/rogue",
        endpoint: "/invoke/{algorithm}",
        response: Some(response),
        ..RequestKind::invoke(body)
    }
}
