//! Measures what the proxy costs per request, against a bare Pingora proxy on the same machine at the same time.
//!
//! Without a subcommand it is the driver, which starts itself again in the roles below. README.md says what the figures
//! mean.

mod drive;
mod envoy;
mod error;
mod isolation;
mod process;
mod report;
mod roles;
mod routes;
mod scenario;
mod stage;
mod statistics;
mod usage;

use clap::{Parser, Subcommand};
use roles::{agent, envoy_agent, floor, load, origin, pinned};
use std::{io::Write, process::ExitCode};

#[derive(Parser)]
#[command(about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    driver: drive::Options,
}

#[derive(Subcommand)]
enum Role {
    /// Measure whether a route without agents notices what is wrong with the agent of another one.
    Isolation(isolation::Options),
    /// Measure what starting with many routes costs.
    Routes(routes::Options),
    /// Answer every request of an agent's events alike, at once, late, or never.
    Agent(agent::Options),
    /// Let every request pass as an agent of Envoy, of either kind.
    EnvoyAgent(envoy_agent::Options),
    /// Serve a fixed answer.
    Origin(origin::Options),
    /// Proxy with bare Pingora.
    Floor(floor::Options),
    /// Send requests and measure.
    Load(load::Options),
    /// Become another program on one processor.
    #[command(hide = true)]
    Pinned(pinned::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.role {
        None => drive::run(&cli.driver),
        Some(Role::Isolation(options)) => isolation::run(options),
        Some(Role::Routes(options)) => routes::run(options),
        Some(Role::Agent(options)) => agent::run(options),
        Some(Role::EnvoyAgent(options)) => envoy_agent::run(options),
        Some(Role::Origin(options)) => origin::run(options),
        Some(Role::Floor(options)) => floor::run(options),
        Some(Role::Load(options)) => load::run(options),
        Some(Role::Pinned(options)) => pinned::run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to say it.
            let _ = writeln!(std::io::stderr(), "portcullis-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
