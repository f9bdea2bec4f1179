//! ROOM 4: the PDP. Pure: no clock, no I/O, no await; deciding cannot fail. Knows nothing of tokens or HTTP.

mod anatomy;
mod checked;
mod decide;
mod explain;
mod index;
mod likeness;
mod links;
mod load;
pub mod needs;
mod nesting;
mod note;
pub mod reads;
pub mod shadow;
pub mod stores;
pub mod varying;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

pub use cedar_policy::Effect;
use cedar_policy::{Authorizer, PolicyId};

use self::index::Index;
use self::stores::OnError;
pub use self::{
    anatomy::{Anatomy, Finding, Shape, Truth, shown},
    decide::{Allowed, Decision, Denied, DenyReason},
    explain::{Consulted, Dissected, Examined, Explanation, Gap, Miss},
};
pub use self::{
    load::{Ids, Loaded, Oddness, PolicyFiles, Warning},
    note::PolicyNote,
};

/// A validated set of policies. An empty one denies everything.
pub struct Policies {
    index: Index,
    known: HashMap<PolicyId, Known>,
    authorizer: Authorizer,
    on_error: OnError,
    revision: Arc<str>,
}

/// What is kept of a policy beside what decides.
#[derive(Debug)]
struct Known {
    note: Arc<PolicyNote>,
    /// The policy taken apart, once somebody asks why; none where it cannot be.
    anatomy: OnceLock<Option<Arc<Anatomy>>>,
}

impl From<PolicyNote> for Known {
    fn from(note: PolicyNote) -> Self {
        Self { note: Arc::new(note), anatomy: OnceLock::new() }
    }
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policies").field("count", &self.known.len()).finish_non_exhaustive()
    }
}

impl Policies {
    /// Names the version of the files that they stand in (see [`crate::base::revision`]): policies and links.
    pub const fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// What the author of each says of it.
    pub fn notes(&self) -> impl Iterator<Item = &PolicyNote> {
        self.known.values().map(|known| &*known.note)
    }

    /// Whether there are none, so that nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
