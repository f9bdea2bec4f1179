//! What lies outside the house, as one argument: time, other servers, databases, files.

use std::sync::Arc;

use super::{
    clock::Clock,
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
    /// Reads files.
    pub files: Files,
}

impl Outside {
    /// The outside where no database is.
    pub fn without_databases(clock: Arc<dyn Clock>, fetch: Arc<dyn Fetch>, files: Files) -> Self {
        Self { clock, fetch, databases: Arc::new(NoDatabases), files }
    }
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").field("files", &self.files).finish_non_exhaustive()
    }
}
