//! What a client is told of a refusal: a problem document (RFC 9457).

use serde::Serialize;

use super::Refusal;

/// The document. A member that nothing is said of is left out.
#[derive(Clone, Debug, Serialize)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    decision_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_up: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consent_uri: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest_miss: Option<&'a str>,
}

impl Problem<'_> {
    /// In JSON.
    pub fn to_json(&self) -> String {
        // INVARIANT: text and numbers alone, which JSON can always say.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Refusal {
    /// What the client is told, who is given the decision's id to ask by.
    pub fn problem<'a>(&'a self, decision_id: &'a str) -> Problem<'a> {
        let (status, author) = (self.status(), self.author());
        Problem {
            kind: format!("urn:portcullis:refusal:{}", self.public_code()),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            decision_id,
            detail: author.and_then(|note| note.reason.as_deref()),
            advice: author.and_then(|note| note.advice.as_deref()),
            required_scope: author.and_then(|note| note.required_scope.as_deref()),
            step_up: author.and_then(|note| note.step_up.as_deref()),
            consent_uri: self.consent_uri(),
            nearest_miss: self.nearest_miss(),
        }
    }
}
