//! Agents that are called over a network: where they are and what they speak.

use std::{fmt, path::PathBuf};

/// What an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// Protocol version 2, our own. The default.
    #[default]
    V2,
    /// Protocol version 1, of old agents.
    V1,
    /// Envoy's external processing, `envoy.service.ext_proc.v3`.
    ExtProc,
    /// Envoy's external authorization, `envoy.service.auth.v3`.
    ExtAuthz,
    /// A request of its own to a service that says by its status whether the request may go on, as with nginx's
    /// `auth_request`.
    ForwardAuth,
}

impl Dialect {
    /// Every one of them.
    pub const ALL: [Self; 5] = [
        Self::V2,
        Self::V1,
        Self::ExtProc,
        Self::ExtAuthz,
        Self::ForwardAuth,
    ];

    /// The name as it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::ExtProc => "ext-proc",
            Self::ExtAuthz => "ext-authz",
            Self::ForwardAuth => "forward-auth",
        }
    }
}

/// Where an agent is called, and how its connections are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEndpoint {
    /// Where it is.
    pub url: AgentUrl,
    /// How it is recognised and how we show who we are; means something only with `https`.
    pub tls: AgentTls,
}

/// A URL without user, query and fragment, as in `http://127.0.0.1:50051`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUrl {
    /// `https` rather than `http`.
    pub is_https: bool,
    /// A name, or an address; of IPv6 without brackets.
    pub host: String,
    /// 80 or 443 when it is not written.
    pub port: u16,
    /// Begins with `/`.
    pub path: String,
}

impl AgentUrl {
    /// Host and port as in a Host header.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// How the two ends of a connection to an agent recognise each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentTls {
    /// PEM file with the authorities that may have signed the agent's certificate. None: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that the agent's certificate must have. None: the host of the URL.
    pub server_name: Option<String>,
    /// PEM files with our certificate and its key, for agents that want to know who calls. None: we show none.
    pub identity: Option<(PathBuf, PathBuf)>,
}
