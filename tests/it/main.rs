//! The one integration binary: everything that needs the whole gate.

mod cases;
mod cli;
mod config;
mod corpora;
mod docs;
mod house;
mod keys;
mod peers;
mod wire;
