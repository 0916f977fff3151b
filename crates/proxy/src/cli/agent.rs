//! `portcullis agent NAME`: an agent of this binary, as a process of its own.

use crate::agents::{AgentArgs, run as run_agent};
use clap::{Args, ValueEnum};
use std::{path::PathBuf, process::ExitCode};

#[derive(Debug, Args)]
pub(super) struct AgentCommand {
    /// Which agent
    name: Name,
    /// The Unix socket to listen on; without it the one in PORTCULLIS_AGENT_SOCKET
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A JSON file with the agent's configuration, for use without a proxy that sends one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Speak plain protocol version 2, without our extensions
    #[arg(long)]
    legacy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Blocks paths, prefixes, user agents and client networks
    Denylist,
    /// Allows everything and adds a header
    Echo,
}

pub(super) fn run(command: AgentCommand) -> ExitCode {
    run_agent(AgentArgs {
        name: match command.name {
            Name::Denylist => "denylist",
            Name::Echo => "echo",
        },
        socket: command.socket,
        config: command.config,
        legacy: command.legacy,
    })
}
