//! A worker: one thread with one runtime that steals nothing and from which nothing is stolen. It accepts from its own sockets,
//! and everything that a request touches on its way, connections to upstreams and agents included, is its own.

use super::{
    connection::{Connection, Listener},
    limits::ConnectionLimits,
    stream::EdgeStream,
};
use crate::{phases::Edge, snapshot::Live, telemetry::Telemetry};
use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::http::{
        ServerSession,
        v2::server::{H2Options, default_h2_options},
    },
    proxy::HttpProxy,
    server::{ShutdownWatch, configuration::ServerConf},
};
use portcullis_agent_manager::AgentManager;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) live: Arc<Live>,
    pub(crate) agents: Arc<AgentManager>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limits: Arc<ConnectionLimits>,
}

/// A listener's socket of one worker, bound already.
pub(crate) struct Socket {
    pub(crate) listener: Arc<Listener>,
    pub(crate) socket: std::net::TcpListener,
    pub(crate) local: SocketAddr,
}

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Running,
    /// No new connections; idle ones are closed, others end after their request.
    Draining,
    /// Everything ends now.
    Ended,
}

/// The body of a worker's thread; returns when the process ends.
///
/// # Errors
/// The runtime cannot be made.
pub(crate) fn run(
    shared: &Shared,
    sockets: Vec<Socket>,
    stage: watch::Receiver<Stage>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(shared, sockets, stage));
    // Tasks that still run belong to clients that did not finish within the grace.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(shared: &Shared, sockets: Vec<Socket>, mut stage: watch::Receiver<Stage>) {
    let edge = Edge {
        live: shared.live.clone(),
        links: shared.agents.attach(),
        telemetry: shared.telemetry.clone(),
    };
    let settings = Arc::new(ServerConf {
        threads: 1,
        ..ServerConf::default()
    });
    let mut proxy = HttpProxy::new(edge, settings);
    proxy.handle_init_modules();
    let proxy = Arc::new(proxy);
    let shutdown = watch::Sender::new(false);
    let mut acceptors = JoinSet::new();
    for socket in sockets {
        let acceptor = Acceptor {
            proxy: proxy.clone(),
            limits: shared.limits.clone(),
            telemetry: shared.telemetry.clone(),
            listener: socket.listener,
            local: socket.local,
            shutdown: shutdown.subscribe(),
        };
        acceptors.spawn(acceptor.accept(socket.socket));
    }
    // An error means that whoever tells the stage is gone, which is an end as well.
    let _ = stage.wait_for(|stage| *stage >= Stage::Draining).await;
    acceptors.shutdown().await;
    shutdown.send_replace(true);
    proxy.http_cleanup().await;
    let _ = stage.wait_for(|stage| *stage >= Stage::Ended).await;
}

/// Accepts the connections of one listener on one worker.
struct Acceptor {
    proxy: Arc<HttpProxy<Edge>>,
    limits: Arc<ConnectionLimits>,
    telemetry: Arc<Telemetry>,
    listener: Arc<Listener>,
    local: SocketAddr,
    shutdown: ShutdownWatch,
}

impl Acceptor {
    async fn accept(self, socket: std::net::TcpListener) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = %self.listener.id, %error, "listener cannot be used");
                return;
            }
        };
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    // A client that went away again is its own affair; a lack of descriptors passes, but not at once.
                    if !is_clients_fault(&error) {
                        tracing::error!(listener = %self.listener.id, %error, "connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    fn admit(&self, socket: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let per_client = self.listener.limits.connections_per_client;
        let per_client = (!self.listener.trusts(peer.ip())).then_some(per_client);
        let permit = match self.limits.admit(peer.ip(), per_client) {
            Ok(permit) => permit,
            Err(limit) => return self.telemetry.rejected(&self.listener.id, peer, limit),
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "connection lost before it was used");
            return;
        }
        let local = socket.local_addr().unwrap_or(self.local);
        let connection = Connection::new(
            self.listener.clone(),
            peer,
            SocketAddr::new(local.ip().to_canonical(), local.port()),
            self.telemetry.clone(),
            permit,
        );
        let stream = EdgeStream::new(socket, Arc::new(connection));
        tokio::spawn(drive(self.proxy.clone(), stream, self.shutdown.clone()));
    }
}

fn is_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Serves one connection to its end.
async fn drive(proxy: Arc<HttpProxy<Edge>>, mut stream: EdgeStream, shutdown: ShutdownWatch) {
    let connection = stream.connection().clone();
    if connection.listener.h2c {
        let mut ending = shutdown.clone();
        let begins = tokio::select! {
            begins = stream.begins_with_http2() => begins,
            // Nothing was asked, so nobody waits for an answer.
            _ = ending.wait_for(|ending| *ending) => return,
        };
        match begins {
            Ok(false) => {}
            Ok(true) => {
                let app = Arc::new(Http2App::new(proxy, &connection.listener));
                app.process_new(Box::new(stream), &shutdown).await;
                return;
            }
            Err(_) => return,
        }
    }
    serve_http1(&proxy, stream, &connection, &shutdown).await;
}

async fn serve_http1(
    proxy: &Arc<HttpProxy<Edge>>,
    stream: EdgeStream,
    connection: &Connection,
    shutdown: &ShutdownWatch,
) {
    let listener = &connection.listener;
    let mut session = ServerSession::new_http1(Box::new(stream));
    // Zero is "without end": the stream keeps the deadlines between requests.
    session.set_keepalive(Some(0));
    let reuses = listener.limits.requests_per_connection.saturating_sub(1);
    session.set_keepalive_reuses_remaining(Some(u32::try_from(reuses).unwrap_or(u32::MAX)));
    loop {
        let Some(reused) = proxy.process_new_http(session, shutdown).await else {
            return;
        };
        let (stream, settings) = reused.consume();
        connection.expect_head();
        session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
    }
}

/// HTTP/2 with the limits of one listener.
struct Http2App {
    proxy: Arc<HttpProxy<Edge>>,
    options: HttpServerOptions,
    header_bytes: u32,
}

impl Http2App {
    fn new(proxy: Arc<HttpProxy<Edge>>, listener: &Listener) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(listener.timeouts.keepalive);
        let head = listener.limits.header_bytes.bytes() + listener.limits.uri_bytes.bytes();
        Self {
            proxy,
            options,
            header_bytes: u32::try_from(head).unwrap_or(u32::MAX),
        }
    }
}

#[async_trait]
impl HttpServerApp for Http2App {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        // Pingora's own limits are the start: a bare set of options would lose them.
        let mut options = default_h2_options();
        options
            .max_header_list_size(self.header_bytes)
            .max_concurrent_streams(100)
            .max_concurrent_reset_streams(50)
            .max_pending_accept_reset_streams(20)
            .max_send_buffer_size(256 * 1024)
            .initial_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
