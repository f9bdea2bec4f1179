//! The trace of a visit: which one it is, what of it is kept, and what the upstream is told of it. It costs nothing but a few
//! readings of the time until the visit ends: only then is it known whether it was denied, and whether it is kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    audit::{Outcome, Record, StageTimes},
    base::clock::Timestamp,
    request::trace_context::{TraceContext, traceparent},
};

/// Which traces are continued and kept; compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Whose traces are continued.
    pub parent: Parent,
    /// Traces begun here are kept whose lower 63 bits, as a number, are smaller.
    pub kept_below: u64,
    /// Whether denied requests are kept whatever their trace says.
    pub denials: bool,
    /// Whether there is somebody to send them to.
    pub exported: bool,
}

/// Whose traces are continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Those of trusted proxies.
    TrustedProxies,
    /// Everybody's.
    Always,
    /// Nobody's.
    Never,
}

/// What names a trace and is not chosen, as everybody who samples by it takes it.
const RATIO_BITS: u64 = u64::MAX >> 1;

impl Tracing {
    /// The bound for this part of all traces, from 0 to 1.
    #[expect(clippy::as_conversions, reason = "of a share of so large a number nobody needs the last digits")]
    pub fn bound(ratio: f64) -> u64 {
        if ratio >= 1.0 { RATIO_BITS.saturating_add(1) } else { (ratio.max(0.0) * RATIO_BITS as f64) as u64 }
    }

    fn samples(&self, trace: u128) -> bool {
        lower(trace) >> 1 < self.kept_below
    }
}

fn lower(id: u128) -> u64 {
    u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default()
}

/// How many stages a decision has.
const STAGES: usize = StageTimes::NAMES.len();

/// Where spans go.
pub trait Spans: Send + Sync + 'static {
    /// Takes a visit that has ended; must not block.
    fn take(&self, trace: &Trace, record: &Record);
}

/// The trace of one visit.
#[derive(Debug)]
pub struct Trace {
    tracing: Tracing,
    trace: u128,
    /// The visit's own span. Those below it are named by the numbers that follow.
    span: u64,
    caller: Option<TraceContext>,
    sampled: bool,
    began: Timestamp,
    arrived: Instant,
    /// When each stage that was passed ended.
    passed: [Option<Duration>; STAGES],
    attempts: Vec<Attempt>,
}

/// An attempt to have the upstream answer.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Names its span.
    pub span: u64,
    /// Whom it was sent to.
    pub server: Arc<str>,
    /// When, after the visit began.
    pub began: Duration,
    /// When it was over.
    pub ended: Option<Duration>,
    /// The status of the answer.
    pub status: Option<u16>,
}

impl Trace {
    /// A new one, for the decision `id`: its 128 bits, of which 80 are random, name the trace too.
    pub fn begin(tracing: Tracing, id: u128, began: Timestamp, arrived: Instant) -> Self {
        let span = lower(id).max(1);
        let (passed, attempts) = ([None; STAGES], Vec::new());
        Self { tracing, trace: id, span, caller: None, sampled: tracing.samples(id), began, arrived, passed, attempts }
    }

    /// Goes on with a caller's, where that is to be.
    pub fn follow(&mut self, is_trusted: bool, caller: impl FnOnce() -> Option<TraceContext>) {
        let follows = match self.tracing.parent {
            Parent::TrustedProxies => is_trusted,
            Parent::Always => true,
            Parent::Never => false,
        };
        if let Some(caller) = follows.then(caller).flatten() {
            (self.trace, self.sampled) = (caller.trace, caller.sampled);
            self.caller = Some(caller);
        }
    }

    /// Notes that the next stage is passed.
    pub fn pass(&mut self) {
        let now = self.arrived.elapsed();
        if let Some(next) = self.passed.iter_mut().find(|it| it.is_none()) {
            *next = Some(now);
        }
    }

    /// Notes that the request goes to `server`.
    pub fn goes_to(&mut self, server: &Arc<str>) {
        if self.tracing.exported {
            self.ends_attempt();
            let span = self.below(STAGES.saturating_add(self.attempts.len()));
            let (server, began) = (server.clone(), self.arrived.elapsed());
            self.attempts.push(Attempt { span, server, began, ended: None, status: None });
        }
    }

