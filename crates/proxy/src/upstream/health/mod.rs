//! Targets are asked whether they are in order: one task for each target, for the process and not for each worker, from when the
//! target comes until it goes. What it finds out is in the target's state, which every worker looks at.

mod grpc;
mod http;
mod verdict;

use super::{
    connect,
    proxy_header::{self, Introduced},
    set::TargetSet,
    target::Target,
};
use ::http::Uri;
use pingora::{
    Error,
    ErrorType::InvalidHTTPHeader,
    Result,
    connectors::{ConnectorOptions, TransportConnector, http::Connector},
    protocols::http::client::HttpSession,
    upstreams::peer::{HttpPeer, Peer},
};
use portcullis_config::{HealthCheck, HealthCheckKind, ProxyProtocol, Upstream, UpstreamId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};
use verdict::Verdict;

/// Targets of an upstream that are asked at the same moment; others wait.
const AT_ONCE: usize = 32;

/// The tasks of an upstream.
#[derive(Debug)]
pub(super) struct Probers {
    check: Arc<Check>,
    tasks: Mutex<Tasks>,
}

/// By the address of the target.
#[derive(Debug, Default)]
struct Tasks {
    stage: Stage,
    /// Ends them when it is dropped.
    set: JoinSet<()>,
    known: HashMap<Option<Arc<str>>, AbortHandle>,
}

/// Whether anybody is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Not yet: another configuration has the targets, and may keep them.
    #[default]
    Waiting,
    Asking,
    /// Not any longer.
    Retired,
}

/// How the targets of an upstream are asked.
struct Check {
    upstream: UpstreamId,
    settings: HealthCheck,
    send_proxy_protocol: Option<ProxyProtocol>,
    connectors: Arc<Connectors>,
    permits: Semaphore,
}

/// What connections of checks are made with, all of the process.
pub(crate) struct Connectors {
    /// A file.
    authorities: String,
    /// Made when they are needed: they read the authorities, and many configurations ask nobody.
    http: OnceLock<Connector>,
    transport: OnceLock<TransportConnector>,
}

impl Connectors {
    /// The file has the authorities that are believed where an upstream names none.
    pub(crate) const fn new(authorities: String) -> Self {
        Self {
            authorities,
            http: OnceLock::new(),
            transport: OnceLock::new(),
        }
    }

    fn http(&self) -> &Connector {
        let make = || Connector::new(Some(self.options()));
        self.http.get_or_init(make)
    }

    fn transport(&self) -> &TransportConnector {
        let make = || TransportConnector::new(Some(self.options()));
        self.transport.get_or_init(make)
    }

    fn options(&self) -> ConnectorOptions {
        ConnectorOptions::from_server_conf(&connect::settings(&self.authorities))
    }
}

impl Probers {
    /// They ask nobody before [`begin`](Self::begin). `None`: there is nothing to ask.
    pub(super) fn new(upstream: &Upstream, connectors: &Arc<Connectors>) -> Option<Self> {
        let settings = upstream.health_check.as_ref()?;
        Some(Self {
            check: Arc::new(Check {
                upstream: upstream.id.clone(),
                settings: settings.clone(),
                send_proxy_protocol: upstream.send_proxy_protocol,
                connectors: connectors.clone(),
                permits: Semaphore::new(AT_ONCE),
            }),
            tasks: Mutex::default(),
        })
    }

    /// The configuration has taken effect, or nobody else has its targets.
    pub(super) fn begin(&self, targets: &TargetSet) {
        let mut tasks = self.tasks();
        if tasks.stage == Stage::Waiting {
            tasks.stage = Stage::Asking;
        }
        drop(tasks);
        self.watch(targets);
    }

