//! A master is lost while a batch is in flight, or its disk while the batch is written.
//! A script's writes reach a replica and the append-only file as one transaction, so
//! the id of a batch is there if and only if its increments are.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::SentBatch,
    calls::{ApplyReply, applied_field},
};
use functional_scaffold_testkit::{
    process::poll_until,
    redis::{RedisOptions, RedisServer},
};

use super::{
    fixture::{Fixture, STORED},
    store::Store,
};
use crate::Result;

const PATIENCE: Duration = Duration::from_secs(20);

/// A batch with several increments, and a lease to close.
fn batch(fixture: &mut Fixture, sequence: u64) -> Result<SentBatch> {
    let lease = fixture.lease(sequence, 1_000_000);
    let mut batch = fixture.batch(sequence, &[&lease]);
    batch.increments.inc("m:c", "f", 1);
    batch.increments.inc("m:d", "g", 1);
    batch.frozen_ms = Some(fixture.store.begin(1)?);
    // So that every batch writes the same.
    fixture.store.forget_flush()?;
    Ok(batch)
}

/// Checks that a store has all of a batch or nothing of it, and counts it once when it is
/// sent again. `before` batches were stored before. Returns whether it had the batch.
fn is_whole(store: &mut Store, batch: &SentBatch, before: i128) -> Result<bool> {
    let keys = ["m:c", "m:d"].map(str::to_owned);
    let hashes = store.applied(&batch.id)?;
    let sequence = batch.id.sequence;
    let writer = applied_field(&batch.id);
    let is_known = hashes
        .iter()
        .any(|hash| hash.get(&writer) == Some(&sequence));
    let expected = before + i128::from(is_known);
    for count in store.counters(&keys)?.into_values() {
        assert_eq!(count, expected, "id known: {is_known}");
    }
    let reply = store.apply(batch)?;
    let is_duplicate = reply == ApplyReply::Duplicate;
    assert_eq!(is_duplicate, is_known, "{reply:?}");
    for count in store.counters(&keys)?.into_values() {
        assert_eq!(count, before + 1);
    }
    Ok(is_known)
}

/// Passes replication on to one replica, as long as its budget lasts.
#[derive(Default)]
struct Link {
    state: Mutex<LinkState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinkState {
    /// Bytes that may pass; `None` for all.
    budget: Option<usize>,
    streams: Vec<TcpStream>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on the returned port.
    fn open(self: &Arc<Self>, master: u16) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let link = Arc::clone(self);
        thread::spawn(move || {
            // One connection; a second attempt of the replica finds nobody.
            let (replica, _) = listener.accept()?;
            drop(listener);
            let master = TcpStream::connect(("127.0.0.1", master))?;
            let (mut from, mut to) = (replica.try_clone()?, master.try_clone()?);
            let both = [replica.try_clone()?, master.try_clone()?];
            link.state().streams.extend(both);
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            link.pass(master, replica)
        });
        Ok(port)
    }

    fn pass(&self, mut master: TcpStream, mut replica: TcpStream) -> std::io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            let read = master.read(&mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            let mut state = self.state();
            let passing = state.budget.map_or(read, |budget| budget.min(read));
            if let Some(budget) = &mut state.budget {
                *budget -= passing;
            }
            drop(state);
            replica.write_all(&bytes[..passing])?;
            self.changed.notify_all();
        }
    }

    /// Waits until the budget is used up, and cuts the link.
    fn cut(&self) -> Result {
        let is_left = |state: &mut LinkState| state.budget.is_some_and(|left| left > 0);
        let waited = self
            .changed
            .wait_timeout_while(self.state(), PATIENCE, is_left);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!timeout.timed_out(), "{:?} bytes are left", state.budget);
        for stream in &state.streams {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        Ok(())
    }
}

fn offset(server: &RedisServer, field: &str) -> Result<usize> {
    let info: String = server.call(&["INFO", "replication"])?;
    let found = info
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(found
        .with_context(|| format!("no {field}: {info}"))?
        .trim()
        .parse()?)
}

