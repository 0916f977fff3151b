//! `admin { … }` and `probes { … }`: the two listeners that are not for clients.

use super::Place;
use std::{net::SocketAddr, path::PathBuf};

/// The status page and API, for the operator only.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it is served.
    pub address: AdminAddress,
    /// Where the block is written.
    pub place: Place,
}

/// Where the admin interface is served: never on a public address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket. The path is resolved against the configuration file.
    Unix(PathBuf),
}

/// Health and metrics, nothing else; may be public.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    /// Where they are served.
    pub address: SocketAddr,
    /// Where the block is written.
    pub place: Place,
}