    /// From now on these are the targets. Has to be called where there is a runtime; without one nobody is asked, as in tests of
    /// other things.
    pub(super) fn watch(&self, targets: &TargetSet) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut tasks = self.tasks();
        let Tasks { stage, set, known } = &mut *tasks;
        if *stage != Stage::Asking {
            return;
        }
        while set.try_join_next().is_some() {}
        known.retain(|address, task| {
            let stays = targets.targets().any(|target| target.address == *address);
            if !stays {
                task.abort();
            }
            stays
        });
        for target in targets.targets() {
            known.entry(target.address.clone()).or_insert_with(|| {
                let probing = probe(self.check.clone(), target.clone());
                set.spawn_on(probing, &runtime)
            });
        }
    }

    /// Another configuration has taken over. Requests may go on to have this one for a long time.
    pub(super) fn retire(&self) {
        *self.tasks() = Tasks {
            stage: Stage::Retired,
            ..Tasks::default()
        };
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a target for as long as it is one.
async fn probe(check: Arc<Check>, target: Arc<Target>) {
    /// The first question comes at once, but not to all targets at the same moment.
    const SPREAD: Duration = Duration::from_millis(50);
    let settings = &check.settings;
    let mut verdict = Verdict::new(settings);
    tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
    loop {
        let found = check.examine(&target).await;
        let problem = found.err();
        target.state.checked(problem.as_deref());
        let was = target.state.health();
        if let Some(is_healthy) = verdict.add(was, problem.is_none()) {
            target.state.set_health(is_healthy, Instant::now());
            let upstream = &check.upstream;
            let address = target.address.as_deref().unwrap_or_default();
            if !is_healthy {
                let problem = problem.unwrap_or_default();
                tracing::warn!(%upstream, address, problem, "target is unhealthy");
            } else if was == Some(false) {
                tracing::info!(%upstream, address, "target is healthy again");
            }
        }
        // Targets and replicas of the proxy drift apart by it.
        let factor = 0.9 + 0.2 * rand::random::<f64>();
        tokio::time::sleep(settings.interval.mul_f64(factor)).await;
    }
}

impl Check {
    /// # Errors
    /// What is wrong with the target, for people.
    async fn examine(&self, target: &Target) -> std::result::Result<(), String> {
        let Ok(_permit) = self.permits.acquire().await else {
            return Ok(());
        };
        let asked = tokio::time::timeout(self.settings.timeout, self.answer(target));
        match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.etype().as_str().to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    async fn answer(&self, target: &Target) -> Result<std::result::Result<(), String>> {
        let peer = self.peer(target);
        match &self.settings.kind {
            HealthCheckKind::Tcp => {
                self.connectors.transport().new_stream(&peer).await?;
                Ok(Ok(()))
            }
            HealthCheckKind::Http {
                path,
                host,
                expected,
            } => {
                let host = named(host.as_deref(), target);
                http::ask(self.connectors.http(), &peer, path, host, expected).await
            }
            HealthCheckKind::Grpc { service, host } => {
                let host = named(host.as_deref(), target);
                grpc::ask(self.connectors.http(), &peer, service, host).await
            }
        }
    }

    /// As requests connect, but with the waits of the question, on behalf of nobody, and never over a connection of another
    /// question: one that is kept would not show that no more are taken.
    fn peer(&self, target: &Target) -> HttpPeer {
        let mut peer = target.peer.clone();
        if let Some(options) = peer.get_mut_peer_options() {
            let timeout = Some(self.settings.timeout);
            options.connection_timeout = timeout;
            options.total_connection_timeout = timeout;
            options.read_timeout = timeout;
            options.write_timeout = timeout;
            // Pingora shares out a connection of HTTP/2 that has room for more, also one that was never given back.
            options.max_h2_streams = 1;
            if let Some(version) = self.send_proxy_protocol {
                let header = proxy_header::of_our_own(version);
                options.custom_l4 = Some(Arc::new(Introduced { header }));
            }
        }
        peer
    }
}

/// The host that is asked for, by default the address. That of a socket is a path, which is no host.
fn named<'a>(host: Option<&'a str>, target: &'a Target) -> &'a str {
    let is_of_network = target.peer.address().as_inet().is_some();
    let address = target.address.as_deref().filter(|_| is_of_network);
    host.or(address).unwrap_or("localhost")
}

/// Where HTTP/2 is asked. Left to itself, Pingora says `https` of every connection.
fn uri(peer: &HttpPeer, host: &str, path: &str) -> Result<Uri> {
    let scheme = if peer.is_tls() { "https" } else { "http" };
    Uri::builder()
        .scheme(scheme)
        .authority(host)
        .path_and_query(path)
        .build()
        .map_err(|error| Error::because(InvalidHTTPHeader, "no authority", error))
}

/// Whether the connection speaks another protocol than what is configured; requests would not be sent over it.
fn is_other(session: &HttpSession, peer: &HttpPeer) -> bool {
    let wants_http2 = peer.options.alpn.get_min_http_version() == 2;
    wants_http2 && !matches!(session, HttpSession::H2(_))
}

/// What is wrong with such a one.
const NO_HTTP2: &str = "the target does not agree to HTTP/2";

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Connectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connectors").finish_non_exhaustive()
    }
}
