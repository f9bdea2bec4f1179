//! ROOM 5: what the upstream gets to see: where requests go, and which header fields are removed and set.

pub mod address;
pub mod assertion;
pub mod balance;
pub mod identity;
pub mod pool;
pub mod server;
pub mod upstream;
pub mod watch;

pub use self::{
    identity::{Identity, IdentityConfig, Obligations},
    pool::{Pool, Pools},
    upstream::{Upstream, UpstreamConfig, Upstreams},
};
