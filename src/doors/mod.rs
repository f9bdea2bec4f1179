//! The doors (PEPs): each translates a protocol into the house's own words. A door sees obligations or a refusal,
//! never a token, a policy or a snapshot.

pub mod pace;
pub mod proxy;
pub mod resolve;
