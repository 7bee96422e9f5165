//! Decides whose count is in doubt, because an instance may have died or Redis may have
//! forgotten it. So it bounds what each series must count, from below and from above.
//!
//! A response is counted some milliseconds after it was sent. If its instance dies before
//! that, its count is lost. The client does not see which instance died. It only knows
//! that two kinds of instances did not: those that responded to a request *sent* after
//! the death, and those that had already served as many requests as an instance takes.
//! So in doubt are the responses of all other instances, shortly before a death.
//!
//! A response in doubt is counted as crashed, by its lease. It may not be counted at all
//! if Redis was slow or away: then counts wait for longer, and executions run without a
//! lease.
//!
//! In strict mode no response with a result is in doubt, whatever happens. A 503 says
//! that the execution did not begin, or that its result is counted and withheld.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use functional_scaffold_protocol::catalog::ExecutionStatus;

use crate::{
    load::{Entry, Kind, Outcome, UNAVAILABLE, code_of},
    plan::{AppKind, Durability, Phase},
};

/// The variable `execution_limit_ms`: small, so that leases expire soon.
pub(crate) const EXECUTION_LIMIT_MS: u64 = 1_000;
/// The time after which a lease expires: the limit, and the margin of 5 s.
pub(crate) const LEASE: Duration = Duration::from_millis(EXECUTION_LIMIT_MS + 5_000);
/// The number of requests that an instance serves, as on Spin.
pub(crate) const REQUESTS_AN_INSTANCE: usize = 128;

/// The longest time from a response to its count, while Redis replies at once. It is the
/// flush interval of 20 ms, the write in progress, and the response's own write. Both take
/// less than 20 ms, or a lease would have timed out too, and the log would say so.
const USUAL_WAIT: Duration = Duration::from_millis(60);
/// The same while Redis is slow, but replies within the 300 ms that a write waits. Without
/// leases, the log does not say when that is.
const SLOW_WAIT: Duration = Duration::from_millis(500);
/// The same while Redis does not reply. An instance tries to store a batch for a second,
/// and an execution that ends meanwhile is stored with the next batch.
const OUTAGE_WAIT: Duration = Duration::from_millis(2_500);
/// How long an outage affects instances after its end. Until an instance has stored a
/// batch, its counts wait, and its executions run without leases. An idle one, which
/// lives for a second at most, stores a batch with its next request.
pub(crate) const OUTAGE_LASTS: Duration = Duration::from_millis(1_200);
/// The longest time from a crash until it is counted, if readers are cut off meanwhile.
const SETTLED_BY: Duration = Duration::from_secs(LEASE.as_secs() + 30);
/// How long after a change of lease time results may be late. An instance learns the new
/// time with its next batch.
const LATE_AFTER: Duration = Duration::from_secs(3);
/// The longest time from an event until the client sees it.
const LAG: Duration = Duration::from_millis(100);
/// Requests without a known cause of failure that are kept as examples.
const MAX_EXAMPLES: usize = 5;

/// A period of the run, since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Span {
    fn of(entry: &Entry) -> Self {
        Self {
            from: entry.sent,
            to: entry.ended,
        }
    }

    fn widened(self, before: Duration, after: Duration) -> Self {
        Self {
            from: self.from.saturating_sub(before),
            to: self.to + after,
        }
    }

    fn overlaps(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    fn overlaps_any(self, others: &[Self]) -> bool {
        others.iter().any(|other| other.overlaps(self))
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    /// The runtime was killed, until it served again.
    pub(crate) kills: Vec<Span>,
    /// Redis did not reply.
    pub(crate) outages: Vec<Span>,
    /// The connections to Redis were cut, and could be opened again.
    pub(crate) cuts: Vec<Duration>,
    /// A lease was not acknowledged in time.
    pub(crate) slow: Vec<Duration>,
    /// Everything stored during this time is lost.
    pub(crate) forgotten: Vec<Span>,
    /// Leases that Redis acknowledged may have been lost.
    pub(crate) lost_leases: Vec<Span>,
    /// Results of executions during this time, or soon after it, may be late.
    pub(crate) lateness: Vec<Span>,
}

/// The count that a series must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) responses: i64,
    /// The requests that are counted here for certain.
    pub(crate) least: i64,
    /// The requests that may be counted here.
    pub(crate) most: i64,
}

