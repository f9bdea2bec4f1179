//! The one integration binary: everything that needs the whole gate.

#![expect(clippy::print_stdout, reason = "what was run and what was skipped is said aloud")]

mod cases;
mod cli;
mod config;
mod corpora;
mod deny_list;
mod docs;
mod house;
mod introspection;
mod keys;
mod peers;
mod proof;
mod reload;
mod sources;
mod tls;
mod wire;
