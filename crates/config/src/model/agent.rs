//! `agents { agent "ID" { … } }`: the processes that are asked for verdicts.

use super::{AgentId, Place};
use std::{path::PathBuf, time::Duration};

/// What an agent is configured with, handed to it as it is.
pub type Json = serde_json::Value;

/// A process that is asked whether a request may go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its name in logs and metrics.
    pub id: AgentId,
    /// How it is reached, or started.
    pub transport: AgentTransport,
    /// For one answer, waiting for a permit included. Default 50 ms. A route may override it.
    pub timeout: Duration,
    /// What a failure means. Default closed. A route may override it.
    pub failure_mode: FailureMode,
    /// What it is asked about.
    pub inspect: Inspect,
    /// Its `config` block as JSON, always an object. None: it has no such block.
    pub config: Option<Json>,
    /// Where it is written.
    pub place: Place,
}

/// How an agent is reached, or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentTransport {
    /// It runs on its own and listens on this Unix socket. The path is resolved against the configuration file.
    UnixSocket(PathBuf),
    /// We start it and give it its socket.
    Command {
        /// The path of the executable, resolved against the configuration file; never looked up in PATH.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
        /// All of its environment but what we add, in the order written; no name twice.
        env: Vec<(String, String)>,
    },
    /// We start this program again, as that agent.
    Builtin {
        /// Which one.
        name: BuiltinAgent,
        /// All of its environment but what we add, in the order written; no name twice.
        env: Vec<(String, String)>,
    },
}

/// The agents inside this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuiltinAgent {
    /// Refuses paths, user agents and client networks.
    Denylist,
    /// Adds a header; for trying things out.
    Echo,
}

impl BuiltinAgent {
    /// The name as it is written in the configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denylist => "denylist",
            Self::Echo => "echo",
        }
    }
}

/// What happens to a request when an agent gives no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailureMode {
    /// The request goes on.
    Open,
    /// The request is refused. The default.
    #[default]
    Closed,
}

/// The events that an agent gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspect {
    /// The head of the request. The default when there is no `inspect` block.
    pub request_headers: bool,
}

impl Default for Inspect {
    fn default() -> Self {
        Self {
            request_headers: true,
        }
    }
}
