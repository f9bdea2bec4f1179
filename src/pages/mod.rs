//! What the gate itself tells everybody, at paths of its own: documents about itself, made when the configuration is read.
//! Nothing in them depends on who asks, and nothing of such a request goes on.

pub mod metadata;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, header};

use self::metadata::METADATA;
use crate::{
    base::{
        problem::{Problem, Problems},
        spanned::Spanned,
    },
    request::{
        Inbound,
        cors::{CorsFields, Preflight, PreflightError},
        path::Target,
    },
};

/// A document at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    path: String,
    code: &'static str,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Arc<str>,
}

/// What somebody wants of a page.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The page itself.
    Page(Arc<Page>),
    /// To know whether a web page may read it.
    Preflight(Result<CorsFields, PreflightError>),
}

/// Every page.
#[derive(Clone, Debug, Default)]
pub struct Pages(Vec<Arc<Page>>);

/// What records call answers with pages.
pub const CODES: [&str; 2] = [METADATA, KEYS];

/// What records call an answer with the keys of assertions.
pub const KEYS: &str = "assertion_keys";

/// Seconds for which a page may be kept: whoever has it learns of another as late as that.
const KEPT_S: u32 = 300;

/// Bytes of a page's path.
const PATH_BYTES_MAX: usize = 256;

impl Page {
    /// A document in JSON; records call an answer with it `code`.
    pub fn json(path: String, code: &'static str, document: &serde_json::Value) -> Self {
        let body: Arc<str> = document.to_string().into();
        let fields = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CONTENT_LENGTH, body.len().into()),
            (header::CACHE_CONTROL, HeaderValue::try_from(format!("public, max-age={KEPT_S}")).unwrap_or(NO_CACHE)),
            anybody(),
        ];
        Self { path, code, fields, body }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What records call an answer with it.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The fields of an answer with it.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// What it says.
    pub const fn body(&self) -> &Arc<str> {
        &self.body
    }
}

/// What a page's path may be.
///
/// # Errors
/// A [`Problem`] where no request could ask for it, or it is not one path.
pub fn path(place: &Spanned<String>, path: &str) -> Result<String, Problem> {
    let is_path = Target::parse(path.as_bytes()).is_some_and(|target| target.query().is_none());
    if is_path && path.len() <= PATH_BYTES_MAX && !path.contains(['{', '}', '%']) {
        return Ok(path.to_owned());
    }
    Err(Problem::at(place, format!("`{path}` is not a path that a page can have"))
        .fix("write literal segments of at most 256 bytes, without `%`"))
}

impl Pages {
    /// Puts pages together.
    ///
    /// # Errors
    /// A [`Problem`] where two have one path.
    pub fn new(pages: Vec<Page>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut all: Vec<Arc<Page>> = Vec::new();
        for page in pages {
            if all.iter().any(|other| other.path == page.path) {
                let problem = Problem::new(format!("two pages of the gate's own are at `{}`", page.path));
                problems.push(problem.fix("give each a path of its own"));
            }
            all.push(Arc::new(page));
        }
        problems.into_result(Some(Self(all)))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Page>> {
        self.0.iter()
    }

    /// What a request wants of a page. `None` for one that is like any other: by another method than `GET` and `HEAD`, or
    /// for another target, be it only another spelling of the path, or the path with a query.
    pub fn wanted(&self, inbound: &Inbound<'_>) -> Option<Wanted> {
        // INVARIANT: the target is byte for byte a path of the configuration.
        let page = self.0.iter().find(|page| inbound.target().as_str() == page.path)?;
        if matches!(*inbound.method(), Method::GET | Method::HEAD) {
            return Some(Wanted::Page(page.clone()));
        }
        let preflight = Preflight::of(inbound.method(), inbound.headers())?;
        Some(Wanted::Preflight(grant(&preflight)))
    }
}

const NO_CACHE: HeaderValue = HeaderValue::from_static("no-store");

/// Any web page may read it, as anybody else may: it holds nothing that depends on who asks.
const fn anybody() -> (HeaderName, HeaderValue) {
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))
}

/// What a browser is told before a web page asks for one: some send a field of their own, such as `mcp-protocol-version`.
fn grant(preflight: &Preflight<'_>) -> Result<CorsFields, PreflightError> {
    if !matches!(preflight.method().as_bytes(), b"GET" | b"HEAD") {
        return Err(PreflightError::Method);
    }
    let said = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    let said = said.map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok([anybody()].into_iter().chain(said).collect())
}
