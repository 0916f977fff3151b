//! `portcullis check`: says whether a configuration is good, and starts nothing.

use super::ConfigArgs;
use crate::{
    server::{
        reverse,
        tls::{self, TlsOfListeners},
    },
    upstream::connect::Connect,
};
use portcullis_config::Config;
use std::{process::ExitCode, time::SystemTime};

pub(super) fn check(args: &ConfigArgs, strict: bool) -> ExitCode {
    let (loaded, name) = args.load();
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            args.print(&errors);
            eprintln!("portcullis: {name}: test failed");
            return ExitCode::FAILURE;
        }
    };
    if !loaded.warnings.is_empty() {
        args.print(&loaded.warnings);
    }
    let certificates = match tls::load(&loaded.config.listeners, &TlsOfListeners::new()) {
        Ok(tls) => tls::warnings(&tls, SystemTime::now()),
        Err(errors) => {
            for error in errors.0 {
                eprintln!("portcullis: {error}");
            }
            eprintln!("portcullis: {name}: test failed");
            return ExitCode::FAILURE;
        }
    };
    for warning in &certificates {
        eprintln!("portcullis: warning: {warning}");
    }
    if strict && !(loaded.warnings.is_empty() && certificates.is_empty()) {
        eprintln!("portcullis: {name}: test failed, because of --strict");
        return ExitCode::FAILURE;
    }
    let unusable = unusable_files(&loaded.config);
    if !unusable.is_empty() {
        for problem in unusable {
            eprintln!("portcullis: {problem}");
        }
        eprintln!("portcullis: {name}: test failed");
        return ExitCode::FAILURE;
    }
    say(&loaded.config, &name);
    ExitCode::SUCCESS
}

/// What is wrong with files that the configuration names and that are read before anything is served.
fn unusable_files(config: &Config) -> Vec<String> {
    let connects = config.upstreams.iter().map(Connect::read);
    let upstreams = connects.filter_map(Result::err);
    upstreams.chain(reverse::problems(&config.agents)).collect()
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(config: &Config, name: &str) {
    let listeners: Vec<String> = config
        .listeners
        .iter()
        .map(|listener| format!("{} on {}", listener.id, listener.address))
        .collect();
    println!("portcullis: {name}: syntax is ok");
    println!(
        "portcullis: {} listeners ({}), {} routes, {} upstreams, {} agents",
        config.listeners.len(),
        listeners.join(", "),
        config.routes.len(),
        config.upstreams.len(),
        config.agents.len(),
    );
    for route in config.routes_with_agents() {
        println!(
            "portcullis: route {}: all its agents together have {:?}",
            route.id, route.agent_budget
        );
    }
    println!("portcullis: test is successful");
}