#[test]
fn a_replica_has_all_of_a_batch_or_nothing_wherever_the_link_breaks() -> Result {
    let master = RedisOptions::new()
        .line("repl-diskless-sync-delay", &["0"])
        .line("repl-ping-replica-period", &["3600"]);
    let mut fixture = Fixture::on(master.start()?)?;
    let replica = RedisServer::start()?;
    // It creates the hashes, so that the others have one length.
    let first = batch(&mut fixture, 1)?;
    assert_eq!(fixture.apply(&first)?, STORED);
    let mut length = 0;
    let mut known = Vec::new();
    // All of it passes; nearly nothing; a part; all but a byte.
    let parts: [fn(usize) -> Option<usize>; 4] = [
        |_| None,
        |_| Some(1),
        |length| Some(length / 3),
        |length| Some(length - 1),
    ];
    for (sequence, passing) in (2..).zip(parts) {
        let link = Arc::new(Link::default());
        let port = link.open(fixture.server.port())?.to_string();
        replica.call::<()>(&["REPLICAOF", "127.0.0.1", &port])?;
        // The first write to a new replica begins with SELECT: not that of the batch.
        is_in_step(&fixture.server, &replica)?;
        let next = batch(&mut fixture, sequence)?;
        let before = is_in_step(&fixture.server, &replica)?;
        let passing = passing(length);
        link.state().budget = passing;
        assert_eq!(fixture.apply(&next)?, STORED);
        if passing.is_none() {
            length = is_in_step(&fixture.server, &replica)? - before;
        }
        link.cut()?;
        // Promoted, with the batch in flight as far as its writer knows.
        poll_until(PATIENCE, || {
            let info: String = replica.call(&["INFO", "replication"])?;
            ensure!(info.contains("master_link_status:down"), "{info}");
            Ok(())
        })?;
        replica.call::<()>(&["REPLICAOF", "NO", "ONE"])?;
        let mut store = Store::open(&replica, "m:")?;
        let before = i128::from(sequence) - 1;
        known.push(is_whole(&mut store, &next, before)?);
    }
    assert_eq!(known, [true, false, false, false]);
    Ok(())
}

/// Waits until the replica has everything. Returns the offset.
fn is_in_step(master: &RedisServer, replica: &RedisServer) -> Result<usize> {
    poll_until(PATIENCE, || {
        let info: String = replica.call(&["INFO", "replication"])?;
        ensure!(info.contains("master_link_status:up"), "{info}");
        let master = offset(master, "master_repl_offset")?;
        let replica = offset(replica, "slave_repl_offset")?;
        ensure!(replica == master, "at {replica} of {master}");
        Ok(master)
    })
}

/// The append-only file that the server writes to.
fn appended(server: &RedisServer) -> Result<PathBuf> {
    for entry in fs::read_dir(server.folder().join("appendonlydir"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".incr.aof") {
            return Ok(path);
        }
    }
    anyhow::bail!("there is no append-only file")
}

#[test]
fn a_torn_append_only_file_has_all_of_a_batch_or_nothing() -> Result {
    let mut fixture = Fixture::on(RedisOptions::new().append_only("always").start()?)?;
    let first = batch(&mut fixture, 1)?;
    assert_eq!(fixture.apply(&first)?, STORED);
    let next = batch(&mut fixture, 2)?;
    let path = appended(&fixture.server)?;
    let before = fs::read(&path)?.len();
    assert_eq!(fixture.apply(&next)?, STORED);
    let whole = fs::read(&path)?;
    let length = whole.len() - before;
    let mut known = Vec::new();
    for kept in [1, length / 3, length * 2 / 3, length - 1, length] {
        fixture.server.kill();
        fs::write(&path, &whole[..before + kept])?;
        fixture.server.restart()?;
        let mut store = Store::open(&fixture.server, "m:")?;
        known.push(is_whole(&mut store, &next, 1)?);
    }
    assert_eq!(known, [false, false, false, false, true]);
    Ok(())
}
