//! Serving an agent over gRPC. Each stream of the method `ProcessStream` is a
//! session, as a connection to a Unix socket is; the method `ProcessEvent` asks
//! about one event without one.

mod listener;
mod service;
mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tonic::transport::{Certificate, Server, ServerTlsConfig};

use self::listener::Incoming;
use self::service::Service;
use super::report::Stop;
use super::{Agent, ServeOptions, drain};
use crate::dialect::channel::{WINDOWS, certificates, identity, reasons};

/// How long nothing may come before a proxy is asked whether it is there, and
/// how long it may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// How an agent shows who it is, and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// PEM file with the agent's certificate, its chain after it.
    pub certificate: PathBuf,
    /// PEM file with the key of the certificate.
    pub key: PathBuf,
    /// PEM file with the authorities that must have signed the certificate of
    /// a proxy. `None`: whoever reaches the agent may ask it.
    pub client_ca: Option<PathBuf>,
}

/// Serves an agent over gRPC until `shutdown` resolves; then it ends as
/// [`serve`](super::serve) does. Proxies of any package are served, as in
/// `zentinel.agent.v2`. Each stream is a connection in the sense of the options.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use portcullis_agent_protocol::server::{self, Agent, ServeOptions};
/// # async fn run(agent: impl Agent) -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:50051").await?;
/// let stop = async { drop(tokio::signal::ctrl_c().await) };
/// server::serve_grpc(Arc::new(agent), listener, None, ServeOptions::default(), stop).await
/// # }
/// ```
///
/// # Errors
/// When a file of `tls` cannot be used, which the error names.
pub async fn serve_grpc<A: Agent + ?Sized>(
    agent: Arc<A>,
    listener: TcpListener,
    tls: Option<ServerTls>,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let options = Arc::new(options);
    let (stop, stopping) = watch::channel(Stop::Not);
    let streams = u32::try_from(options.max_connections).unwrap_or(u32::MAX);
    let (interval, timeout) = KEEP_ALIVE;
    let mut server = Server::builder()
        .max_concurrent_streams(streams)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout));
    if let Some(tls) = &tls {
        let config = server_tls(tls, options.handshake_timeout).await?;
        server = server.tls_config(config).map_err(unusable)?;
    }
    let incoming = Incoming::new(listener, options.max_connections);
    let service = Service::new(agent, Arc::clone(&options), stopping);
    let (begin_end, ending) = oneshot::channel::<()>();
    let ending = async { drop(ending.await) };
    let serving = server.serve_with_incoming_shutdown(service, incoming, ending);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended.map_err(unusable),
        () = shutdown => {}
    }
    drop(begin_end);
    let ended = async {
        if let Err(error) = serving.await {
            tracing::debug!(error = reasons(&error), "the server has ended");
        }
    };
    drain(ended, &stop, &options).await;
    Ok(())
}

async fn server_tls(tls: &ServerTls, timeout: Duration) -> io::Result<ServerTlsConfig> {
    let identity = identity(&tls.certificate, &tls.key).await?;
    let config = ServerTlsConfig::new().identity(identity).timeout(timeout);
    Ok(match &tls.client_ca {
        Some(path) => config.client_ca_root(Certificate::from_pem(certificates(path).await?)),
        None => config,
    })
}

fn unusable(error: tonic::transport::Error) -> io::Error {
    io::Error::other(reasons(&error))
}
