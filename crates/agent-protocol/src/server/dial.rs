//! Dialling a proxy: the agent registers at a socket of the proxy, or over the
//! network, and is asked over this connection, which is made again when it ends.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::report::Stop;
use super::session::Session;
use super::wire::FrameWire;
use super::{Agent, ServeOptions, drain};
use crate::TlsFiles;
use crate::tls::client_config;
use crate::transport::{Socket, tune};

/// The first pause before a connection is made again, and the longest. The
/// pause is doubled after each attempt that came to nothing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where a proxy takes registrations.
///
/// ```
/// # use portcullis_agent_protocol::TlsFiles;
/// # use portcullis_agent_protocol::server::DialTarget;
/// let elsewhere = DialTarget::Tls {
///     address: "proxy.example.com:9443".to_owned(),
///     tls: TlsFiles {
///         ca: Some("proxy-ca.pem".into()),
///         server_name: None,
///         identity: Some(("waf.pem".into(), "waf.key".into())),
///     },
/// };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialTarget {
    /// The path of its Unix socket.
    UnixSocket(PathBuf),
    /// An address to which both ends prove who they are.
    Tls {
        /// Host and port, as in `proxy.example.com:9443`; the host is a name
        /// or an address, of IPv6 in brackets.
        address: String,
        /// How the proxy is recognised, and what it is shown, which it asks
        /// for. The files are read at every connecting, so that new ones are
        /// taken up.
        tls: TlsFiles,
    },
}

impl fmt::Display for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixSocket(path) => path.display().fmt(f),
            Self::Tls { address, .. } => f.write_str(address),
        }
    }
}

/// Where a proxy takes registrations, and as what an agent registers.
#[derive(Clone)]
pub struct DialOptions {
    /// Where.
    pub proxy: DialTarget,
    /// The id of the agent in the proxy's configuration.
    pub agent_id: String,
    /// What the agent shows to be let in; `None` where its user or its
    /// certificate is enough.
    pub token: Option<String>,
}

impl fmt::Debug for DialOptions {
    // The token is left out, because it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialOptions")
            .field("proxy", &self.proxy)
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
/// # use portcullis_agent_protocol::server::{self, Agent, DialOptions, DialTarget, ServeOptions};
/// # async fn run(agent: impl Agent) {
/// let proxy = DialOptions {
///     proxy: DialTarget::UnixSocket("/run/portcullis/reverse.sock".into()),
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
        let connected = tokio::time::timeout(options.handshake_timeout, connect(&proxy.proxy));
        let connected = tokio::select! {
            connected = connected => connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            _ = stop.wait_for(|stop| *stop != Stop::Not) => break,
        };
        match connected {
            Ok(socket) => {
                let wire = FrameWire::new(socket);
                let agent = Arc::clone(&agent);
                let session = Session::new(agent, wire, Arc::clone(&options), stopping.clone());
                session.registering(proxy.clone()).run().await;
            }
            Err(error) => {
                tracing::warn!(proxy = %proxy.proxy, %error, "the proxy cannot be reached");
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

/// Connects, however long it takes. That a proxy does not accept what it was
/// shown is found out when it answers the registration.
async fn connect(proxy: &DialTarget) -> io::Result<Socket> {
    let (address, tls) = match proxy {
        DialTarget::UnixSocket(path) => return Ok(UnixStream::connect(path).await?.into()),
        DialTarget::Tls { address, tls } => (address, tls.clone()),
    };
    let name = match &tls.server_name {
        Some(name) => name.as_str(),
        None => host(address),
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {error}")))?;
    // It does not panic, and nobody aborts it.
    let config = tokio::task::spawn_blocking(move || client_config(Some(&tls))).await??;
    let stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(tokio_rustls::TlsStream::from(stream).into())
}

/// The host of an address, of IPv6 without brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.unwrap_or(host)
}

// Between half of it and all of it, so that agents do not dial in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}
