//! Where an attribute that a policy could see came from, as records tell it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

/// Where one attribute came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Origin {
    /// Whose it is: `agent`, `user` or `resource`; `input` for a member of `context.input`; `consent` for a consent, whose name is its purpose.
    pub of: &'static str,
    /// The attribute; `in Type` for parents.
    pub name: Arc<str>,
    /// `token`, `clients`, `path`, `query`, `header`, `request`, `config` (several with `+`), `file`, or the source that was
    /// asked: `http host:port`, `postgres host/database`, `sqlite path`.
    pub source: Arc<str>,
    /// Since when the source was asked, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}
