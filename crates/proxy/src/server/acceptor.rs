//! Connections of one listener, from the moment they come in to the moment when it is known who is there: accepted, counted,
//! and with TLS over them where the listener speaks it.

use super::{
    connection::{Connection, Ends, Listener},
    limits::{ConnectionLimits, Permit, Rejection},
    listeners::BACKLOG,
    proxy_protocol::Said,
    socket::{Socket, Transport},
    stream::EdgeStream,
    tls::{self, Failure, TlsSession},
    wire::{Door, Listening, Wire},
    worker,
};
use crate::{
    phases::Edge,
    reply,
    telemetry::{Refused, Telemetry},
};
use arc_swap::ArcSwap;
use pingora::{proxy::HttpProxy, server::ShutdownWatch};
use portcullis_config::ListenerProxyProtocol;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// How long what a connection begins with may go on once its listener takes its leave.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// What a client of a Unix socket counts as, and our end of it.
pub(super) const SAME_MACHINE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Accepts the connections of one listener on one worker.
pub(super) struct Acceptor {
    pub(super) proxy: Arc<HttpProxy<Edge>>,
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) telemetry: Arc<Telemetry>,
    /// As it is configured now; a connection keeps what it found.
    pub(super) listener: Arc<ArcSwap<Listener>>,
    pub(super) local: SocketAddr,
    /// Tells the connections that their listener takes its leave.
    pub(super) shutdown: watch::Sender<bool>,
}

impl Acceptor {
    pub(super) async fn accept(self, socket: Listening, mut stop: watch::Receiver<bool>) {
        let socket = match socket.open() {
            Ok(socket) => socket,
            Err(error) => {
                let listener = &self.listener.load().id;
                tracing::error!(%listener, %error, "listener cannot be used");
                return;
            }
        };
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                // An error means that the worker is gone, which is an end as well.
                _ = stop.changed() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    // A client that went away again is its own affair; a lack of descriptors passes, but not at once.
                    if !is_clients_fault(&error) {
                        let listener = &self.listener.load().id;
                        tracing::error!(%listener, %error, "connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
        self.admit_who_waits(&socket).await;
        drop(socket);
        self.shutdown.send_replace(true);
    }

    /// Clients that the kernel has let in already may have asked something.
    async fn admit_who_waits(&self, socket: &Door) {
        for _ in 0..BACKLOG {
            let accepted = tokio::select! {
                biased;
                accepted = tokio::task::unconstrained(socket.accept()) => accepted,
                () = std::future::ready(()) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if is_clients_fault(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&self, socket: Wire, peer: Option<SocketAddr>) {
        let listener = self.listener.load_full();
        let is_remote = peer.is_some();
        let peer = peer.unwrap_or(SAME_MACHINE);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let is_trusted = listener.trusts(peer.ip());
        // All clients of a Unix socket have the same address, which is none.
        let is_counted = is_remote && !is_trusted;
        let per_client = is_counted.then(|| listener.per_client());
        let permit = match self.limits.admit(peer.ip(), per_client) {
            Ok(permit) => permit,
            Err(limit) => return self.telemetry.rejected(&listener.id, peer, limit),
        };
        if let Err(error) = socket.set_nodelay() {
            tracing::debug!(%error, "connection lost before it was used");
            return;
        }
        let local = socket.local().unwrap_or(self.local);
        let ends = Ends {
            peer,
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            is_trusted,
        };
        let arrival = Arrival {
            listener,
            ends,
            proxy: self.proxy.clone(),
            telemetry: self.telemetry.clone(),
            shutdown: self.shutdown.subscribe(),
            permit,
        };
        tokio::spawn(arrival.serve(Transport::new(socket)));
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

/// A connection that has been let in, and of which nothing is known yet but where it comes from.
struct Arrival {
    listener: Arc<Listener>,
    ends: Ends,
    proxy: Arc<HttpProxy<Edge>>,
    telemetry: Arc<Telemetry>,
    shutdown: ShutdownWatch,
    permit: Permit,
}

impl Arrival {
    /// Serves the connection to its end.
    async fn serve(mut self, mut transport: Transport) {
        if let Some(proxy_protocol) = self.listener.proxy_protocol
            && let Err(why) = self.introduce(proxy_protocol, &mut transport).await
        {
            let (listener, peer) = (&self.listener.id, self.ends.peer);
            return self.telemetry.rejected(listener, peer, why);
        }
        let Some((socket, tls)) = self.with_tls(transport).await else {
            return;
        };
        let connection = Connection::new(
            self.listener,
            self.ends,
            tls,
            self.telemetry,
            self.shutdown.clone(),
            self.permit,
        );
        let stream = EdgeStream::new(socket, Arc::new(connection));
        worker::drive(self.proxy, stream, self.shutdown).await;
    }

    /// Lets the proxy in front say who connects.
    async fn introduce(
        &mut self,
        settings: ListenerProxyProtocol,
        transport: &mut Transport,
    ) -> Result<(), Rejection> {
        if !self.ends.is_trusted {
            return Err(Rejection::UntrustedProxy);
        }
        let within = self.listener.timeouts.request_header;
        let header = timeout(within, transport.proxy_header());
        let said = unless_it_ends(&self.shutdown, header).await;
        let Some(Ok(Ok(said))) = said else {
            return Err(Rejection::ProxyHeader);
        };
        if let Said::For {
            client,
            destination,
        } = said
        {
            self.ends.peer = client;
            self.ends.local = destination;
        }
        let is_proxy = self.listener.trusts(self.ends.peer.ip());
        self.ends.is_trusted = settings.believes_forwarded && is_proxy;
        if is_proxy {
            return Ok(());
        }
        let most = self.listener.per_client();
        self.permit.count(self.ends.peer.ip(), most)
    }

    /// Shakes hands where the listener speaks TLS. `None`: there is no connection, and it is written down why.
    async fn with_tls(&self, transport: Transport) -> Option<(Socket, Option<TlsSession>)> {
        let Some(tls) = &self.listener.tls else {
            return Some((Socket::Plain(transport), None));
        };
        let deadline = Instant::now() + self.listener.timeouts.tls_handshake;
        let shaken = tls::handshake(transport, tls, deadline);
        let shaken = unless_it_ends(&self.shutdown, shaken).await?;
        match shaken {
            Ok((stream, session)) => Some((Socket::Tls(Box::new(stream)), Some(session))),
            Err(failure) => {
                self.refuse(failure).await;
                None
            }
        }
    }

    async fn refuse(&self, failure: Failure) {
        let (telemetry, listener) = (&self.telemetry, &self.listener.id);
        telemetry.handshake_failed(listener, self.ends.peer, &failure);
        let Some(transport) = failure.transport else {
            return;
        };
        telemetry.refused(listener, self.ends.peer, Refused::PlainHttp);
        let answer = reply::raw(Refused::PlainHttp.status());
        // If the client does not take these few bytes at once, it does not get them.
        let _ = timeout(BEGINS_WITHIN, transport.end_with(&answer)).await;
    }
}

/// Waits for what a connection begins with. Whoever has begun may go on when the listener takes its leave; who dawdles does not
/// hold up the end.
async fn unless_it_ends<T>(
    shutdown: &ShutdownWatch,
    beginning: impl Future<Output = T>,
) -> Option<T> {
    let mut leaving = shutdown.clone();
    let mut beginning = pin!(beginning);
    tokio::select! {
        biased;
        begun = &mut beginning => Some(begun),
        () = worker::told(&mut leaving) => timeout(BEGINS_WITHIN, beginning).await.ok(),
    }
}
