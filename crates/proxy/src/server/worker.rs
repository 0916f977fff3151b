//! A worker: one thread with one runtime that steals nothing and from which nothing is stolen. It accepts from its own sockets,
//! and everything that a request touches on its way, connections to upstreams and agents included, is its own.

use super::{
    acceptor::Acceptor,
    connection::{Connection, Listener},
    http2,
    limits::ConnectionLimits,
    listeners::Assignment,
    stream::EdgeStream,
    wire::Listening,
};
use crate::{
    exchange::Forwarder,
    phases::Edge,
    snapshot::{Live, Serving, Snapshot},
    telemetry::Telemetry,
    upstream::connect,
};
use arc_swap::ArcSwap;
use pingora::{
    apps::HttpServerApp, protocols::http::ServerSession, proxy::HttpProxy, server::ShutdownWatch,
};
use std::{future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// A connection that was made just before its listener takes its leave has this long to begin with a request. Its client could
/// not know better; who is silent for longer is not about to ask.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(50);

/// What all workers share.
pub(crate) struct Shared {
    /// A file with the authorities of the system.
    pub(crate) authorities: String,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limits: Arc<ConnectionLimits>,
}

/// What a worker is told while it serves. Each order is confirmed when it has been carried out.
pub(super) enum Order {
    /// Connect to the agents of this snapshot; requests do not see it yet.
    Prepare(Arc<Snapshot>, oneshot::Sender<()>),
    /// Serve what was prepared, on these listeners and no others.
    Commit(Vec<Assignment>, oneshot::Sender<()>),
    /// Forget what was prepared.
    Discard(oneshot::Sender<()>),
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
pub(super) fn run(
    shared: &Shared,
    first: Arc<Snapshot>,
    orders: mpsc::Receiver<Order>,
    stage: watch::Receiver<Stage>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(shared, first, orders, stage));
    // Tasks that still run belong to clients that did not finish within the grace.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(
    shared: &Shared,
    first: Arc<Snapshot>,
    mut orders: mpsc::Receiver<Order>,
    mut stage: watch::Receiver<Stage>,
) {
    let forwarder = match Forwarder::new(&shared.authorities).await {
        Ok(forwarder) => forwarder,
        Err(error) => {
            tracing::error!(%error, "a worker cannot be made");
            return;
        }
    };
    let mut worker = Worker::new(shared, first, forwarder);
    loop {
        // An error means that whoever gives orders is gone, which is an end as well.
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => worker.obey(order).await,
                None => break,
            },
            _ = stage.wait_for(|stage| *stage >= Stage::Draining) => break,
        }
    }
    worker.stop_accepting(|_| true).await;
    let _ = stage.wait_for(|stage| *stage >= Stage::Ended).await;
}

/// What belongs to one worker.
struct Worker {
    proxy: Arc<HttpProxy<Edge>>,
    telemetry: Arc<Telemetry>,
    limits: Arc<ConnectionLimits>,
    /// What new requests take.
    live: Arc<Live>,
    prepared: Option<Serving>,
    accepting: Vec<Accepting>,
}

