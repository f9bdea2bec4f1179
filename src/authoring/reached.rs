//! Others who are really asked, and why there is no answer from whom there is none.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::base::{
    fetch::{Ask, Document, Fetch, FetchError},
    outside::Outside,
    rows::{Database, DatabaseAddress, Databases, Query, QueryError, Row},
};

/// Notes why others do not answer.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// Whom they are asked through; none where nobody is to be asked.
    through: Option<Outside>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// Somebody who was asked, and why there is no answer, if there is none.
#[derive(Clone, Debug)]
struct Asked {
    whom: String,
    why: Option<String>,
}

impl Reached {
    /// Asks others through `outside`.
    pub fn through(outside: &Outside) -> Self {
        Self { through: Some(outside.clone()), asked: Arc::default() }
    }

    /// `outside`, where they are asked through this.
    pub fn within(&self, outside: Outside) -> Outside {
        Outside { fetch: Arc::new(self.clone()), databases: Arc::new(self.clone()), ..outside }
    }

    /// Who gave no answer, and why, each once.
    pub fn failures(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut failures = Vec::new();
        for Asked { whom, why } in asked {
            let failure = why.map(|why| match self.through {
                Some(_) => format!("asked {whom}: {why}"),
                None => format!("`--offline`: not asked: {whom}"),
            });
            failures.extend(failure.filter(|failure| !failures.contains(failure)));
        }
        failures
    }

    /// Whoever waits may give up before there is an answer, and then nobody says more.
    fn begin(&self, whom: String) -> usize {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(Asked { whom, why: Some("no answer in time".into()) });
        asked.len().saturating_sub(1)
    }

    fn end<T, E: Display>(&self, at: usize, answer: &Result<T, E>) {
        let why = answer.as_ref().err().map(ToString::to_string);
        if let Some(one) = self.asked.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            one.why = why;
        }
    }
}

#[async_trait]
impl Fetch for Reached {
    async fn fetch(&self, ask: Ask<'_>) -> Result<Document, FetchError> {
        let at = self.begin(format!("`{}`", ask.url));
        let answer = match &self.through {
            Some(outside) => outside.fetch.fetch(ask).await,
            None => Err(FetchError::Unreachable("not asked".into())),
        };
        self.end(at, &answer);
        answer
    }
}

/// A statement, where it is put, and to whom.
struct Table {
    reached: Reached,
    real: Option<Arc<dyn Database>>,
    whom: String,
}

#[async_trait]
impl Database for Table {
    async fn rows(&self, parameters: &[&str], rows_max: usize) -> Result<Vec<Row>, QueryError> {
        let at = self.reached.begin(format!("{} with the parameters {parameters:?}", self.whom));
        let answer = match &self.real {
            Some(real) => real.rows(parameters, rows_max).await,
            None => Err(QueryError::Failed("not asked".into())),
        };
        self.reached.end(at, &answer);
        answer
    }
}

impl Databases for Reached {
    fn open(&self, query: &Query) -> Arc<dyn Database> {
        // What it takes to connect to a server is nobody's to see.
        let whom = match &query.address {
            DatabaseAddress::Postgres(_) => "the PostgreSQL database".to_owned(),
            DatabaseAddress::Sqlite(path) => format!("`{}`", path.display()),
        };
        let real = self.through.as_ref().map(|outside| outside.databases.open(query));
        Arc::new(Table { reached: self.clone(), real, whom })
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use url::Url;

    use super::*;
    use crate::base::{clock::SystemClock, files::Files};

    struct Elsewhere;

    #[async_trait]
    impl Fetch for Elsewhere {
        async fn fetch(&self, ask: Ask<'_>) -> Result<Document, FetchError> {
            match ask.url.path() {
                "/good" => Ok(Document::default()),
                "/slow" => std::future::pending().await,
                _ => Err(FetchError::Status(500)),
            }
        }
    }

    async fn ask(reached: &Reached, path: &str) {
        let url = Url::parse(&format!("https://a.example{path}")).unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(20), reached.fetch(Ask::get(&url))).await;
    }

    async fn query(reached: &Reached) {
        let query = Query {
            address: DatabaseAddress::Sqlite(PathBuf::from("a.db")),
            statement: "SELECT 1".into(),
            connections_max: 1,
            timeout: Duration::from_secs(1),
        };
        assert!(reached.open(&query).rows(&["x"], 1).await.is_err());
    }

    #[tokio::test]
    async fn who_gives_no_answer_is_named_with_the_reason() {
        let outside = Outside::without_databases(Arc::new(SystemClock), Arc::new(Elsewhere), Files::memory([]));
        let reached = Reached::through(&outside);
        for path in ["/good", "/bad", "/slow", "/bad"] {
            ask(&reached, path).await;
        }
        query(&reached).await;
        assert_eq!(
            reached.failures(),
            [
                "asked `https://a.example/bad`: status 500 instead of 200",
                "asked `https://a.example/slow`: no answer in time",
                "asked `a.db` with the parameters [\"x\"]: no database can be asked here"
            ]
        );
    }

    #[tokio::test]
    async fn who_must_not_be_asked_is_named_too() {
        let reached = Reached::default();
        ask(&reached, "/good").await;
        query(&reached).await;
        assert_eq!(
            reached.failures(),
            [
                "`--offline`: not asked: `https://a.example/good`",
                "`--offline`: not asked: `a.db` with the parameters [\"x\"]"
            ]
        );
    }
}
