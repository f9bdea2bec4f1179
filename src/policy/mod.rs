//! ROOM 4: the PDP. Pure: no clock, no I/O, no await; deciding cannot fail. Knows nothing of tokens or HTTP.

mod decide;
mod index;
mod links;
mod load;
mod nesting;
pub mod stores;

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{Authorizer, PolicyId};

pub use self::decide::{Allowed, Decision, Denied, DenyReason};
use self::index::Index;
pub use self::load::{Ids, Loaded, PolicyFiles};
use self::stores::OnError;

/// A policy as records and refusals speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyNote {
    /// `@id`.
    pub id: String,
    /// `@reason`: what the author wants a refused client to be told.
    pub reason: Option<String>,
    /// `@advice`: what the author wants a refused client to do.
    pub advice: Option<String>,
}

/// A validated set of policies. An empty one denies everything.
pub struct Policies {
    index: Index,
    notes: HashMap<PolicyId, Arc<PolicyNote>>,
    authorizer: Authorizer,
    on_error: OnError,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policies").field("count", &self.notes.len()).finish_non_exhaustive()
    }
}

impl Policies {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.notes.len()
    }

    /// Whether there are none, so that nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}
