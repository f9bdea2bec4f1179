//! What is told by the OpenTelemetry Protocol: spans of visits, and decision records. Who receives it may be slow or gone: what
//! waits is bounded, what does not fit is dropped and counted, and no request waits for it.

mod client;
mod records;
mod said;
mod spans;
mod trying;

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prometheus::IntCounter;
use tokio::{
    sync::mpsc::{Receiver as Queue, Sender, channel, error::TrySendError},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::records::OtlpRecords;
use self::{
    client::{Failed, Receiver},
    said::{CONVENTIONS, resource, scope},
    trying::{Trying, left_alone},
};
use crate::{
    audit::Record,
    base::problem::Problem,
    config::otlp::OtlpSettings,
    trace::{Spans, Trace},
};

/// Visits that may wait to be sent.
const QUEUE_VISITS_MAX: usize = 4096;

/// Visits that are sent together at most.
const BATCH_VISITS_MAX: usize = 128;

/// How long a visit waits for others to be sent with it.
const LINGER: Duration = Duration::from_secs(1);

/// How long what waits may take to be sent at the end.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Looks for what is wrong with `settings` where files alone do not tell.
///
/// # Errors
/// The [`Problem`].
pub fn check(settings: &OtlpSettings) -> Result<(), Problem> {
    Receiver::of(settings).map(drop)
}

/// Sends spans.
pub struct Exporter {
    /// Taken away at the end.
    sender: Mutex<Option<Sender<Vec<Span>>>>,
    ends: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    receiver: Arc<ArcSwapOption<Receiver>>,
    dropped: IntCounter,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// Sends to nobody yet; `exported` and `dropped` count spans. Must be called on a tokio runtime.
    pub fn start(exported: IntCounter, dropped: IntCounter) -> Self {
        let (sender, queue) = channel(QUEUE_VISITS_MAX);
        let receiver = Arc::new(ArcSwapOption::empty());
        let ends = CancellationToken::new();
        let (to, end) = (receiver.clone(), ends.clone());
        let sending = Sending { receiver: to, exported, dropped: dropped.clone(), failing: false, ends: end };
        let task = tokio::spawn(sending.run(queue));
        Self { sender: Mutex::new(Some(sender)), ends, task: Mutex::new(Some(task)), receiver, dropped }
    }

    /// Sends as `settings` say from here on.
    ///
    /// # Errors
    /// What is wrong with them; then nothing changes.
    pub fn turn_to(&self, settings: Option<&OtlpSettings>) -> Result<(), Problem> {
        self.receiver.store(settings.map(Receiver::of).transpose()?.map(Arc::new));
        Ok(())
    }

    /// Sends what waits, for a while; what comes later is dropped.
    pub async fn close(&self) {
        // In this order: who sends what waits knows then that it is the end.
        self.ends.cancel();
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(FLUSH_MAX, &mut task).await.is_err()
        {
            task.abort();
            tracing::warn!("the gate ends before all spans were sent");
        }
    }
}

impl Spans for Exporter {
    fn take(&self, trace: &Trace, record: &Record) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let taken = sender.as_ref().map(Sender::try_reserve);
        match taken {
            Some(Ok(place)) => place.send(spans::of(trace, record)),
            Some(Err(TrySendError::Full(()) | TrySendError::Closed(()))) | None => {
                self.dropped.inc_by(count(spans::number_of(trace)));
            }
        }
    }
}

fn count(spans: usize) -> u64 {
    u64::try_from(spans).unwrap_or(u64::MAX)
}

/// What the task knows.
struct Sending {
    receiver: Arc<ArcSwapOption<Receiver>>,
    exported: IntCounter,
    dropped: IntCounter,
    failing: bool,
    ends: CancellationToken,
}

impl Sending {
    async fn run(mut self, mut queue: Queue<Vec<Span>>) {
        while let Some(first) = queue.recv().await {
            let (mut spans, mut visits) = (first, 1_usize);
            let mut over = pin!(sleep(LINGER));
            while visits < BATCH_VISITS_MAX {
                let more = tokio::select! { biased; more = queue.recv() => more, () = &mut over => None };
                let Some(more) = more else { break };
                spans.extend(more);
                visits = visits.saturating_add(1);
            }
            self.send(spans).await;
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let total = count(spans.len());
        let mut trying = Trying::begin();
        let mut outcome = self.attempt(&spans).await;
        // At the end nothing is waited for.
        while let Err(failed) = &outcome
            && !self.ends.is_cancelled()
            && let Some(pause) = trying.pause(failed)
        {
            self.note(Some(failed));
            let _ = timeout(pause, self.ends.cancelled()).await;
            outcome = self.attempt(&spans).await;
        }
        self.note(outcome.as_ref().err());
        let pause = outcome.as_ref().err().map(left_alone).unwrap_or_default();
        let lost = outcome.unwrap_or(total).min(total);
        self.exported.inc_by(total.saturating_sub(lost));
        self.dropped.inc_by(lost);
        let _ = timeout(pause, self.ends.cancelled()).await;
    }

    /// Tells once when it begins to fail, and when that is over.
    fn note(&mut self, failed: Option<&Failed>) {
        match (failed, self.failing) {
            (Some(error), false) => tracing::warn!(%error, "spans cannot be sent"),
            (None, true) => tracing::info!("spans are sent again"),
            _ => {}
        }
        self.failing = failed.is_some();
    }

    /// Tells how many were not taken.
    async fn attempt(&self, spans: &[Span]) -> Result<u64, Failed> {
        // Nobody is to have them any more.
        let Some(receiver) = self.receiver.load_full() else { return Ok(count(spans.len())) };
        let scope_spans =
            vec![ScopeSpans { scope: Some(scope()), spans: spans.to_vec(), schema_url: CONVENTIONS.to_owned() }];
        let resource_spans =
            vec![ResourceSpans { resource: Some(resource(&receiver)), scope_spans, ..ResourceSpans::default() }];
        receiver.send(ExportTraceServiceRequest { resource_spans }).await
    }
}
