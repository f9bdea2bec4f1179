//! The one integration binary: everything that needs the whole gate.

#![expect(clippy::print_stdout, reason = "what was run and what was skipped is said aloud")]

mod admin;
mod agreement;
mod assertion;
mod authoring;
mod bodies;
mod cases;
mod checks;
mod cli;
mod config;
mod corpora;
mod cors;
mod deny_list;
mod deploy;
mod desync;
mod docs;
mod frames;
mod h2;
mod handover;
mod house;
mod introspection;
mod keys;
mod listeners;
mod logs;
mod pages;
mod peers;
mod pools;
mod proof;
mod proxied;
mod rates;
mod readers;
mod records;
mod reload;
mod replay;
mod scenarios;
mod schema;
mod shadow;
mod snippet;
mod sources;
mod tls;
mod traces;
mod unseen;
mod upgrade;
mod upstream;
mod wire;
