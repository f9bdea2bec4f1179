//! Databases: PostgreSQL and SQLite, read only. A connection is made when it is first needed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{Stream, TryStreamExt};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Executor, Row as _, TypeInfo, ValueRef,
    postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow},
    sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow},
};

use crate::base::rows::{Database, DatabaseAddress, Databases, Query, QueryError, Row};

/// How long a connection is used: a file that was replaced is read, and a name looked up again, after this.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// Connects to databases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sql;

impl Databases for Sql {
    fn open(&self, query: &Query) -> Arc<dyn Database> {
        let statement = Arc::from(query.statement.as_str());
        match &query.address {
            DatabaseAddress::Postgres(url) => match url.expose().parse::<PgConnectOptions>() {
                Ok(options) => Arc::new(Postgres { pool: postgres(options, query), statement }),
                Err(error) => Arc::new(Broken(format!("the URL of the database: {error}"))),
            },
            DatabaseAddress::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(query.timeout);
                let pool = SqlitePoolOptions::new()
                    .max_connections(query.connections_max)
                    .acquire_timeout(query.timeout)
                    .max_lifetime(CONNECTION_LIFETIME)
                    .connect_lazy_with(options.disable_statement_logging());
                Arc::new(Sqlite { pool, statement })
            }
        }
    }
}

fn postgres(options: PgConnectOptions, query: &Query) -> PgPool {
    let (patience, within) = (query.timeout, query.timeout.as_millis());
    let session = format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SET statement_timeout = {within}; \
         SET lock_timeout = {within}"
    );
    let session: Arc<str> = session.into();
    PgPoolOptions::new()
        .max_connections(query.connections_max)
        .acquire_timeout(query.timeout)
        .max_lifetime(CONNECTION_LIFETIME)
        .after_connect(move |connection, _| {
            let session = session.clone();
            Box::pin(async move { connection.execute(AssertSqlSafe(session)).await.map(drop) })
        })
        // A connection whose answer was not waited for is tried before it is used again, and not for longer than this.
        .after_release(move |connection, _| Box::pin(alive(connection, patience)))
        .connect_lazy_with(options.application_name("portcullis").disable_statement_logging())
}

async fn alive(connection: &mut PgConnection, patience: Duration) -> Result<bool, sqlx::Error> {
    let answered = tokio::time::timeout(patience, connection.ping()).await;
    answered.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))?.map(|()| true)
}

/// A database that cannot be asked at all.
struct Broken(String);

#[async_trait]
impl Database for Broken {
    async fn rows(&self, _: &[&str], _: usize) -> Result<Vec<Row>, QueryError> {
        Err(QueryError::Failed(self.0.clone()))
    }
}

struct Postgres {
    pool: PgPool,
    statement: Arc<str>,
}

#[async_trait]
impl Database for Postgres {
    async fn rows(&self, parameters: &[&str], rows_max: usize) -> Result<Vec<Row>, QueryError> {
        // The statement is the operator's; what comes with a request is a parameter.
        let mut query = sqlx::query(AssertSqlSafe(self.statement.clone()));
        for parameter in parameters {
            query = query.bind(*parameter);
        }
        collect(query.fetch(&self.pool), rows_max, postgres_value).await
    }
}

struct Sqlite {
    pool: SqlitePool,
    statement: Arc<str>,
}

#[async_trait]
impl Database for Sqlite {
    async fn rows(&self, parameters: &[&str], rows_max: usize) -> Result<Vec<Row>, QueryError> {
        let mut query = sqlx::query(AssertSqlSafe(self.statement.clone()));
        for parameter in parameters {
            query = query.bind(*parameter);
        }
        collect(query.fetch(&self.pool), rows_max, sqlite_value).await
    }
}

/// The rows of an answer, and no more than one above what is allowed.
async fn collect<R: sqlx::Row>(
    mut found: impl Stream<Item = Result<R, sqlx::Error>> + Send + Unpin,
    rows_max: usize,
    value: fn(&R, usize) -> Result<Value, String>,
) -> Result<Vec<Row>, QueryError> {
    let mut rows = Vec::new();
    while let Some(row) = found.try_next().await.map_err(|error| failure(&error))? {
        rows.push(read(&row, value)?);
        if rows.len() > rows_max {
            break;
        }
    }
    Ok(rows)
}

/// What PostgreSQL says of data that cannot be worked with (class 22, data exception): of a parameter that is no value of its
/// type, but also of what stands in a row, so it says nothing of what there is.
const DATA_EXCEPTION: &str = "22";

fn failure(error: &sqlx::Error) -> QueryError {
    match error {
        sqlx::Error::Database(said)
            if said.code().is_some_and(|code| code.len() == 5 && code.starts_with(DATA_EXCEPTION)) =>
        {
            QueryError::Data(said.message().to_owned())
        }
        _ => QueryError::Failed(error.to_string()),
    }
}

fn read<R: sqlx::Row>(row: &R, value: fn(&R, usize) -> Result<Value, String>) -> Result<Row, QueryError> {
    let mut values = Row::new();
    for column in row.columns() {
        let name = column.name();
        // In SQLite the type is the value's, and what cannot be decoded is one row's anywhere.
        let value = value(row, column.ordinal())
            .map_err(|kind| QueryError::Data(format!("column `{name}` is {kind}: cast it to text in the statement")))?;
        if values.insert(name.to_owned(), value).is_some() {
            return Err(QueryError::Failed(format!("two columns are called `{name}`")));
        }
    }
    Ok(values)
}

fn postgres_value(row: &PgRow, index: usize) -> Result<Value, String> {
    let kind = row.column(index).type_info().name().to_owned();
    let value = match kind.as_str() {
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" => row.try_get::<Option<String>, _>(index).map(Value::from),
        "BOOL" => row.try_get::<Option<bool>, _>(index).map(Value::from),
        "INT2" => row.try_get::<Option<i16>, _>(index).map(Value::from),
        "INT4" => row.try_get::<Option<i32>, _>(index).map(Value::from),
        "INT8" => row.try_get::<Option<i64>, _>(index).map(Value::from),
        "JSON" | "JSONB" => row.try_get::<Option<Value>, _>(index).map(Option::unwrap_or_default),
        "TEXT[]" | "VARCHAR[]" | "NAME[]" => row.try_get::<Option<Vec<Option<String>>>, _>(index).map(Value::from),
        "INT8[]" => row.try_get::<Option<Vec<Option<i64>>>, _>(index).map(Value::from),
        "INT4[]" => row.try_get::<Option<Vec<Option<i32>>>, _>(index).map(Value::from),
        _ => return Err(format!("of type {kind}")),
    };
    value.map_err(|error| error.to_string())
}

fn sqlite_value(row: &SqliteRow, index: usize) -> Result<Value, String> {
    let raw = row.try_get_raw(index).map_err(|error| error.to_string())?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let kind = raw.type_info().name().to_owned();
    let value = match kind.as_str() {
        "TEXT" => row.try_get::<String, _>(index).map(Value::from),
        "INTEGER" => row.try_get::<i64, _>(index).map(Value::from),
        "BOOLEAN" => row.try_get::<bool, _>(index).map(Value::from),
        _ => return Err(format!("of type {kind}")),
    };
    value.map_err(|error| error.to_string())
}
