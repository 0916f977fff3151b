//! Targets are asked whether they are in order: one task for each target, for the process and not for each worker, from when the
//! target comes until it goes. What it finds out is in the target's state, which every worker looks at.

mod grpc;
mod http;
mod verdict;

use super::{set::TargetSet, target::Target};
use pingora::{
    Result,
    connectors::{TransportConnector, http::Connector},
    upstreams::peer::{HttpPeer, Peer},
};
use portcullis_config::{HealthCheck, HealthCheckKind, UpstreamId};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
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
    retired: AtomicBool,
}

/// By the address of the target.
#[derive(Debug, Default)]
struct Tasks {
    /// Ends them when it is dropped.
    set: JoinSet<()>,
    known: HashMap<Option<Arc<str>>, AbortHandle>,
}

/// How the targets of an upstream are asked.
struct Check {
    upstream: UpstreamId,
    settings: HealthCheck,
    /// Made when they are needed: they read the certificates of the system.
    connector: OnceLock<Connector>,
    transport: OnceLock<TransportConnector>,
    permits: Semaphore,
}

impl Probers {
    pub(super) fn new(settings: &HealthCheck, upstream: &UpstreamId) -> Self {
        Self {
            check: Arc::new(Check {
                upstream: upstream.clone(),
                settings: settings.clone(),
                connector: OnceLock::new(),
                transport: OnceLock::new(),
                permits: Semaphore::new(AT_ONCE),
            }),
            tasks: Mutex::default(),
            retired: AtomicBool::new(false),
        }
    }

    /// From now on these are the targets. Has to be called where there is a runtime; without one nobody is asked, as in tests of
    /// other things.
    pub(super) fn watch(&self, targets: &TargetSet) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.retired.load(Relaxed) {
            return;
        }
        // Every change is whole, so a poisoned lock loses nothing.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Tasks { set, known } = &mut *tasks;
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
        self.retired.store(true, Relaxed);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        *tasks = Tasks::default();
    }
}

/// Asks a target for as long as it is one.
async fn probe(check: Arc<Check>, target: Arc<Target>) {
    /// The first question comes at once, but not to all targets at the same moment.
    const SPREAD: Duration = Duration::from_millis(50);
    let settings = &check.settings;
    let mut verdict = Verdict::new(settings, target.state.health());
    tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
    loop {
        let found = check.examine(&target).await;
        let problem = found.err();
        target.state.checked(problem.as_deref());
        if let Some(is_healthy) = verdict.add(problem.is_none()) {
            let was = target.state.health();
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
                let make = || TransportConnector::new(None);
                let transport = self.transport.get_or_init(make);
                transport.new_stream(&peer).await?;
                Ok(Ok(()))
            }
            HealthCheckKind::Http {
                path,
                host,
                expected,
            } => {
                let host = named(host.as_deref(), target);
                http::ask(self.connector(), &peer, path, host, expected).await
            }
            HealthCheckKind::Grpc { service, host } => {
                let host = named(host.as_deref(), target);
                grpc::ask(self.connector(), &peer, service, host).await
            }
        }
    }

    fn connector(&self) -> &Connector {
        self.connector.get_or_init(|| Connector::new(None))
    }

    /// As requests connect, but with the waits of the question.
    fn peer(&self, target: &Target) -> HttpPeer {
        let mut peer = target.peer.clone();
        if let Some(options) = peer.get_mut_peer_options() {
            let timeout = Some(self.settings.timeout);
            options.connection_timeout = timeout;
            options.total_connection_timeout = timeout;
            options.read_timeout = timeout;
            options.write_timeout = timeout;
        }
        peer
    }
}

fn named<'a>(host: Option<&'a str>, target: &'a Target) -> &'a str {
    host.or(target.address.as_deref()).unwrap_or_default()
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
