//! ROOM 4: the PDP. Pure: no clock, no I/O, no await; deciding cannot fail. Knows nothing of tokens or HTTP.

mod decide;
mod index;
mod links;
mod load;
mod nesting;
mod note;
pub mod stores;

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{Authorizer, PolicyId};

pub use self::decide::{Allowed, Decision, Denied, DenyReason};
use self::index::Index;
use self::stores::OnError;
pub use self::{
    load::{Ids, Loaded, PolicyFiles},
    note::PolicyNote,
};

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
