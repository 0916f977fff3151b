//! `reverse "PATH" …` and `reverse "IP:PORT" …`: agents that dial us.

use super::Secret;
use std::{net::SocketAddr, path::PathBuf};

/// Where an agent registers, and what it has to be for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReverse {
    /// Where we listen; several agents may have the same.
    pub place: ReversePlace,
    /// What it has to show beside what the door asks for.
    pub token: Option<Secret>,
    /// How many connections it may have. Default 1, 1 to 64.
    pub replicas: usize,
    /// How many may be about to register. Agents of one place have the same.
    pub registering: Registering,
}

/// How many may have connected at one place without having said yet who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registering {
    /// In all. Default 64, 1 to 1024.
    pub all: usize,
    /// Of one client: a user at a socket; at an address an IPv4 address, or a /64 of IPv6. Default 16, 1 to `all`.
    pub per_client: usize,
}

/// Where agents register, and by what they are known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePlace {
    /// A Unix socket.
    Socket {
        /// Resolved against the configuration file.
        path: PathBuf,
        /// The mode of the socket. Default 0600. Agents of one socket have the same.
        mode: u32,
        /// The user that the agent's process belongs to. None: ours.
        uid: Option<u32>,
    },
    /// An address, with TLS.
    Tls {
        /// Port 0 lets the system choose.
        address: SocketAddr,
        /// Agents of one address have the same.
        files: ReverseFiles,
        /// The name that the agent's certificate is for: a DNS name or a URI. None: any, and there is a token.
        certificate_name: Option<String>,
    },
}

/// PEM files of an address at which agents register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReverseFiles {
    /// Our certificate, its chain after it.
    pub certificate: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
    /// The authorities that must have signed the certificate of an agent.
    pub ca: PathBuf,
}
