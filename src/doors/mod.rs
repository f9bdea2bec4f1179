//! The doors (PEPs): each translates a protocol into the house's own words. A door sees obligations or a refusal,
//! never a token, a policy or a snapshot.

mod answer;
mod attempts;
pub mod caller;
mod dial;
mod failure;
mod incoming;
pub mod pace;
mod probe;
pub mod proxy;
pub mod trust;
mod tunnel;
pub mod upkeep;
mod whole;
