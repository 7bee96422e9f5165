//! Which answers a death, or a Redis that forgets, may take back. Pure.
//!
//! An answer's count is written some milliseconds after it, so it is at risk if
//! its instance died soon after. Which instance a death took is not told. But one
//! that answered a request *sent* after the death has outlived it, and one that
//! answered as many as an instance takes had none that killed it. So what is at
//! risk is what was answered shortly before a death by any other instance.
//!
//! While Redis does not answer at once, counts wait for longer, and executions
//! run without a lease: then an answer at risk may not be counted at all.

use std::{collections::HashMap, time::Duration};

use super::{
    Durability,
    ledger::{Entry, Outcome},
    runtime,
};

/// For how long an answer may wait for its count while Redis answers at once:
/// the flush interval of 20 ms, the write under way before it and its own, each
/// faster than a lease's 20 ms: a lease that waits for longer is in the log.
const WELL_WINDOW: Duration = Duration::from_millis(60);
/// The same while an answer may take longer than that, and less than the 300 ms
/// that a write waits for it. Without leases nothing tells when.
const SLOW_WINDOW: Duration = Duration::from_millis(500);
/// The same while none comes: an instance tries for a second, the last try may
/// take another, and what came during one flush goes with the next.
const TROUBLED_WINDOW: Duration = Duration::from_millis(2_500);
/// How long after a trouble with Redis something may be left of it: an instance
/// may not have written what waited, and may do without leases until it has; one
/// that idled, for a second at most, writes with its next request.
pub const TROUBLE_LASTS: Duration = Duration::from_millis(1_200);
/// How much later than it happened the client may have seen something.
const LAG: Duration = Duration::from_millis(100);

/// A stretch of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its beginning, since the run's.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
}

impl Span {
    /// Longer by so much on either side.
    #[must_use]
    pub fn widened(self, before: Duration, after: Duration) -> Self {
        Self {
            from: self.from.saturating_sub(before),
            to: self.to + after,
        }
    }

    fn meets(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// What happened during a run, beside the requests.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// The runtime was killed: until it served again.
    pub kills: Vec<Span>,
    /// Redis did not answer.
    pub troubles: Vec<Span>,
    /// The connections to Redis were cut, and may be opened again.
    pub cuts: Vec<Duration>,
    /// A lease was not acknowledged in time: something was slow.
    pub slow: Vec<Duration>,
    /// What was stored then is forgotten.
    pub forgotten: Vec<Span>,
}

/// What is known of when something may have been taken back.
#[derive(Debug)]
pub struct Risk<'a> {
    durability: Durability,
    events: &'a Events,
    /// In which instances may have died, by their beginnings.
    deaths: Vec<Span>,
    longest: Duration,
    cuts: Vec<Duration>,
    slow: Vec<Duration>,
    well_window: Duration,
    instances: HashMap<u64, Life>,
}

/// What is known of an instance.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    answers: usize,
    /// When the last request that it answered was sent.
    last_sent: Duration,
}

impl<'a> Risk<'a> {
    /// Looks at all requests of a run.
    #[must_use]
    pub fn new(entries: &[Entry], events: &'a Events, durability: Durability) -> Self {
        let fatal = entries.iter().filter(|entry| is_death(entry)).map(span);
        let mut deaths: Vec<_> = fatal.chain(events.kills.iter().copied()).collect();
        deaths.sort_by_key(|death| death.from);
        let longest = deaths.iter().map(|death| death.to - death.from).max();
        let mut cuts = events.cuts.clone();
        cuts.sort_unstable();
        let mut slow = [&*cuts, &*events.slow].concat();
        slow.sort_unstable();
        let mut instances: HashMap<u64, Life> = HashMap::new();
        for entry in entries {
            if let Some(instance) = entry.instance() {
                let life = instances.entry(instance).or_default();
                life.answers += 1;
                life.last_sent = life.last_sent.max(entry.sent);
            }
        }
        Self {
            durability,
            events,
            deaths,
            longest: longest.unwrap_or_default(),
            cuts,
            slow,
            well_window: match durability {
                Durability::Relaxed => SLOW_WINDOW,
                Durability::Exact | Durability::Strict => WELL_WINDOW,
            },
            instances,
        }
    }

    /// The deaths that meet a span.
    fn deaths_in(&self, span: Span) -> impl Iterator<Item = Span> {
        let end = self.deaths.partition_point(|death| death.from <= span.to);
        let least = span.from.saturating_sub(self.longest);
        let before = self.deaths[..end].iter().rev().copied();
        before
            .take_while(move |death| death.from >= least)
            .filter(move |death| death.meets(span))
    }

