//! `portcullis run`: load, check, serve.

use super::ConfigArgs;
use crate::{
    server::{self, Load, Start},
    telemetry::logging,
};
use portcullis_config::{Config, Diagnostics, LogFormat};
use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

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
    let log = logging::start(loaded.config.observability.log, wanted.as_deref());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = name,
        "starting"
    );
    let start = Start {
        load: load_again(args, &loaded.config),
        config: loaded.config,
        log,
    };
    match server::serve(start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// Reads the same configuration once more and reports what is wrong with it in the form that the log has now.
fn load_again(args: &ConfigArgs, first: &Config) -> Load {
    let args = args.clone();
    let format = Mutex::new(first.observability.log.format);
    Arc::new(move || {
        let (loaded, _) = args.load();
        let mut format = format.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(loaded) => {
                report(&args, &loaded.warnings, *format);
                *format = loaded.config.observability.log.format;
                Some(loaded.config)
            }
            Err(errors) => {
                report(&args, &errors, *format);
                None
            }
        }
    })
}

/// People see the lines of the file; a log that machines read has an event for each diagnostic.
fn report(args: &ConfigArgs, diagnostics: &Diagnostics, format: LogFormat) {
    use portcullis_config::Severity;
    if diagnostics.is_empty() {
        return;
    }
    if format == LogFormat::Text {
        args.print(diagnostics);
        return;
    }
    for diagnostic in diagnostics.iter() {
        let place = diagnostics.place(diagnostic);
        let (code, help) = (diagnostic.code, diagnostic.help.as_deref());
        let message = &diagnostic.message;
        match diagnostic.severity {
            Severity::Error => {
                tracing::error!(%place, %code, help, "configuration: {message}");
            }
            Severity::Warning => {
                tracing::warn!(%place, %code, help, "configuration: {message}");
            }
        }
    }
}
