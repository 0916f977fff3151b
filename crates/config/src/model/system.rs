//! `system { … }`: settings of the whole process.

use super::{ByteSize, Share};
use ipnet::IpNet;
use std::{net::SocketAddr, time::Duration};

/// Settings of the whole process.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// Threads that serve requests. 0, the default, is one per CPU.
    pub worker_threads: usize,
    /// Client connections over all listeners; beyond it a new one is closed and counted. Default 100000.
    pub max_connections: usize,
    /// All bodies held for agents together; beyond it a request is refused at once. Default 256 MiB, 1 MiB to 1 TiB.
    pub buffer_memory: ByteSize,
    /// What the requests of one client may take of it together. Default 50 %, 1 % to 100 %. One request that is alone may take all.
    pub buffer_memory_per_client: Share,
    /// How long requests in flight may go on after SIGTERM. Default 30 s.
    pub shutdown_grace: Duration,
    /// How long readiness is false after SIGTERM before listeners stop. Default 0.
    pub drain_delay: Duration,
    /// Whose X-Forwarded-For and X-Request-Id are believed, where a listener has no list of its own. Default: nobody.
    pub trusted_proxies: Vec<IpNet>,
    /// DNS servers that names of targets are asked of. Default: none, those of the system and its hosts file.
    pub resolver: Vec<SocketAddr>,
    /// What is done with request paths that are spelled in a doubtful way.
    pub path: PathPolicy,
}

impl Default for System {
    fn default() -> Self {
        Self {
            worker_threads: 0,
            max_connections: 100_000,
            buffer_memory: ByteSize::mib(256),
            buffer_memory_per_client: Share::of_hundredths(5_000),
            shutdown_grace: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            trusted_proxies: Vec::new(),
            resolver: Vec::new(),
            path: PathPolicy::default(),
        }
    }
}

/// What is done with request paths that are spelled in a doubtful way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathPolicy {
    /// `%2F` in a path.
    pub encoded_slash: EncodedSlash,
    /// `//` in a path.
    pub double_slash: DoubleSlash,
}

/// What is done with `%2F` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodedSlash {
    /// 400. The default.
    #[default]
    Refuse,
    /// Left as it is; it does not separate segments.
    Keep,
}

/// What is done with `//` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoubleSlash {
    /// Becomes one slash. The default.
    #[default]
    Merge,
    /// 400.
    Refuse,
    /// Left as it is.
    Keep,
}