    /// Whether a death explains what came back.
    #[must_use]
    pub fn explains(&self, entry: &Entry) -> bool {
        let around = span(entry).widened(LAG, LAG);
        match entry.outcome {
            Outcome::Answer { .. } => true,
            Outcome::HostError | Outcome::NoAnswer => self.deaths_in(around).next().is_some(),
            Outcome::Refused => self.events.kills.iter().any(|kill| kill.meets(around)),
        }
    }

    /// Whether an answer may be counted as crashed or not at all, and whether it
    /// may be not counted at all.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> (bool, bool) {
        let during = span(entry);
        let at_risk = self.is_at_risk(entry);
        let (retractable, losable) = match self.durability {
            Durability::Relaxed => (at_risk, at_risk),
            Durability::Exact => (at_risk, at_risk && self.may_be_unleased(during)),
            Durability::Strict => {
                let unwritten = at_risk && self.may_be_unwritten(during);
                (unwritten, unwritten)
            }
        };
        let forgotten = self.is_forgotten(entry);
        (retractable || forgotten, losable || forgotten)
    }

    /// From an answer until it is surely counted.
    fn waits(&self, entry: &Entry) -> Span {
        let during = span(entry);
        let troubles = self.troubles().filter(|trouble| trouble.meets(during));
        let window = if let Some(over) = troubles.map(|trouble| trouble.to).max() {
            // Once Redis is back, what waits for it is written.
            let left = over.saturating_sub(entry.ended);
            left.clamp(SLOW_WINDOW, TROUBLED_WINDOW)
        } else if self.is_slow(span(entry)) {
            SLOW_WINDOW
        } else {
            self.well_window
        };
        moment(entry.ended).widened(LAG, window)
    }

    fn is_at_risk(&self, entry: &Entry) -> bool {
        let life = entry.instance().and_then(|id| self.instances.get(&id));
        let life = life.copied().unwrap_or_default();
        let waits = self.waits(entry);
        let killed = self.events.kills.iter().any(|kill| kill.meets(waits));
        let mut deaths = self.deaths_in(waits);
        killed
            || life.answers < runtime::REQUESTS_AN_INSTANCE
                && deaths.any(|death| life.last_sent <= death.to)
    }

    fn is_forgotten(&self, entry: &Entry) -> bool {
        let waits = self.waits(entry);
        self.events.forgotten.iter().any(|span| span.meets(waits))
    }

    /// Whether an execution then may have run without a lease.
    fn may_be_unleased(&self, span: Span) -> bool {
        self.is_trouble(span) || self.is_slow(span)
    }

    /// Whether a strict answer then may have been given before its count was
    /// written: after an attempt that failed. A slow lease is none.
    fn may_be_unwritten(&self, span: Span) -> bool {
        self.is_trouble(span) || is_near(&self.cuts, span)
    }

    fn is_trouble(&self, span: Span) -> bool {
        self.troubles().any(|trouble| trouble.meets(span))
    }

    fn troubles(&self) -> impl Iterator<Item = Span> {
        let troubles = self.events.troubles.iter();
        troubles.map(|trouble| trouble.widened(LAG, TROUBLE_LASTS))
    }

    /// Until an instance has written again it does without leases.
    fn is_slow(&self, span: Span) -> bool {
        is_near(&self.slow, span)
    }

    /// Fatal requests that the host answered in Redis's good times: each of them
    /// ended its instance itself, under a lease, or was taken along by another
    /// that was under way at the same time. So of those that overlap, one at
    /// the least had begun.
    #[must_use]
    pub fn surely_crashed(&self, entries: &[Entry]) -> i64 {
        if self.durability == Durability::Relaxed {
            return 0;
        }
        let mut fatal: Vec<_> = entries
            .iter()
            .filter(|entry| is_death(entry) && entry.outcome == Outcome::HostError)
            .map(span)
            .collect();
        fatal.sort_by_key(|span| span.from);
        let mut overlapping: Vec<Span> = Vec::new();
        for span in fatal {
            match overlapping.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => overlapping.push(span),
            }
        }
        let forgotten = |span: &Span| self.events.forgotten.iter().any(|other| other.meets(*span));
        overlapping.retain(|span| !self.may_be_unleased(*span) && !forgotten(span));
        overlapping.len() as i64
    }
}

fn is_death(entry: &Entry) -> bool {
    entry.kind.is_fatal() && matches!(entry.outcome, Outcome::HostError | Outcome::NoAnswer)
}

fn span(entry: &Entry) -> Span {
    Span {
        from: entry.sent,
        to: entry.ended,
    }
}

/// Whether one of these moments, which are in order, is near a span.
fn is_near(moments: &[Duration], span: Span) -> bool {
    let around = span.widened(SLOW_WINDOW, SLOW_WINDOW);
    let first = moments.partition_point(|&at| at < around.from);
    moments.get(first).is_some_and(|&at| at <= around.to)
}

fn moment(at: Duration) -> Span {
    Span { from: at, to: at }
}
