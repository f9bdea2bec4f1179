//! `portcullis serve`: the gate, until it is told to stop or another one takes over.

use std::{fs::File, os::fd::AsFd as _, path::PathBuf, process::ExitCode, sync::Arc};

use futures_util::{FutureExt, future::OptionFuture};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

use super::{bad_config, fail, on_runtime, with_logs};
use crate::{
    app::{App, StartError},
    audit::{
        Lines,
        file::RecordFile,
        heir::{self, Bequest, Heir, Unclosed},
        lines::Stream,
    },
    base::{clock::SystemClock, sights::Sights},
    config::{self, Loaded, records::RecordSinks},
    metrics::Metrics,
    server::{
        handover::{self, Sockets, TakenOver},
        otlp::OtlpRecords,
        syslog::Syslog,
    },
};

pub(super) fn run(path: PathBuf) -> ExitCode {
    // INVARIANT: what was handed over is taken before there is another thread.
    let sockets = match Sockets::handed() {
        Ok(sockets) => sockets,
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let sights = Arc::default();
    match config::load_noting(&path, &sights) {
        Ok(loaded) => with_logs(&loaded.config.log.clone(), || on_runtime(serve(path, &loaded, sights, sockets))),
        Err(problems) => bad_config(&path, &problems),
    }
}

async fn serve(path: PathBuf, loaded: &Loaded, sights: Arc<Sights>, mut sockets: Sockets) -> ExitCode {
    let metrics = match Metrics::new() {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let sinks = match loaded.records() {
        Ok(sinks) => sinks,
        Err(problems) => return bad_config(&path, &problems),
    };
    let has_predecessor = sockets.has_predecessor();
    let (lines, file, unclosed) = match records(sinks, &metrics, has_predecessor) {
        Ok(Written { all, file, unclosed }) => (Arc::new(all), file, unclosed),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    if file.is_some() {
        sockets.take_records();
    }
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined2()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup), Ok(mut anew)] = kinds.map(signal) else {
        return fail("portcullis: no signals\n");
    };
    let mut app = match App::start_on(sockets, loaded, Arc::new(SystemClock), lines.clone(), metrics).await {
        Ok(app) => app,
        Err(StartError::Config(problems)) => return bad_config(&path, &problems),
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let listen: Vec<_> = app.addresses().iter().map(ToString::to_string).collect();
    tracing::info!(listen = listen.join(", "), admin = %app.admin_address(), in_force = %app.revisions(), "the gate stands");
    app.follow(path, sights);
    let bequest = file.clone().zip(app.bequest()).map(|(file, line)| Bequest::read(line, file, unclosed));
    let bequest = match bequest.transpose() {
        Ok(bequest) => bequest,
        Err(error) => return fail(&format!("portcullis: {error}\n")),
    };
    let mut passing = None;
    let is_patient = loop {
        tokio::select! {
            _ = terminate.recv() => break true,
            // Somebody at a terminal, for whom no load balancer looks.
            _ = interrupt.recv() => break false,
            _ = hangup.recv() => app.reload(),
            _ = anew.recv(), if passing.is_none() => passing = Some(app.pass_on().boxed()),
            Some(passed) = OptionFuture::from(passing.as_mut()) => match passed {
                Ok(TakenOver { process, records }) => {
                    tracing::info!(process, "another gate has taken over; draining");
                    // One gate alone writes to a file: what is still to be recorded here goes there by the other one.
                    if let Some((file, line)) = file.zip(records) {
                        let _ = spawn_blocking(move || file.turn_to(|| heir::bequeath(line))).await;
                    }
                    app.hand_over().await;
                    close(bequest, lines).await;
                    return ExitCode::SUCCESS;
                }
                Err(error) => {
                    tracing::error!(%error, "no other gate has taken over; this one goes on");
                    passing = None;
                }
            },
        }
    };
    drop(passing);
    handover::tell(&[NotifyState::Stopping]);
    tracing::info!("draining");
    if is_patient {
        app.withdraw().await;
    }
    let patience = app.drain().patience;
    app.stop(patience).await;
    close(bequest, lines).await;
    ExitCode::SUCCESS
}

/// Writes what is left of records.
async fn close(bequest: Option<Bequest>, lines: Arc<Vec<Arc<Lines>>>) {
    let close = move || {
        if let Some(bequest) = bequest {
            bequest.close();
        }
        lines.iter().for_each(|lines| lines.close());
    };
    let _ = spawn_blocking(close).await;
}

/// What records are written to.
struct Written {
    all: Vec<Arc<Lines>>,
    /// That of these which is the file.
    file: Option<Arc<Lines>>,
    /// While the gate before has that.
    unclosed: Option<Unclosed>,
}

/// Opens what records are written to. The file of one that `has_predecessor` is open once that has closed it.
fn records(sinks: RecordSinks, metrics: &Metrics, has_predecessor: bool) -> std::io::Result<Written> {
    let (mut all, mut filed, mut unclosed) = (Vec::new(), None, None);
    if sinks.stdout {
        // Not by way of `Stdout`, which may keep what it said was written.
        let out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        all.push(Arc::new(Lines::new(Stream::to_open(out), metrics.records("stdout"))?));
    }
    if let Some(settings) = sinks.file {
        let path = settings.path.display().to_string();
        let counts = metrics.records("file");
        let lines = match has_predecessor {
            true => Heir::of(settings).and_then(|(heir, held)| {
                unclosed = Some(held);
                Lines::new(heir, counts)
            }),
            false => RecordFile::open(settings).and_then(|file| Lines::new(file, counts)),
        };
        let lines =
            lines.map_err(|error| std::io::Error::new(error.kind(), format!("records to `{path}`: {error}")))?;
        all.push(filed.insert(Arc::new(lines)).clone());
    }
    if let Some(settings) = sinks.syslog {
        let (syslog, longest) = Syslog::new(&settings);
        all.push(Arc::new(Lines::new(syslog, metrics.records("syslog"))?.of_at_most(longest)));
    }
    if let Some(settings) = sinks.otlp {
        let receiver = OtlpRecords::of(&settings).map_err(|problem| std::io::Error::other(problem.to_string()))?;
        all.push(Arc::new(Lines::new(receiver, metrics.records("otlp"))?));
    }
    Ok(Written { all, file: filed, unclosed })
}