/// A listener that this worker accepts connections of.
struct Accepting {
    key: u64,
    listener: Arc<ArcSwap<Listener>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Worker {
    fn new(shared: &Shared, first: Arc<Snapshot>, forwarder: Forwarder) -> Self {
        let links = first.agents.attach(None);
        let live = Arc::new(Live::from_pointee(Serving {
            snapshot: first,
            links,
        }));
        let edge = Edge {
            live: live.clone(),
            telemetry: shared.telemetry.clone(),
            forwarder,
        };
        let mut proxy = HttpProxy::new(edge, connect::settings(&shared.authorities));
        proxy.handle_init_modules();
        Self {
            proxy: Arc::new(proxy),
            telemetry: shared.telemetry.clone(),
            limits: shared.limits.clone(),
            live,
            prepared: None,
            accepting: Vec::new(),
        }
    }

    async fn obey(&mut self, order: Order) {
        let done = match order {
            Order::Prepare(snapshot, done) => {
                let links = snapshot.agents.attach(Some(&self.live.load().links));
                self.prepared = Some(Serving { snapshot, links });
                done
            }
            Order::Commit(assignments, done) => {
                if let Some(prepared) = self.prepared.take() {
                    self.live.store(Arc::new(prepared));
                }
                self.assign(assignments).await;
                done
            }
            Order::Discard(done) => {
                self.prepared = None;
                done
            }
        };
        // Nobody waits any longer when the reload took too long; it is done all the same.
        let _ = done.send(());
    }

    /// Accepts on these listeners and no others.
    async fn assign(&mut self, assignments: Vec<Assignment>) {
        let wanted: Vec<u64> = assignments
            .iter()
            .map(|assignment| assignment.key)
            .collect();
        for assignment in assignments {
            let known = self
                .accepting
                .iter()
                .find(|accepting| accepting.key == assignment.key);
            match (known, assignment.socket) {
                (Some(accepting), _) => accepting.listener.store(assignment.listener),
                (None, Some(socket)) => {
                    self.accept(
                        assignment.key,
                        assignment.listener,
                        assignment.local,
                        socket,
                    );
                }
                (None, None) => {
                    tracing::error!(listener = %assignment.listener.id, "a worker has no socket for this listener");
                }
            }
        }
        self.stop_accepting(|accepting| !wanted.contains(&accepting.key))
            .await;
    }

    fn accept(&mut self, key: u64, listener: Arc<Listener>, local: SocketAddr, socket: Listening) {
        let listener = Arc::new(ArcSwap::new(listener));
        let stop = watch::Sender::new(false);
        let acceptor = Acceptor {
            proxy: self.proxy.clone(),
            limits: self.limits.clone(),
            telemetry: self.telemetry.clone(),
            listener: listener.clone(),
            local,
            shutdown: watch::Sender::new(false),
        };
        self.accepting.push(Accepting {
            key,
            listener,
            task: tokio::spawn(acceptor.accept(socket, stop.subscribe())),
            stop,
        });
    }

    /// Closes the sockets of these listeners. Their idle connections are closed, the others end after their request.
    async fn stop_accepting(&mut self, which: impl Fn(&Accepting) -> bool) {
        let (ending, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut self.accepting)
            .into_iter()
            .partition(|accepting| which(accepting));
        self.accepting = staying;
        for accepting in ending {
            accepting.stop.send_replace(true);
            // An error means that the task has panicked; its socket is closed with it.
            let _ = accepting.task.await;
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn drive(
    proxy: Arc<HttpProxy<Edge>>,
    mut stream: EdgeStream,
    shutdown: ShutdownWatch,
) {
    let connection = stream.connection().clone();
    let settled = connection.tls.as_ref().is_some_and(|tls| tls.http2);
    if settled || connection.listener.h2c {
        match speaks_http2(&mut stream, &connection, &shutdown).await {
            // Both have said that it would be HTTP/2.
            Some(false) if settled => return,
            Some(false) => {}
            Some(true) => {
                return http2::serve(proxy, stream, &shutdown).await;
            }
            None => return,
        }
    }
    serve_http1(&proxy, stream, &connection, &shutdown).await;
}

/// Whether the client begins with HTTP/2; `None` when it asks for nothing any more.
async fn speaks_http2(
    stream: &mut EdgeStream,
    connection: &Connection,
    shutdown: &ShutdownWatch,
) -> Option<bool> {
    let mut leaving = shutdown.clone();
    let mut begins = pin!(stream.begins_with_http2());
    let begins = tokio::select! {
        biased;
        begins = &mut begins => begins,
        () = told(&mut leaving) => last_request(&mut begins, connection).await?,
    };
    begins.ok()
}

/// What becomes of a connection whose listener or process takes its leave: a client that has asked for something has its
/// answer first, and one that has just come has a moment to ask. `None`: there is nothing to wait for.
async fn last_request<F: Future + Unpin>(serving: F, connection: &Connection) -> Option<F::Output> {
    if !connection.is_idle() {
        return Some(serving.await);
    }
    if connection.was_used() {
        return None;
    }
    let mut serving = serving;
    match tokio::time::timeout(FIRST_REQUEST_WITHIN, &mut serving).await {
        Ok(served) => Some(served),
        Err(_) if connection.is_idle() => None,
        Err(_) => Some(serving.await),
    }
}

/// Waits until the listener or the process takes its leave.
pub(super) async fn told(leaving: &mut ShutdownWatch) {
    // An error means that whoever would say so is gone, which is an end as well.
    let _ = leaving.wait_for(|leaving| *leaving).await;
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
    let mut leaving = shutdown.clone();
    let mut told = pin!(told(&mut leaving));
    loop {
        let mut serving = pin!(proxy.process_new_http(session, shutdown));
        let served = poll_fn(|cx| {
            // First, so that a request that has come already is seen before the connection counts as idle.
            if let Poll::Ready(served) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(served));
            }
            // Who waits for an answer gets it, so there is nothing to be told before the next time that this is idle.
            if !connection.is_idle() {
                return Poll::Pending;
            }
            told.as_mut().poll(cx).map(|()| None)
        });
        let Some(served) = served.await else {
            // Whatever comes of it is the last of this connection.
            last_request(&mut serving, connection).await;
            return;
        };
        let Some(reused) = served else {
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
