//! Refusals of what is never read, answered without a door.

use super::Refusal;

/// A refusal of what was never read, already recorded.
#[derive(Debug)]
pub struct Refused {
    refusal: Refusal,
    decision_id: String,
}

impl Refused {
    /// Of the decision that is named so.
    pub const fn new(refusal: Refusal, decision_id: String) -> Self {
        Self { refusal, decision_id }
    }

    /// The whole answer in HTTP/1.1, closing the connection.
    pub fn http1(&self) -> String {
        let (status, body) = (self.refusal.status(), self.refusal.problem(&self.decision_id).to_json());
        let retry = self.refusal.retry_after_s().map_or_else(String::new, |after| format!("retry-after: {after}\r\n"));
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n{retry}\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}
