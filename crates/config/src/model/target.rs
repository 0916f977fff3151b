//! `target …` and `targets-file "…"`: where the servers of an upstream are, or how they are found.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// A server of an upstream, or what stands for several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub address: TargetAddress,
    /// Its share against the other targets; of a name that of each of its addresses. Default 1, 1 to 1000.
    pub weight: u32,
    /// Whether it only stands in for those that are none: it gets requests when none of those is in order. Default false.
    pub is_backup: bool,
}

/// Where a target is, or how targets are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetAddress {
    /// One server.
    Socket(SocketAddr),
    /// One server, at a Unix socket of this machine.
    Unix(PathBuf),
    /// A server at each address of the name.
    Name {
        /// As it is written.
        host: String,
        /// Of all of them.
        port: u16,
        /// How often it is resolved again. None: as often as its records say.
        resolve: Option<Duration>,
    },
    /// The servers that the SRV records of a name say.
    Service {
        /// Such as `_http._tcp.backend.internal`.
        name: String,
        /// How often it is resolved again. None: as often as its records say.
        resolve: Option<Duration>,
    },
    /// The servers that a file lists.
    File {
        /// Lines of addresses.
        path: PathBuf,
        /// How often it is looked whether the file is another. Default 2 s.
        interval: Duration,
    },
}

impl TargetAddress {
    /// Whether the targets are found while the process runs.
    pub const fn is_found(&self) -> bool {
        matches!(
            self,
            Self::Name { .. } | Self::Service { .. } | Self::File { .. }
        )
    }
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Name { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Service { name, .. } => name.fmt(f),
            Self::File { path, .. } => path.display().fmt(f),
        }
    }
}
