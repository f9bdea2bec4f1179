//! What lies outside the house, as one argument: time, other servers, databases, files.

use std::sync::Arc;

use super::{
    clock::Clock,
    counters::{Open, Uncounted},
    fetch::Fetch,
    files::Files,
    rows::{Databases, NoDatabases},
};

/// What a configuration at work reads from.
#[derive(Clone)]
pub struct Outside {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Dials out.
    pub fetch: Arc<dyn Fetch>,
    /// Asks databases.
    pub databases: Arc<dyn Databases>,
    /// Counts with other gates.
    pub counters: Arc<dyn Open>,
    /// Reads files.
    pub files: Files,
}

impl Outside {
    /// The outside where no database is, and nothing is counted.
    pub fn without_databases(clock: Arc<dyn Clock>, fetch: Arc<dyn Fetch>, files: Files) -> Self {
        Self { clock, fetch, databases: Arc::new(NoDatabases), counters: Arc::new(Uncounted), files }
    }
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").field("files", &self.files).finish_non_exhaustive()
    }
}