impl Bounds {
    fn add(&mut self, is_response: bool, is_certain: bool) {
        self.responses += i64::from(is_response);
        self.least += i64::from(is_certain);
        self.most += 1;
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    app: AppKind,
    /// By series of `http_requests_total` and [`AppKind::executions`].
    pub(crate) series: BTreeMap<String, Bounds>,
    pub(crate) executions: Bounds,
    pub(crate) requests: Bounds,
    /// The number of requests that should crash, and of those that certainly crashed
    /// under a lease.
    pub(crate) fatal: (i64, i64),
    /// The number of results that may be late because of a fault.
    pub(crate) late: i64,
    /// Requests without a response of the application although nothing died: examples,
    /// and their number.
    pub(crate) unexplained: (Vec<String>, usize),
}

impl Expected {
    pub(crate) fn of(
        app: AppKind,
        entries: &[Entry],
        events: &Events,
        durability: Durability,
    ) -> Self {
        let doubt = Doubt::new(entries, events, durability);
        let mut expected = Self {
            app,
            ..Self::default()
        };
        for status in ExecutionStatus::ALL {
            expected
                .series
                .insert(app.execution_series(status), Bounds::default());
            for phase in Phase::ALL {
                for code in [code_of(status), UNAVAILABLE] {
                    let series = app.request_series(phase, code);
                    expected.series.insert(series, Bounds::default());
                }
            }
        }
        for entry in entries {
            if !doubt.explains(entry) {
                let (examples, count) = &mut expected.unexplained;
                *count += 1;
                if examples.len() < MAX_EXAMPLES {
                    examples.push(format!("{entry:?}"));
                }
            }
            let may_be_late = Span::of(entry).widened(LATE_AFTER, OUTAGE_WAIT);
            expected.late += i64::from(may_be_late.overlaps_any(&events.lateness));
            if entry.outcome != Outcome::Refused {
                expected.add(entry, doubt.of(entry));
            }
        }
        let crashed = doubt.certain_crashes(entries);
        expected.fatal.1 = crashed;
        expected.executions.least += crashed;
        expected.requests.least += crashed;
        let code = code_of(ExecutionStatus::Crashed);
        for series in [
            app.execution_series(ExecutionStatus::Crashed),
            app.request_series(Phase::Deadly, code),
        ] {
            expected.series.entry(series).or_default().least += crashed;
        }
        expected
    }

    fn add(&mut self, entry: &Entry, possible: Possible) {
        let is_response = entry.instance().is_some();
        let is_result = matches!(entry.outcome, Outcome::Response { .. });
        self.fatal.0 += i64::from(entry.kind.is_fatal());
        let result = possible.result.then_some(entry.kind.status());
        let crash = possible.crash.then_some(ExecutionStatus::Crashed);
        let ends = || result.into_iter().chain(crash);
        let executions: Vec<_> = ends()
            .map(|status| self.app.execution_series(status))
            .collect();
        let unavailable = possible.unavailable.then_some(UNAVAILABLE);
        let mut codes: Vec<_> = unavailable.into_iter().chain(ends().map(code_of)).collect();
        // A failure and a crash have the same code.
        codes.dedup();
        let requests = codes
            .iter()
            .map(|&code| self.app.request_series(entry.phase, code));
        let is_counted = !possible.nothing;
        let is_executed = is_counted && !possible.unavailable;
        for (total, series, is_response, is_counted) in [
            (&mut self.executions, executions, is_result, is_executed),
            (
                &mut self.requests,
                requests.collect(),
                is_response,
                is_counted,
            ),
        ] {
            total.add(is_response, is_counted);
            let is_certain = is_counted && series.len() == 1;
            for (index, name) in series.into_iter().enumerate() {
                let bounds = self.series.entry(name).or_default();
                bounds.add(is_response && index == 0, is_certain);
            }
        }
    }
}

/// How a request may be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Possible {
    /// As its result.
    result: bool,
    /// As crashed.
    crash: bool,
    /// Not at all.
    nothing: bool,
    /// As a 503, without an execution.
    unavailable: bool,
}

