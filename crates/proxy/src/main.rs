//! The binary `portcullis`.

use std::process::ExitCode;

/// A proxy allocates and frees small pieces all the time; this allocator makes that measurably cheaper than the system's
/// (docs/adr/0005-allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
