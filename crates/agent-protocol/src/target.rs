//! Where agents are, whatever they speak.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::EventKind;
use crate::dialect::authz::{ExtAuthzGrpcOptions, ExtAuthzHttpOptions, ForwardAuthOptions};
use crate::dialect::channel::GrpcEndpoint;
use crate::dialect::ext_proc::ExtProcOptions;
use crate::dialect::http_client::HttpEndpoint;
use crate::dialect::v2::reverse::ReverseAgent;

/// Where an agent is, and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Protocol version 2 over the Unix socket at this path.
    UnixSocket(PathBuf),
    /// Protocol version 2 over gRPC.
    V2Grpc {
        /// Where.
        endpoint: GrpcEndpoint,
        /// The package of the service, as in `zentinel.agent.v2`; forks have
        /// others.
        package: String,
    },
    /// Protocol version 2 over connections that the agent dials.
    Reverse(ReverseAgent),
    /// Version 1 over the Unix socket at this path.
    V1UnixSocket(PathBuf),
    /// Version 1 over HTTP.
    V1Http(HttpEndpoint),
    /// Envoy's external processing over gRPC.
    ExtProc(Box<ExtProcTarget>),
    /// Envoy's external authorization over gRPC.
    ExtAuthzGrpc(Box<ExtAuthzGrpcTarget>),
    /// Envoy's external authorization over HTTP.
    ExtAuthzHttp(Box<ExtAuthzHttpTarget>),
    /// forward-auth.
    ForwardAuth(Box<ForwardAuthTarget>),
}

/// An agent that speaks Envoy's external processing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtProcTarget {
    /// Where it is.
    pub endpoint: GrpcEndpoint,
    /// How it is spoken to.
    pub options: ExtProcOptions,
}

/// A service that speaks Envoy's external authorization over gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthzGrpcTarget {
    /// Where it is.
    pub endpoint: GrpcEndpoint,
    /// How it is spoken to.
    pub options: ExtAuthzGrpcOptions,
}

/// A service that speaks Envoy's external authorization over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthzHttpTarget {
    /// Where it is.
    pub endpoint: HttpEndpoint,
    /// How it is spoken to.
    pub options: ExtAuthzHttpOptions,
}

/// A service that speaks forward-auth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardAuthTarget {
    /// What is called.
    pub endpoint: HttpEndpoint,
    /// How it is spoken to.
    pub options: ForwardAuthOptions,
}

impl Target {
    /// Whether the agent is reached on this machine, so that asking often
    /// whether it is there costs next to nothing.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            // What an agent dials is looked for here.
            Self::UnixSocket(_) | Self::V1UnixSocket(_) | Self::Reverse(_) => true,
            Self::V1Http(_)
            | Self::V2Grpc { .. }
            | Self::ExtProc(_)
            | Self::ExtAuthzGrpc(_)
            | Self::ExtAuthzHttp(_)
            | Self::ForwardAuth(_) => false,
        }
    }

    /// Whether a body of this kind of event has to be shown in one piece.
    #[must_use]
    pub fn takes_whole(&self, kind: EventKind) -> bool {
        match self {
            Self::ExtProc(agent) => agent.options.is_whole(kind),
            _ => false,
        }
    }

    /// How long an answer may take at most when the agent asks for more time;
    /// zero where it cannot.
    #[must_use]
    pub fn most_time(&self) -> Duration {
        match self {
            Self::ExtProc(agent) => agent.options.max_message_timeout.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixSocket(path) | Self::V1UnixSocket(path) => path.display().fmt(f),
            Self::V1Http(endpoint) => endpoint.fmt(f),
            Self::ExtProc(agent) => agent.endpoint.url.fmt(f),
            Self::ExtAuthzGrpc(agent) => agent.endpoint.url.fmt(f),
            Self::ExtAuthzHttp(agent) => agent.endpoint.fmt(f),
            Self::ForwardAuth(agent) => agent.endpoint.fmt(f),
            Self::V2Grpc { endpoint, .. } => endpoint.url.fmt(f),
            Self::Reverse(_) => f.write_str("reverse"),
        }
    }
}