struct Doubt<'a> {
    durability: Durability,
    events: &'a Events,
    outages: Vec<Span>,
    /// Periods in which instances may have died, in order of their beginnings.
    deaths: Vec<Span>,
    longest_death: Duration,
    slow: Vec<Duration>,
    instances: HashMap<u64, Life>,
}

/// The responses of one instance.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    responses: usize,
    /// When its last request was sent.
    last_sent: Duration,
}

impl<'a> Doubt<'a> {
    fn new(entries: &[Entry], events: &'a Events, durability: Durability) -> Self {
        let fatal = entries.iter().filter(|entry| is_death(entry)).map(Span::of);
        let mut deaths: Vec<_> = fatal.chain(events.kills.iter().copied()).collect();
        deaths.sort_by_key(|death| death.from);
        let longest_death = deaths.iter().map(|death| death.to - death.from).max();
        let outages = events.outages.iter();
        let mut slow = [&*events.cuts, &*events.slow].concat();
        slow.sort_unstable();
        let mut instances: HashMap<u64, Life> = HashMap::new();
        for entry in entries {
            if let Some(instance) = entry.instance() {
                let life = instances.entry(instance).or_default();
                life.responses += 1;
                life.last_sent = life.last_sent.max(entry.sent);
            }
        }
        Self {
            durability,
            events,
            outages: outages
                .map(|outage| outage.widened(LAG, OUTAGE_LASTS))
                .collect(),
            longest_death: longest_death.unwrap_or_default(),
            deaths,
            slow,
            instances,
        }
    }

    fn of(&self, entry: &Entry) -> Possible {
        let has_leases = self.durability != Durability::Batched;
        if entry.instance().is_none() {
            return Possible {
                result: !entry.kind.is_fatal(),
                crash: has_leases,
                nothing: true,
                unavailable: self.durability == Durability::Strict,
            };
        }
        let during = Span::of(entry);
        let waits = self.wait_of(entry);
        let is_taken_by_death = self.may_die(entry, waits);
        let is_forgotten = waits.overlaps_any(&self.events.forgotten);
        if let Outcome::Unavailable { .. } = entry.outcome {
            return Possible {
                result: !entry.kind.is_fatal(),
                crash: true,
                nothing: is_taken_by_death || is_forgotten,
                unavailable: true,
            };
        }
        let (crash, nothing) = match self.durability {
            Durability::Batched => (false, is_taken_by_death),
            Durability::Exact => (
                is_taken_by_death,
                is_taken_by_death
                    && (self.may_be_unleased(during)
                        || joined(during, waits).overlaps_any(&self.events.lost_leases)),
            ),
            Durability::Strict => (false, false),
        };
        Possible {
            result: true,
            crash: has_leases && (crash || is_forgotten),
            nothing: nothing || is_forgotten,
            unavailable: false,
        }
    }

