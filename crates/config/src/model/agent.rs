//! `agents { agent "ID" { … } }`: the processes that are asked for verdicts.

use super::{
    AgentEndpoint, AgentId, AgentReverse, Authz, Dialect, ExtProc, Inspect, Place, Pool, Reports,
    VerdictCache,
};
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
    /// It keeps nothing between the events of a request, so each of them may go to another replica. Default false, and
    /// always with a single one.
    pub stateless: bool,
    /// What it speaks.
    pub dialect: Dialect,
    /// How it is spoken to when that is [`Dialect::ExtProc`]; else the default, which means nothing.
    pub ext_proc: ExtProc,
    /// How it is spoken to when that is [`Dialect::ExtAuthz`] or [`Dialect::ForwardAuth`]. None: it is another.
    pub authz: Option<Authz>,
    /// One change of a header that agents may not make is a failure, and with [`Dialect::ExtProc`] `append_action` holds. `false`: it is ignored and counted. Default `true` in
    /// our own protocol, where it cannot be otherwise, and `false` in the dialects of others.
    pub strict: bool,
    /// For one answer, waiting for a permit included. Default 50 ms. A route may override it.
    pub timeout: Duration,
    /// What a failure means. Default closed. A route may override it.
    pub failure_mode: FailureMode,
    /// What it is asked about.
    pub inspect: Inspect,
    /// Calls that may be under way at once, of the whole process. Default 100, 1 to 1 000 000.
    pub max_concurrent_calls: usize,
    /// Calls that may wait for one of those, of the whole process; a further one fails at once. Default 200, 0 to
    /// 1 000 000; 0: nobody waits.
    pub queue: usize,
    /// When it is left alone for a while.
    pub circuit_breaker: CircuitBreaker,
    /// The connections of each worker to it.
    pub pool: Pool,
    /// What is done when it says that it has too much to do.
    pub overload: Overload,
    /// Header patterns that only this agent may set and no client may send. Default none. No header fits the patterns
    /// of two agents, and none is one of those that nobody may change. See [`SendHeaders`] for patterns.
    pub owns_headers: Vec<String>,
    /// Which of a request's headers it is told.
    pub send_headers: SendHeaders,
    /// How its verdicts are kept and used again. None, the default: they are not.
    pub verdict_cache: Option<VerdictCache>,
    /// What it may say unasked.
    pub reports: Reports,
    /// Its `config` block as JSON, always an object. None: it has no such block.
    pub config: Option<Json>,
    /// Where it is written.
    pub place: Place,
}

/// How an agent is reached, or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentTransport {
    /// It runs on its own and listens on these Unix sockets, one for each replica, at least one and no path twice, in the
    /// order written. Paths are resolved against the configuration file.
    UnixSocket(Vec<PathBuf>),
    /// It runs on its own and is called over gRPC; an endpoint for each replica, at least one and no URL twice, in the order
    /// written. TLS and package are the same for all of them.
    Grpc(Vec<AgentEndpoint>),
    /// The same over HTTP.
    Http(Vec<AgentEndpoint>),
    /// It runs on its own and dials us.
    Reverse(AgentReverse),
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

impl AgentTransport {
    /// Whether there is more than one of it.
    pub fn has_replicas(&self) -> bool {
        match self {
            Self::UnixSocket(sockets) => sockets.len() > 1,
            // What dials is not told apart.
            Self::Reverse(_) => false,
            Self::Grpc(endpoints) | Self::Http(endpoints) => endpoints.len() > 1,
            Self::Command { .. } | Self::Builtin { .. } => false,
        }
    }

    /// Whether it is one of ours that keeps something of a request until it is told that the request is over.
    pub fn remembers(&self) -> bool {
        use BuiltinAgent::{BodyGuard, FrameGuard};
        matches!(
            self,
            Self::Builtin {
                name: BodyGuard | FrameGuard,
                ..
            }
        )
    }
}

/// The agents inside this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuiltinAgent {
    /// Refuses bodies by what they hold, and takes out of them what nobody shall see.
    BodyGuard,
    /// Refuses paths, user agents and client networks.
    Denylist,
    /// Adds a header; for trying things out.
    Echo,
    /// Closes WebSockets by what their messages hold, how deep and how large they are.
    FrameGuard,
}

impl BuiltinAgent {
    /// The name as it is written in the configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BodyGuard => "body-guard",
            Self::Denylist => "denylist",
            Self::Echo => "echo",
            Self::FrameGuard => "frame-guard",
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

impl FailureMode {
    /// The name as it is written in the configuration, in logs and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// When an agent is left alone for a while, because it fails again and again. Of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Failures in a row that open it. Default 5, at least 1.
    pub failures: u32,
    /// Successes in a row that close it again. Default 2, at least 1.
    pub successes: u32,
    /// How long it stays open before the agent is tried again. Default 30 s, 1 ms to 24 h.
    pub open_for: Duration,
    /// Calls that may try the agent at once while the breaker is half open. Default 1, at least 1.
    pub probes: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failures: 5,
            successes: 2,
            open_for: Duration::from_secs(30),
            probes: 1,
        }
    }
}

/// What is done when an agent says "not now".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overload {
    /// How often one call is tried again, within its timeout and the request's budget. Default 1, 0 to 10.
    pub retries: u32,
    /// How long the agent is left alone when it does not say how long. Default 2 s, 1 ms to 24 h.
    pub backoff: Duration,
    /// Agents with the same key share the state: what one of them says holds for all. None: the agent is alone.
    pub quota_key: Option<String>,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            retries: 1,
            backoff: Duration::from_secs(2),
            quota_key: None,
        }
    }
}

/// Which of a request's headers an agent is told.
///
/// A pattern is a header name in lower case, or the beginning of one and a final `*`: `cookie`, `x-auth-*`. Lists are
/// never empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SendHeaders {
    /// Every header. The default.
    #[default]
    All,
    /// Every header but these.
    Except(Vec<String>),
    /// These and no other.
    Only(Vec<String>),
}