    /// Notes the status of the upstream's answer.
    pub fn is_answered(&mut self, status: u16) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = Some(status);
        }
    }

    fn ends_attempt(&mut self) {
        let now = self.arrived.elapsed();
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended.get_or_insert(now);
        }
    }

    /// Names the visit's span, for records.
    pub fn own(&self) -> String {
        traceparent(self.trace, self.span, self.sampled)
    }

    /// What the upstream gets: of a trace that nobody here tells of, the caller's span.
    pub fn handed_on(&self) -> String {
        let span = match (self.attempts.last(), &self.caller) {
            (Some(attempt), _) => attempt.span,
            (None, Some(caller)) if !self.tracing.exported => caller.span,
            _ => self.span,
        };
        traceparent(self.trace, span, self.sampled)
    }

    /// The caller's trace, if this is that.
    pub const fn caller(&self) -> Option<&TraceContext> {
        self.caller.as_ref()
    }

    /// Whether it is kept, now that the visit has ended as `record` says.
    pub fn is_kept(&self, record: &Record) -> bool {
        self.tracing.exported && (self.sampled || self.tracing.denials && record.decision == Outcome::Deny)
    }

    /// Names the trace.
    pub const fn id(&self) -> u128 {
        self.trace
    }

    /// Names the visit's span.
    pub const fn span(&self) -> u64 {
        self.span
    }

    /// Names the span of the stage with this number.
    pub fn below(&self, number: usize) -> u64 {
        self.span.wrapping_add(u64::try_from(number).unwrap_or_default()).wrapping_add(1).max(1)
    }

    /// Whether its caller, or the share of traces that are kept, has it recorded.
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// When it began.
    pub const fn began(&self) -> Timestamp {
        self.began
    }

    /// How long after that each stage that was passed ended.
    pub fn passed(&self) -> impl Iterator<Item = Duration> {
        self.passed.iter().copied().map_while(|it| it)
    }

    /// How long each stage took that was passed.
    pub fn stages(&self) -> StageTimes {
        let mut began = Duration::ZERO;
        let [request, token, entities, policy] = self.passed.map(|ended| {
            let took = ended?.saturating_sub(began);
            began = ended?;
            u64::try_from(took.as_micros()).ok()
        });
        StageTimes { request, token, entities, policy }
    }

    /// The attempts to have the upstream answer.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracing() -> Tracing {
        Tracing { parent: Parent::TrustedProxies, kept_below: Tracing::bound(0.5), denials: true, exported: true }
    }

    fn begin(tracing: Tracing, id: u128) -> Trace {
        Trace::begin(tracing, id, Timestamp::from_seconds(0), Instant::now())
    }

    fn caller() -> Option<TraceContext> {
        Some(TraceContext { trace: 7, span: 8, sampled: true, state: "a=1".into() })
    }

    #[test]
    fn a_share_of_the_traces_is_kept_and_the_same_ones_everywhere() {
        let kept = |ratio, trace| Tracing { kept_below: Tracing::bound(ratio), ..tracing() }.samples(trace);
        let all = u128::from(u64::MAX);
        assert!(kept(1.0, all) && kept(1.0, 0) && !kept(0.0, 0) && !kept(0.0, all));
        assert!(kept(0.5, all / 2 - 5000) && !kept(0.5, all / 2 + 5000));
        assert!(kept(0.5, (9 << 64) | 1), "the upper half says nothing");
    }

    #[test]
    fn a_trace_is_continued_for_those_alone_whom_the_configuration_names() {
        for (parent, trusted, continued) in [
            (Parent::TrustedProxies, false, false),
            (Parent::TrustedProxies, true, true),
            (Parent::Always, false, true),
            (Parent::Never, true, false),
        ] {
            let mut trace = begin(Tracing { parent, ..tracing() }, 3);
            trace.follow(trusted, caller);
            assert_eq!((trace.id() == 7, trace.caller().is_some()), (continued, continued), "{parent:?} {trusted}");
        }
        let mut trace = begin(Tracing { parent: Parent::Always, ..tracing() }, 3);
        trace.follow(true, || None);
        assert_eq!(trace.id(), 3);
    }

    #[test]
    fn the_upstreams_parent_is_the_attempt_or_whoever_is_told_of() {
        let server = Arc::from("127.0.0.1:1");
        let mut trace = begin(tracing(), 3);
        trace.goes_to(&server);
        let first = trace.handed_on();
        trace.goes_to(&server);
        assert!(first != trace.handed_on() && first != trace.own());
        assert!(trace.attempts()[0].ended.is_some() && trace.attempts()[1].ended.is_none());
        let mut quiet = begin(Tracing { exported: false, parent: Parent::Always, ..tracing() }, 3);
        quiet.follow(false, caller);
        quiet.goes_to(&server);
        assert_eq!(quiet.handed_on(), traceparent(7, 8, true));
        assert!(!quiet.is_kept(&Record { decision: Outcome::Deny, ..Record::default() }));
    }

    #[test]
    fn a_denial_is_kept_whatever_the_share() {
        let trace = begin(Tracing { kept_below: 0, ..tracing() }, 3);
        assert!(trace.is_kept(&Record { decision: Outcome::Deny, ..Record::default() }));
        assert!(!trace.is_kept(&Record { decision: Outcome::Allow, ..Record::default() }));
        let trace = begin(Tracing { kept_below: 0, denials: false, ..tracing() }, 3);
        assert!(!trace.is_kept(&Record { decision: Outcome::Deny, ..Record::default() }));
    }
}