    /// The time from a response until it is certainly counted.
    fn wait_of(&self, entry: &Entry) -> Span {
        let during = Span::of(entry);
        let is_unavailable = matches!(entry.outcome, Outcome::Unavailable { .. });
        let is_slow = is_unavailable || is_near(&self.slow, during);
        let outages = self.outages.iter().filter(|outage| outage.overlaps(during));
        let wait = if let Some(over) = outages.map(|outage| outage.to).max() {
            // Once Redis is back, waiting counts are written.
            let left = over.saturating_sub(entry.ended);
            left.clamp(SLOW_WAIT, OUTAGE_WAIT)
        } else if self.durability == Durability::Batched || is_slow {
            SLOW_WAIT
        } else {
            USUAL_WAIT
        };
        let at = entry.ended;
        Span { from: at, to: at }.widened(LAG, wait)
    }

    /// Returns whether the instance may have died while its response waited for its
    /// count.
    fn may_die(&self, entry: &Entry, waits: Span) -> bool {
        let life = entry.instance().and_then(|id| self.instances.get(&id));
        let life = life.copied().unwrap_or_default();
        let mut deaths = self.deaths_in(waits);
        waits.overlaps_any(&self.events.kills)
            || life.responses < REQUESTS_AN_INSTANCE
                && deaths.any(|death| life.last_sent <= death.to)
    }

    fn deaths_in(&self, span: Span) -> impl Iterator<Item = Span> {
        let end = self.deaths.partition_point(|death| death.from <= span.to);
        let least = span.from.saturating_sub(self.longest_death);
        let before = self.deaths[..end].iter().rev().copied();
        before
            .take_while(move |death| death.from >= least)
            .filter(move |death| death.overlaps(span))
    }

    /// Returns whether a death explains the outcome.
    fn explains(&self, entry: &Entry) -> bool {
        let around = Span::of(entry).widened(LAG, LAG);
        match entry.outcome {
            Outcome::Response { .. } | Outcome::Unavailable { .. } | Outcome::Vanished => true,
            Outcome::HostError | Outcome::NoResponse => self.deaths_in(around).next().is_some(),
            Outcome::Refused => around.overlaps_any(&self.events.kills),
        }
    }

    /// Returns whether an execution during this span may have run without a lease.
    fn may_be_unleased(&self, span: Span) -> bool {
        span.overlaps_any(&self.outages) || is_near(&self.slow, span)
    }

    /// The number of certain crashes, at least: of fatal requests to which the host
    /// responded while Redis replied at once, or in strict mode at any time. Each of them
    /// either crashed under its lease, or died with its instance because another one in
    /// flight crashed. So of requests that overlap, at least one crashed.
    fn certain_crashes(&self, entries: &[Entry]) -> i64 {
        if self.durability == Durability::Batched {
            return 0;
        }
        let fatal = entries
            .iter()
            .filter(|entry| is_death(entry) && entry.outcome == Outcome::HostError);
        let mut fatal: Vec<_> = fatal.map(Span::of).collect();
        fatal.sort_by_key(|span| span.from);
        let mut groups: Vec<Span> = Vec::new();
        for span in fatal {
            match groups.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => groups.push(span),
            }
        }
        groups.retain(|group| {
            let is_leased = self.durability == Durability::Strict || !self.may_be_unleased(*group);
            let until_settled = group.widened(Duration::ZERO, SETTLED_BY);
            is_leased
                && !group.overlaps_any(&self.events.forgotten)
                && !until_settled.overlaps_any(&self.events.lost_leases)
        });
        groups.len() as i64
    }
}

fn joined(one: Span, other: Span) -> Span {
    Span {
        from: one.from.min(other.from),
        to: one.to.max(other.to),
    }
}

fn is_death(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::Trap | Kind::Loop)
        && matches!(entry.outcome, Outcome::HostError | Outcome::NoResponse)
}

