//! Words the rooms share. Knows nothing of the house: time, outbound fetches, files, strict JSON and
//! configuration problems are here because several rooms take them as arguments.

pub mod address;
pub mod clock;
pub mod counters;
pub mod digest;
pub mod fetch;
pub mod files;
pub mod filled;
pub mod json;
pub mod levels;
pub mod names;
pub mod origin;
pub mod outside;
pub mod problem;
pub mod pseudonym;
pub mod revision;
pub mod rows;
pub mod secret;
pub mod shown;
pub mod sights;
pub mod signing;
pub mod spanned;
mod yaml;
