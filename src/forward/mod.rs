//! ROOM 5: what the upstream gets to see: where requests go, and which header fields are removed and set.

pub mod identity;
pub mod upstream;

pub use self::{
    identity::{Identity, IdentityConfig, Obligations},
    upstream::{Upstream, UpstreamConfig, Upstreams},
};