/// Returns whether one of these moments, which are sorted, is near a span.
fn is_near(moments: &[Duration], span: Span) -> bool {
    let around = span.widened(SLOW_WAIT, SLOW_WAIT);
    let first = moments.partition_point(|&at| at < around.from);
    moments.get(first).is_some_and(|&at| at <= around.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppKind = AppKind::Service;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn span(from: u64, to: u64) -> Span {
        Span {
            from: at(from),
            to: at(to),
        }
    }

    fn entry(kind: Kind, sent: u64, ended: u64, outcome: Outcome) -> Entry {
        Entry {
            phase: Phase::Deadly,
            kind,
            sent: at(sent),
            ended: at(ended),
            outcome,
        }
    }

    fn response(sent: u64, instance: u64) -> Entry {
        entry(
            Kind::Success,
            sent,
            sent + 5,
            Outcome::Response { instance },
        )
    }

    fn died(kind: Kind, sent: u64, ended: u64) -> Entry {
        entry(kind, sent, ended, Outcome::HostError)
    }

    /// The number of responses that may be counted otherwise than as their result, and
    /// of those that may not be counted at all.
    fn in_doubt(entries: &[Entry], events: &Events, durability: Durability) -> (i64, i64) {
        let expected = Expected::of(APP, entries, events, durability);
        let success = expected.series[&APP.execution_series(ExecutionStatus::Success)];
        let executions = expected.executions;
        let lost = executions.responses + expected.fatal.1 - executions.least;
        (success.responses - success.least, lost)
    }

    use Durability::{Batched, Exact, Strict};

    #[test]
    fn a_response_is_in_doubt_shortly_before_a_death_of_an_instance_not_seen_again() {
        let trap = died(Kind::Trap, 1_000, 1_003);
        for (entries, count) in [
            (vec![response(980, 1), trap], 1),
            (vec![response(400, 1), trap], 0),
            (vec![response(980, 1), trap, response(1_010, 2)], 1),
            (vec![response(980, 1), trap, response(1_010, 1)], 0),
            // Sent before the death: its response proves nothing.
            (vec![response(980, 1), trap, response(1_001, 1)], 2),
            // A loop occupies its instance all the time.
            (vec![response(980, 1), died(Kind::Loop, 1_000, 1_600)], 1),
        ] {
            let events = Events::default();
            let of = |durability| in_doubt(&entries, &events, durability);
            assert_eq!(of(Exact), (count, 0), "{entries:?}: it has a lease");
            assert_eq!(of(Strict), (0, 0), "{entries:?}: it is counted before");
            assert_eq!(of(Batched), (count, count), "{entries:?}");
        }
    }

    #[test]
    fn an_instance_that_responded_to_all_it_takes_died_of_no_request() {
        let of_one: Vec<_> = (0..128)
            .map(|number| response(960 + number / 4, 1))
            .collect();
        let trap = died(Kind::Trap, 1_000, 1_003);
        let count = |entries: &[Entry], events: &Events| {
            in_doubt(&[entries, &[trap]].concat(), events, Exact).0
        };
        let mut events = Events::default();
        assert_eq!(count(&of_one, &events), 0);
        assert_eq!(count(&of_one[1..], &events), 127);
        events.kills = vec![span(1_000, 1_500)];
        assert_eq!(
            count(&of_one, &events),
            128,
            "it may have died with the runtime"
        );
    }

    #[test]
    fn near_a_slow_lease_a_response_waits_for_longer_and_may_have_no_lease() {
        let entries = [response(700, 1), died(Kind::Trap, 1_000, 1_003)];
        for (slow, cuts, exact) in [
            (&[][..], &[][..], (0, 0)),
            (&[5_000, 600], &[], (1, 1)),
            (&[100, 1_300], &[], (0, 0)),
            (&[], &[600], (1, 1)),
        ] {
            let moments = |moments: &[u64]| moments.iter().copied().map(at).collect();
            let events = Events {
                slow: moments(slow),
                cuts: moments(cuts),
                ..Events::default()
            };
            assert_eq!(in_doubt(&entries, &events, Exact), exact, "{events:?}");
            // A strict response waited for its count.
            assert_eq!(in_doubt(&entries, &events, Strict), (0, 0), "{events:?}");
        }
    }

    #[test]
    fn around_an_outage_more_is_in_doubt_and_may_be_lost() {
        let events = Events {
            outages: vec![span(500, 1_000)],
            ..Events::default()
        };
        for (sent, death, count) in [
            (600, 2_100, 1),
            (1_000, 2_100, 1),
            (2_100, 2_200, 1),
            (300, 2_100, 0),
            // Redis had been back for a long time.
            (1_000, 3_000, 0),
        ] {
            let entries = [response(sent, 1), died(Kind::Trap, death, death + 3)];
            for durability in [Exact, Batched] {
                assert_eq!(in_doubt(&entries, &events, durability), (count, count));
            }
            assert_eq!(in_doubt(&entries, &events, Strict), (0, 0));
        }
    }

    #[test]
    fn a_503_is_counted_unless_its_instance_died_and_its_execution_may_be() {
        let unavailable = |sent| {
            let outcome = Outcome::Unavailable { instance: 1 };
            entry(Kind::Success, sent, sent + 5, outcome)
        };
        let trap = died(Kind::Trap, 1_000, 1_003);
        for (sent, least) in [(400, 1), (980, 0)] {
            let expected =
                Expected::of(APP, &[unavailable(sent), trap], &Events::default(), Strict);
            let success = APP.execution_series(ExecutionStatus::Success);
            let expect = |responses, least, most| Bounds {
                responses,
                least,
                most,
            };
            assert_eq!(expected.series[&success], expect(0, 0, 1));
            let series = APP.request_series(Phase::Deadly, 503);
            assert_eq!(expected.series[&series], expect(1, 0, 2));
            // The trap is certain.
            assert_eq!(expected.executions, expect(0, 1, 2));
            assert_eq!(expected.requests, expect(1, least + 1, 2));
        }
    }

    #[test]
    fn what_redis_forgot_may_be_lost() {
        let events = Events {
            forgotten: vec![span(1_000, 2_000)],
            ..Events::default()
        };
        for (sent, count) in [(850, 0), (950, 1), (1_500, 1), (2_200, 0)] {
            for durability in [Exact, Strict] {
                let found = in_doubt(&[response(sent, 1)], &events, durability);
                assert_eq!(found, (count, count), "{sent}");
            }
        }
    }

    #[test]
    fn of_fatal_requests_that_overlap_one_crashed_for_certain() {
        let entries = [
            died(Kind::Trap, 1_000, 1_005),
            died(Kind::Loop, 2_000, 2_500),
            died(Kind::Trap, 2_100, 2_105),
            died(Kind::Trap, 2_400, 2_600),
            died(Kind::Trap, 5_000, 5_005),
        ];
        let mut events = Events::default();
        assert_eq!(Expected::of(APP, &entries, &events, Exact).fatal, (5, 3));
        assert_eq!(Expected::of(APP, &entries, &events, Batched).fatal, (5, 0));
        events.outages = vec![span(4_900, 4_950)];
        assert_eq!(Expected::of(APP, &entries, &events, Exact).fatal, (5, 2));
        // In strict mode it had a lease even then.
        assert_eq!(Expected::of(APP, &entries, &events, Strict).fatal, (5, 3));
    }

    #[test]
    fn a_missing_response_without_a_death_is_reported() {
        let entries = [
            died(Kind::Trap, 1_000, 1_005),
            died(Kind::Success, 999, 1_006),
            died(Kind::Success, 3_000, 3_005),
            entry(Kind::Success, 9_000, 9_001, Outcome::Refused),
        ];
        let mut events = Events::default();
        let expected = Expected::of(APP, &entries, &events, Exact);
        assert_eq!(expected.unexplained.1, 2);
        assert_eq!(
            expected.executions.most, 3,
            "nothing was sent where nothing listens"
        );
        events.kills = vec![span(2_990, 9_000)];
        assert_eq!(Expected::of(APP, &entries, &events, Exact).unexplained.1, 0);
    }
}
