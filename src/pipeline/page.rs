//! Pages of the gate's own: who asks for one is nobody in particular, so that it is told to whoever asks not too often.

use std::net::IpAddr;

use super::{Admission, Visit, preflight};
use crate::{
    limit::Asker,
    pages::Wanted,
    refusal::Refusal,
    request::{Inbound, cors::Preflight},
};

impl Visit {
    /// Answers a request for a page, or a browser's question about one.
    pub(super) async fn page(
        &mut self,
        wanted: Wanted,
        inbound: &Inbound<'_>,
        peer: Option<IpAddr>,
    ) -> Result<Admission, Refusal> {
        match (wanted, Preflight::of(inbound.method(), inbound.headers())) {
            (Wanted::Preflight(granted), Some(preflight)) => {
                self.preflight(&preflight, preflight::Outcome { route: None, granted }, peer).await
            }
            (Wanted::Preflight(_), None) => Err(Refusal::Internal),
            (Wanted::Page(page), _) => {
                self.snapshot.rates.admit_peer(&Asker { peer, ..Asker::default() }).await?;
                Ok(Admission::Page(page))
            }
        }
    }
}
