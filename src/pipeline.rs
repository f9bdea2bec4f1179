//! The corridor: the one walk from a request to an upstream, through every room in order. The order is code; each
//! step takes what only the step before can make, so none can be left out.

mod decided;
mod ended;
mod learn;
mod owed;
mod page;
mod preflight;
mod seen;
mod told;
mod traced;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ulid::Ulid;

use crate::{
    audit::{Outcome, PREFLIGHT, Record, Sink},
    base::clock::Clock,
    entities::{DecisionRequest, MappingError, Names, RoutePlan, Side, Subject},
    forward::Obligations,
    limit::Asker,
    memo::Answer,
    metrics::Metrics,
    pages::Page,
    policy::{Explanation, PolicyNote},
    refusal::{ClientError, Refusal, Refused},
    request::{
        Head, Inbound, Limits, RequestError,
        cors::{CorsFields, Preflight},
        rewrite::Outbound,
        trace_context::TraceContext,
    },
    shadow::Shadow,
    snapshot::{Current, Snapshot},
    token::{Presented, bearer::Scheme},
    trace::{Spans, Trace},
};

/// What every visit shares.
#[derive(Clone)]
pub struct Gate {
    current: Arc<Current>,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
    metrics: Arc<Metrics>,
    shadow: Arc<Shadow>,
    spans: Option<Arc<dyn Spans>>,
    /// Requests under way.
    under_way: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("current", &self.current).finish_non_exhaustive()
    }
}

/// One request on its way. Dropping it writes its record, however it ended.
pub struct Visit {
    gate: Gate,
    /// INVARIANT: the one snapshot that this request is decided and ended on.
    snapshot: Arc<Snapshot>,
    record: Record,
    trace: Trace,
    /// Who asks.
    subject: Option<Arc<Subject>>,
    /// What the policies were asked.
    question: Option<DecisionRequest>,
    /// What they had said before, where that was remembered.
    recalled: Option<Arc<Answer>>,
    arrived: Instant,
    /// When it was sent on, the last time.
    sent: Option<Instant>,
    /// Bytes of its body, where they are bounded.
    body_bytes_max: Option<u64>,
    /// How the token was presented, once that is known.
    scheme: Option<Scheme>,
    /// What web pages are told in the answer.
    cors: Option<CorsFields>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("record", &self.record).finish_non_exhaustive()
    }
}

/// What becomes of a request that is let in.
#[derive(Debug)]
pub enum Admission {
    /// It goes to the upstream.
    Forward(Obligations),
    /// It is a browser's question about a web page, and this is the answer.
    Preflight(CorsFields),
    /// It is for a page of the gate's own.
    Page(Arc<Page>),
}

/// A method is recorded up to this length, in bytes.
const METHOD_BYTES_RECORDED: usize = 16;

/// A path is recorded up to this length, in bytes.
const PATH_BYTES_RECORDED: usize = 1024;

impl Gate {
    /// A gate that decides by the snapshot in force when a visit begins.
    pub fn new(current: Arc<Current>, clock: Arc<dyn Clock>, sink: Arc<dyn Sink>, metrics: Arc<Metrics>) -> Self {
        let shadow = Arc::new(Shadow::new(sink.clone(), metrics.clone()));
        Self { current, clock, sink, metrics, shadow, spans: None, under_way: Arc::default() }
    }

    /// Writes every record of what has ended.
    pub fn settle(&self) {
        self.shadow.close();
    }

    /// The bounds on requests that are in force.
    pub fn limits(&self) -> Limits {
        self.current.load().limits
    }

    /// Opens a visit.
    pub fn receive(&self) -> Visit {
        let (now, id) = (self.clock.now(), Ulid::generate());
        let snapshot = self.current.load();
        let record = Record {
            time: now.rfc3339(),
            decision_id: id.to_string(),
            code: "abandoned",
            schema_revision: snapshot.revisions.schema.clone(),
            config_revision: snapshot.revisions.config.clone(),
            ..Record::default()
        };
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let (gate, arrived) = (self.clone(), Instant::now());
        let trace = Trace::begin(snapshot.tracing, id.into(), now, arrived);
        Visit {
            gate,
            snapshot,
            record,
            trace,
            subject: None,
            question: None,
            recalled: None,
            arrived,
            sent: None,
            body_bytes_max: None,
            scheme: None,
            cors: None,
        }
    }

    /// Whether `peer` is a proxy that is believed of where connections and requests come from.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.current.load().proxies.has(peer)
    }

    /// Refuses, and records that it did, what came from `peer` and is not read; where it is closed nothing is answered.
    pub fn refuse(&self, peer: Option<SocketAddr>, refusal: &Refusal, is_closed: bool) -> Refused {
        let mut visit = self.receive();
        visit.record.peer = peer.map(|peer| peer.ip().to_string());
        visit.record.decision = Outcome::Deny;
        visit.note_refusal(refusal);
        visit.answered(if is_closed { 0 } else { refusal.status().as_u16() });
        Refused::new(refusal.clone(), visit.record.decision_id.clone())
    }
}

