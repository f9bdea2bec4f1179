//! What clients are told beside the answer itself.

use super::Visit;
use crate::{
    refusal::{Offered, Refusal},
    request::cors::CorsFields,
    token::bearer::Scheme,
};

impl Visit {
    /// What web pages are told in the answer, where that is for us to say.
    pub const fn cors(&self) -> Option<&CorsFields> {
        self.cors.as_ref()
    }

    /// What `WWW-Authenticate` says of `refusal`, where it is due.
    pub fn challenge(&self, refusal: &Refusal) -> Option<String> {
        let offered = match (self.scheme, self.snapshot.issuers.asks_for_proofs()) {
            (Some(Scheme::Dpop), _) => Offered::Proof,
            (Some(Scheme::Bearer), _) | (None, false) => Offered::Bearer,
            (None, true) => Offered::Both,
        };
        let metadata = self.snapshot.metadata_url.as_deref();
        refusal.challenge().map(|challenge| challenge.to_header(offered, metadata))
    }
}
