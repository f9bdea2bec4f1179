//! The one seam for databases. Rooms put a statement; who connects is decided at the edge of the house.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::secret::Secret;

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAddress {
    /// A PostgreSQL server, as a URL with all that it takes to connect.
    Postgres(Secret),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// A statement that reads, with parameters of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where.
    pub address: DatabaseAddress,
    /// The statement, with `$1`, `$2` … for its parameters.
    pub statement: String,
    /// Connections that are held at most.
    pub connections_max: u32,
    /// The longest that an answer may take.
    pub timeout: Duration,
}

/// A row: values by the names of their columns.
pub type Row = Map<String, Value>;

/// Why there are no rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The database cannot work with this parameter, or with what it finds by it.
    #[error("{0}")]
    Data(String),
    /// The database cannot be asked, or cannot answer.
    #[error("{0}")]
    Failed(String),
}

/// A statement that can be put.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// The rows for these parameters, but not more than `rows_max` and one.
    async fn rows(&self, parameters: &[&str], rows_max: usize) -> Result<Vec<Row>, QueryError>;
}

/// No database can be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDatabases;

#[async_trait]
impl Database for NoDatabases {
    async fn rows(&self, _: &[&str], _: usize) -> Result<Vec<Row>, QueryError> {
        Err(QueryError::Failed("no database can be asked here".into()))
    }
}

impl Databases for NoDatabases {
    fn open(&self, _: &Query) -> Arc<dyn Database> {
        Arc::new(Self)
    }
}

/// Connects to databases when they are first asked.
pub trait Databases: Send + Sync + 'static {
    /// What puts `query`.
    fn open(&self, query: &Query) -> Arc<dyn Database>;
}