impl Visit {
    /// Names the decision.
    pub fn decision_id(&self) -> &str {
        &self.record.decision_id
    }

    /// The bounds on this request.
    pub fn limits(&self) -> Limits {
        self.snapshot.limits
    }

    /// Whether its body may have so many bytes.
    pub fn may_hold(&self, bytes: u64) -> bool {
        self.body_bytes_max.is_none_or(|max| bytes <= max)
    }

    /// Walks the request through the house.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub async fn admit(&mut self, head: &Head<'_>) -> Result<Admission, Refusal> {
        self.record.method = cut(head.method.as_str().as_bytes(), METHOD_BYTES_RECORDED);
        let path = head.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        self.record.path = cut(path, PATH_BYTES_RECORDED);
        self.record.peer = head.peer.map(|peer| peer.ip().to_string());
        let outcome = self.walk(head).await;
        self.record.decision_us = micros(self.arrived.elapsed());
        match &outcome {
            Ok(Admission::Forward(_)) => (self.record.decision, self.record.code) = (Outcome::Allow, "allowed"),
            Ok(Admission::Preflight(_)) => (self.record.decision, self.record.code) = (Outcome::Allow, PREFLIGHT),
            Ok(Admission::Page(page)) => (self.record.decision, self.record.code) = (Outcome::Allow, page.code()),
            Err(refusal) => {
                self.record.decision = Outcome::Deny;
                self.note_refusal(refusal);
            }
        }
        outcome
    }

    async fn walk(&mut self, head: &Head<'_>) -> Result<Admission, Refusal> {
        let snapshot = self.snapshot.clone();
        let under_way = self.gate.under_way.load(Ordering::Relaxed);
        if under_way > snapshot.limits.requests_max {
            return Err(Refusal::Overloaded);
        }
        // Each request under way has one record to come, and so has each that candidate policies are still asked about.
        let to_come = || under_way.saturating_add(self.gate.shadow.waiting());
        if snapshot.records.required && !self.gate.sink.has_room(to_come()) {
            return Err(Refusal::Unrecorded);
        }
        let from = head.peer.map(|peer| peer.ip());
        let is_trusted = from.is_some_and(|peer| snapshot.proxies.has(peer));
        self.trace.follow(is_trusted, || TraceContext::of(head.headers));
        let client = from.map(|peer| snapshot.proxies.client(peer, head.headers)).transpose()?;
        if client != from {
            self.record.via = self.record.peer.take();
            self.record.peer = client.map(|client| client.to_string());
        }
        let head = &Head { peer: client.map(|client| SocketAddr::new(client, 0)), ..*head };
        let inbound = Inbound::parse(head, &snapshot.limits)?;
        if let Some(wanted) = snapshot.pages.wanted(&inbound) {
            return self.page(wanted, &inbound, client).await;
        }
        let host = snapshot.routes.depends_on_host().then(|| inbound.host()).flatten();
        let preflight = Preflight::of(inbound.method(), inbound.headers());
        if let Some(preflight) = preflight
            && let Some(outcome) = preflight::outcome(&snapshot.routes, host.as_deref(), &inbound, &preflight)
        {
            return self.preflight(&preflight, outcome, client).await;
        }
        let found = snapshot.routes.find(host.as_deref(), inbound.method(), inbound.target());
        let found = found.map_err(RequestError::from)?;
        self.record.route = found.as_ref().map(|found| found.route.name().clone());
        let route = found.as_ref().map(|found| found.route.name());
        let cors = found.as_ref().and_then(|found| found.route.cors());
        self.cors = cors.map(|cors| cors.fields(inbound.headers()));
        let asker = Asker { peer: client, route, ..Asker::default() };
        snapshot.rates.admit_peer(&asker).await?;
        self.trace.pass();
        let now = self.gate.clock.now();
        let presented = Presented::of(&inbound)?;
        self.scheme = Some(presented.scheme);
        let subject = self.authenticate(&snapshot, &presented, now).await?;
        self.subject = Some(subject.clone());
        let possession = snapshot.issuers.possession(subject.token(), &presented, &inbound, now)?;
        self.trace.pass();
        let names = subject.names();
        let asker = Asker { agent: Some(&names.agent), user: names.user.as_ref(), ..asker };
        snapshot.rates.admit_client(&asker).await?;
        let found = found.ok_or_else(|| match snapshot.routes.is_foreign(host.as_deref()) {
            true if snapshot.routes.depends_on_host() => Refusal::HostUnknown,
            _ => Refusal::RouteMissing,
        })?;
        let body_bytes_max = found.route.body_bytes_max().or(snapshot.limits.body_bytes_max);
        self.body_bytes_max = body_bytes_max.into_iter().chain(snapshot.identity.body_bytes_max()).min();
        if inbound.content_length().is_some_and(|length| !self.may_hold(length)) {
            return Err(ClientError::BodyTooLarge.into());
        }
        self.record.action = Some(found.route.action_name().clone());
        self.record.upstream = found.route.upstream().cloned();
        // INVARIANT: the configuration has no route to an upstream that is not there.
        let pool = snapshot.pools.of(found.route.upstream().map(|name| &**name)).ok_or(Refusal::Internal)?;
        let target = self.outbound(found.route, &inbound)?;
        let store = snapshot.stores.choose(found.route.store(), || inbound.host());
        let store = store.ok_or(Refusal::HostUnknown)?;
        self.record.store.clone_from(&store.name);
        self.record.policy_revision = Some(store.policies.revision().clone());
        let asker = (&*subject, &possession);
        let allowed = self.decide(&snapshot, store, &found, asker, &inbound, now).await?;
        self.note_policies(allowed.determining());
        Ok(Admission::Forward(self.owed(pool, target, &allowed, &subject, &store.policies)?))
    }

    /// The target that the upstream gets.
    fn outbound(&mut self, route: &RoutePlan, inbound: &Inbound<'_>) -> Result<Outbound, Refusal> {
        // INVARIANT: the route describes the target, and so it can be rewritten.
        let outbound = Outbound::of(inbound.target(), route.rewrite()).ok_or(Refusal::Internal)?;
        if outbound.as_str().len() > self.snapshot.limits.target_bytes_max {
            return Err(RequestError::TargetTooLong.into());
        }
        if let Some(rewrite) = route.rewrite() {
            self.record.upstream_path = Some(cut(outbound.path().as_bytes(), PATH_BYTES_RECORDED));
            self.record.upstream_template = Some(rewrite.template().clone());
        }
        Ok(outbound)
    }

    /// How much longer what was begun with this request may go on, by its token.
    ///
    /// # Errors
    /// Why no longer.
    pub fn holds_for(&self) -> Result<Duration, Refusal> {
        let subject = self.subject.as_ref().ok_or(Refusal::Internal)?;
        // By the latest configuration: its issuers, its deny-list.
        Ok(self.gate.current.load().issuers.holds_for(subject.token(), self.gate.clock.now())?)
    }

    /// What the policies were asked, once they were; none where what they said was remembered.
    pub const fn question(&self) -> Option<&DecisionRequest> {
        self.question.as_ref()
    }

    /// Why they said what they said.
    pub fn explain(&self) -> Option<Explanation> {
        let store = self.snapshot.stores.named(self.record.store.as_deref())?;
        Some(store.policies.explain(self.question.as_ref()?))
    }

    /// What is recorded so far.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    fn note_names(&mut self, names: &Names) {
        self.record.issuer = Some(names.issuer.clone());
        self.record.agent = Some(names.agent.clone());
        self.record.user.clone_from(&names.user);
        self.record.user_issuer.clone_from(&names.user_issuer);
        self.record.actors = names.actors.clone();
        self.record.app.clone_from(&names.app);
        self.record.key.clone_from(&names.key);
    }

    /// Notes that an admitted request failed after all: at the upstream, the client or the network. What was refused
    /// before keeps its reason.
    pub fn fail(&mut self, refusal: &Refusal) {
        if self.record.decision != Outcome::Deny {
            self.note_refusal(refusal);
        }
    }

    fn note_refusal(&mut self, refusal: &Refusal) {
        self.record.code = refusal.code();
        self.record.stage = Some(refusal.stage().name());
        match refusal {
            Refusal::Denied(denied) => {
                self.record.side = denied.side.map(Side::name);
                self.note_policies(&denied.determining);
            }
            Refusal::Preflight(error) => self.record.missing = Some(error.of().to_owned()),
            Refusal::Limited(error) => self.record.limit = Some(error.limit().clone()),
            Refusal::Mapping(
                MappingError::ClaimMissing(name)
                | MappingError::ScopeMissing(name)
                | MappingError::SourceUnavailable(name)
                | MappingError::SourceTimedOut(name),
            ) => {
                self.record.missing = Some(name.clone());
            }
            _ => {}
        }
    }

    fn note_policies(&mut self, determining: &[Arc<PolicyNote>]) {
        self.record.policies = determining.iter().map(|note| note.id.clone()).collect();
        self.note_annotations(determining);
    }
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

fn cut(text: &[u8], max: usize) -> String {
    String::from_utf8_lossy(text.get(..max).unwrap_or(text)).into_owned()
}
