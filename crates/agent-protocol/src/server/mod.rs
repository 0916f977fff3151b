//! The agent's end of the wire: implement [`Agent`], bind a socket with
//! [`bind_socket`], and [`serve`].

mod agent;

pub use agent::{Agent, AgentError};

/// How an agent is served. (more follows: serve, bind_socket, socket_from_env)
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The largest frame that is accepted or sent; default and at most 16 MiB.
    pub max_frame_bytes: usize,
    /// How many events of one connection are worked on at once; default 100.
    pub concurrency: usize,
    /// Whether what goes beyond the legacy protocol is offered by this end.
    pub extensions: crate::Extensions,
}
