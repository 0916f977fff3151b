//! `portcullis run`: load, check, serve.

use super::ConfigArgs;
use crate::{server, telemetry::logging};
use std::process::ExitCode;

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let (loaded, name) = args.load();
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            args.print(&errors);
            eprintln!("portcullis: {name} is not usable, nothing was started");
            return ExitCode::FAILURE;
        }
    };
    if !loaded.warnings.is_empty() {
        args.print(&loaded.warnings);
    }
    let wanted = ["PORTCULLIS_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    logging::start(loaded.config.observability.log, wanted.as_deref());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = name,
        "starting"
    );
    match server::serve(&loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}
