//! The binary: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// A request makes some hundreds of small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::Cli::parse().run()
}
