//! Dialling a proxy: the agent registers at a socket of the proxy and is asked
//! over this connection, which is made again when it ends.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::watch;

use super::report::Stop;
use super::session::Session;
use super::wire::FrameWire;
use super::{Agent, ServeOptions, drain};

/// The first pause before a connection is made again, and the longest. The
/// pause is doubled after each attempt that came to nothing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where a proxy takes registrations, and as what an agent registers.
#[derive(Clone)]
pub struct DialOptions {
    /// The path of the proxy's socket.
    pub path: PathBuf,
    /// The id of the agent in the proxy's configuration.
    pub agent_id: String,
    /// What the agent shows to be let in; `None` where its user is enough.
    pub token: Option<String>,
}

impl fmt::Debug for DialOptions {
    // The token is left out, because it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialOptions")
            .field("path", &self.path)
            .field("agent_id", &self.agent_id)
            .finish_non_exhaustive()
    }
}

/// Registers at a proxy and serves it until `shutdown` resolves; then it ends
/// as [`serve`](super::serve) does. A connection that ends, or that cannot be
/// made, is made again for ever, with pauses of at most 2 s. There is one
/// connection; who wants more calls this more often.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use portcullis_agent_protocol::server::{self, Agent, DialOptions, ServeOptions};
/// # async fn run(agent: impl Agent) {
/// let proxy = DialOptions {
///     path: "/run/portcullis/reverse.sock".into(),
///     agent_id: "waf".to_owned(),
///     token: std::env::var("WAF_TOKEN").ok(),
/// };
/// let stop = async { drop(tokio::signal::ctrl_c().await) };
/// server::dial(Arc::new(agent), proxy, ServeOptions::default(), stop).await
/// # }
/// ```
pub async fn dial<A: Agent + ?Sized>(
    agent: Arc<A>,
    proxy: DialOptions,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) {
    let options = Arc::new(options);
    let (stop, stopping) = watch::channel(Stop::Not);
    let serving = keep_up(agent, proxy, Arc::clone(&options), stopping);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        () = shutdown => drain(serving, &stop, &options).await,
    }
}

async fn keep_up<A: Agent + ?Sized>(
    agent: Arc<A>,
    proxy: DialOptions,
    options: Arc<ServeOptions>,
    stopping: watch::Receiver<Stop>,
) {
    let (first, longest) = PAUSES;
    let mut pause = first;
    let mut stop = stopping.clone();
    while *stopping.borrow() == Stop::Not {
        let started = Instant::now();
        match UnixStream::connect(&proxy.path).await {
            Ok(stream) => {
                let wire = FrameWire::new(stream);
                let agent = Arc::clone(&agent);
                let session = Session::new(agent, wire, Arc::clone(&options), stopping.clone());
                session.registering(proxy.clone()).run().await;
            }
            Err(error) => {
                tracing::warn!(path = %proxy.path.display(), %error, "the proxy cannot be reached");
            }
        }
        // One that lasted is made again at once.
        if started.elapsed() >= longest {
            pause = first;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            // An error means that the whole server is gone.
            _ = stop.wait_for(|stop| *stop != Stop::Not) => break,
        }
        pause = (pause * 2).min(longest);
    }
}

// Between half of it and all of it, so that agents do not dial in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}
