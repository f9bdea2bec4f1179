//! Portcullis: an authorizing reverse proxy that lets AI agents in, on behalf of users, only as far as Cedar policies
//! allow.
//!
//! A walk through the house, in the order a request takes:
//!
//! 1. [`doors`] (PEPs) translate a protocol into the house's own words.
//! 2. [`pipeline`] is the corridor: the one walk through the rooms, in a fixed order.
//! 3. [`request`]: what arrived, in one reading, trusted by nobody.
//! 4. [`token`]: from a string to a verified token.
//! 5. [`limit`]: how often somebody may ask. [`entities`]: from a token and a request to a question for Cedar.
//! 6. [`policy`] (the PDP) answers it. Pure.
//! 7. [`forward`]: what the upstream gets to see. [`pages`]: what the gate tells of itself.
//! 8. [`refusal`]: every way to say no; [`audit`] and [`metrics`]: what is remembered of it; [`shadow`]: what other
//!    policies would have said; [`trace`]: what tracing systems are told.
//!
//! [`config`] compiles `config.yaml` to a [`snapshot`]; [`app`] puts it to work, [`reload`] keeps it up with its files; [`server`] owns the sockets;
//! [`base`] holds the words that the rooms share. Without the feature `doors` the crate is the decision core alone.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(feature = "doors")]
pub mod app;
pub mod audit;
pub mod authoring;
pub mod base;
#[cfg(feature = "doors")]
pub mod cli;
pub mod config;
#[cfg(feature = "doors")]
pub mod demo;
#[cfg(feature = "doors")]
pub mod doors;
pub mod entities;
pub mod forward;
pub mod limit;
#[cfg(feature = "doors")]
pub mod logs;
pub mod memo;
pub mod metrics;
pub mod pages;
pub mod pipeline;
pub mod policy;
pub mod refusal;
#[cfg(feature = "doors")]
pub mod reload;
pub mod request;
#[cfg(feature = "doors")]
pub mod server;
pub mod shadow;
pub mod snapshot;
pub mod token;
pub mod trace;
