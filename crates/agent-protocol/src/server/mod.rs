//! The agent's end of the wire: implement [`Agent`], bind a socket with
//! [`bind_socket`], and [`serve`].
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use portcullis_agent_protocol::server::{self, Agent, AgentError, ServeOptions};
//! use portcullis_agent_protocol::{Decision, RequestHeaders};
//!
//! struct NoTrace;
//!
//! #[async_trait::async_trait]
//! impl Agent for NoTrace {
//!     fn name(&self) -> &str {
//!         "no-trace"
//!     }
//!
//!     async fn request_headers(
//!         &self,
//!         event: &RequestHeaders<'_>,
//!     ) -> Result<Decision, AgentError> {
//!         Ok(match event.method {
//!             "TRACE" => Decision::block(405).reason("method:trace"),
//!             _ => Decision::allow(),
//!         })
//!     }
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let path = server::socket_from_env().unwrap_or_else(|| "/run/no-trace.sock".into());
//! let listener = server::bind_socket(&path)?;
//! let stop = async { drop(tokio::signal::ctrl_c().await) };
//! server::serve(Arc::new(NoTrace), listener, ServeOptions::default(), stop).await
//! # }
//! ```

mod agent;
mod counters;
mod dial;
mod events;
mod grpc;
mod per_request;
mod report;
mod session;
mod socket;
mod wire;
mod work;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use agent::{Agent, AgentError};
pub use counters::ServeCounters;
pub use dial::{DialOptions, DialTarget, dial};
pub use grpc::{ServerTls, serve_grpc};
pub use per_request::PerRequest;
pub use report::Reporter;
pub use socket::{SOCKET_VARIABLE, bind_socket, bind_socket_with_mode, socket_from_env};

use self::report::Stop;
use self::session::Session;
use self::wire::FrameWire;
use crate::Extensions;
use crate::codec::frame::MAX_FRAME_BYTES;

/// How long nothing is accepted after accepting went wrong, as it does when
/// there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How an agent is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The largest frame that is accepted or sent; default and at most 16 MiB.
    pub max_frame_bytes: usize,
    /// How many events of one connection are worked on at once; default 100.
    /// Always 1 without extensions.
    pub concurrency: usize,
    /// How many further events of one connection are read and wait; default
    /// 1024, and at most 4 MiB of them. Beyond that the next event is left
    /// unread with all that follows it. Always 0 without extensions.
    pub backlog: usize,
    /// How many connections there may be; default 1024. One more is closed.
    pub max_connections: usize,
    /// What may be chosen beyond the legacy protocol; default everything.
    /// With [`Extensions::NONE`] the agent behaves like a legacy one, which
    /// does not understand that an event was cancelled.
    pub extensions: Extensions,
    /// How long a proxy may take to begin the conversation; default 10 s.
    pub handshake_timeout: Duration,
    /// How long events may go on after the shutdown began; default 5 s.
    pub drain_timeout: Duration,
    /// How much of this time further events are taken, because they were on
    /// their way when the proxy was told that the agent drains; default
    /// 100 ms. A proxy that closes its connections is not waited for.
    pub drain_notice: Duration,
    /// With what the agent says how it is.
    pub reporter: Reporter,
    /// What is counted; clones of the options share it.
    pub counters: Arc<ServeCounters>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_frame_bytes: MAX_FRAME_BYTES,
            concurrency: 100,
            backlog: 1024,
            max_connections: 1024,
            extensions: Extensions::ALL,
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            drain_notice: Duration::from_millis(100),
            reporter: Reporter::default(),
            counters: Arc::default(),
        }
    }
}

/// Serves an agent until `shutdown` resolves; then accepts nothing more, tells
/// the proxies that it drains, finishes the events at hand, and closes.
///
/// # Errors
/// None while it serves: a connection that fails ends alone, and accepting is
/// tried again.
pub async fn serve<A: Agent + ?Sized>(
    agent: Arc<A>,
    listener: UnixListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let options = Arc::new(options);
    let (stop, stopping) = watch::channel(Stop::Not);
    let mut sessions = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
        };
        match accepted {
            Ok(_) if sessions.len() >= options.max_connections => {
                tracing::warn!(limit = options.max_connections, "too many connections");
            }
            Ok((stream, _)) => {
                let agent = Arc::clone(&agent);
                let wire = FrameWire::new(stream);
                let session = Session::new(agent, wire, Arc::clone(&options), stopping.clone());
                sessions.spawn(session.run());
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    let ended = async { while sessions.join_next().await.is_some() {} };
    drain(ended, &stop, &options).await;
    Ok(())
}

// Tells the sessions to end, and waits until they have.
async fn drain(
    ended: impl Future<Output = ()>,
    stop: &watch::Sender<Stop>,
    options: &ServeOptions,
) {
    let drained = async {
        let mut ended = std::pin::pin!(ended);
        stop.send_replace(Stop::Announced);
        let notice = tokio::time::timeout(options.drain_notice, &mut ended).await;
        if notice.is_err() {
            stop.send_replace(Stop::Now);
            ended.await;
        }
    };
    let drained = tokio::time::timeout(options.drain_timeout, drained).await;
    if drained.is_err() {
        tracing::warn!("some events did not finish before the end of the shutdown");
    }
}
