//! Keeps a running gate up with its files. A version of them is compiled aside; only one without a problem is put in force,
//! whole, and until then the one before stays. See docs/decisions/0005.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_blocking},
    time::{Instant, sleep},
};

use crate::{
    base::{
        clock::Clock,
        problem::{Problem, Problems},
        sights::Sights,
    },
    config::{self, Compiled},
};

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looking takes no more than this part of one core: with more files it is done less often.
const LOOKING_SHARE: u32 = 50;

/// Files that change are left alone for as long as this, since a change is seldom of one file.
const SETTLE: Duration = Duration::from_millis(200);

/// How often files that go on changing are read again before that is said.
const UNSETTLED_MAX: usize = 5;

/// After a version that could not be read, the next is read after this.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What puts a compiled configuration in force.
pub trait Install: Send + Sync + 'static {
    /// Puts it in force, whole, or gives back why not; then nothing has changed.
    ///
    /// # Errors
    /// What in it cannot be put in force while the gate runs.
    fn install(&self, compiled: Compiled) -> impl Future<Output = Result<(), Problems>> + Send;
}

/// How reloads went.
#[derive(Debug, Default)]
pub struct Reloads {
    good: AtomicU64,
    refused: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revision: String,
    failing: Option<Failing>,
}

/// A version that was refused, while the one before stays in force.
#[derive(Clone, Debug)]
pub struct Failing {
    /// When it was refused (RFC 3339).
    pub since: String,
    /// What is wrong with it, each with its place.
    pub problems: Vec<String>,
}

impl Reloads {
    /// Notes that what was read as `revision` is in force.
    pub fn begin(&self, revision: String) {
        *self.state() = State { revision, failing: None };
    }

    /// Reloads that put a version in force.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// Reloads that refused a version.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What is in force: 12 hexadecimal digits of the SHA-256 of all files; empty where there are none.
    pub fn revision(&self) -> String {
        self.state().revision.clone()
    }

    /// The newer version that was refused, if the one in force is not the newest.
    pub fn failing(&self) -> Option<Failing> {
        self.state().failing.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_good(&self, revision: String) {
        self.good.fetch_add(1, Ordering::Relaxed);
        *self.state() = State { revision, failing: None };
    }

    fn note_refused(&self, since: String, problems: &Problems) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let problems = problems.0.iter().map(|problem| match problem.position() {
            Some((file, line, column)) => format!("{file}:{line}:{column}: {}", problem.message()),
            None => problem.message().to_owned(),
        });
        self.state().failing = Some(Failing { since, problems: problems.collect() });
    }
}

/// Looks after the files; dropping it ends that.
#[derive(Debug)]
pub struct Reloader {
    asked: Arc<Notify>,
    task: AbortHandle,
}

impl Reloader {
    /// Keeps `installed`, which was made of what `sights` saw, up with the configuration at `path`.
    pub fn start(
        path: PathBuf,
        sights: Arc<Sights>,
        installed: Arc<impl Install>,
        reloads: Arc<Reloads>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let asked = Arc::new(Notify::new());
        let keeper = Keeper { path, installed, reloads, clock, asked: asked.clone() };
        Self { task: tokio::spawn(keeper.keep(sights)).abort_handle(), asked }
    }

    /// Reloads now, whether anything has changed or not.
    pub fn reload(&self) {
        self.asked.notify_one();
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One version of the files.
struct Version {
    compiled: Result<Compiled, Problems>,
    /// What it was made of.
    sights: Arc<Sights>,
}

struct Keeper<I> {
    path: PathBuf,
    installed: Arc<I>,
    reloads: Arc<Reloads>,
    clock: Arc<dyn Clock>,
    asked: Arc<Notify>,
}

impl<I: Install> Keeper<I> {
    async fn keep(self, mut sights: Arc<Sights>) {
        let (mut pause, mut again) = (LOOK_EVERY, false);
        loop {
            let asked = tokio::select! { () = self.asked.notified() => true, () = sleep(pause) => false };
            let began = Instant::now();
            let stale = is_stale(&sights).await;
            pause = began.elapsed().saturating_mul(LOOKING_SHARE).max(LOOK_EVERY);
            if stale || asked || again {
                again = match self.read().await {
                    Ok(version) => {
                        let read = version.sights.clone();
                        self.take(version, asked).await;
                        sights = read;
                        false
                    }
                    Err(problem) => {
                        self.refuse(&problem.into());
                        pause = pause.max(RETRY_AFTER);
                        true
                    }
                };
            }
        }
    }

    /// Reads a version that does not change while it is read.
    ///
    /// # Errors
    /// Where it does, again and again: half of a change may read well and say something else.
    async fn read(&self) -> Result<Version, Problem> {
        for _ in 0..UNSETTLED_MAX {
            let version = self.read_once().await?;
            sleep(SETTLE).await;
            if !is_stale(&version.sights).await {
                return Ok(version);
            }
        }
        Err(Problem::new("the files go on changing while they are read").fix("write elsewhere, then rename"))
    }

    async fn read_once(&self) -> Result<Version, Problem> {
        let path = self.path.clone();
        let read = spawn_blocking(move || read(&path)).await;
        read.map_err(|error| Problem::new(format!("the configuration could not be read: {error}")))
    }

    fn refuse(&self, problems: &Problems) {
        let count = problems.0.len();
        tracing::error!(problems = count, "the configuration is refused; the one in force stays\n{problems}");
        self.reloads.note_refused(self.clock.now().rfc3339(), problems);
    }

    async fn take(&self, version: Version, asked: bool) {
        let revision = version.sights.revision();
        if !asked && version.compiled.is_ok() && revision == self.reloads.revision() {
            // What was changed was changed back.
            self.reloads.state().failing = None;
            return;
        }
        let mut in_force = String::new();
        let outcome = match version.compiled {
            Ok(compiled) => {
                compiled.tell();
                in_force = compiled.blueprint.revisions.to_string();
                self.installed.install(compiled).await
            }
            Err(problems) => Err(problems),
        };
        match outcome {
            Ok(()) => {
                tracing::info!(revision, in_force, "the configuration was reloaded");
                self.reloads.note_good(revision);
            }
            Err(problems) => self.refuse(&problems),
        }
    }
}

async fn is_stale(sights: &Arc<Sights>) -> bool {
    let look = sights.clone();
    spawn_blocking(move || look.are_stale()).await.unwrap_or(true)
}

fn read(path: &Path) -> Version {
    let sights = Arc::new(Sights::default());
    let compiled = config::load_noting(path, &sights).and_then(|loaded| loaded.compile());
    Version { compiled, sights }
}
