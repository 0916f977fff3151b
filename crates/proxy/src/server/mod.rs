//! From a configuration to a running process: sockets, workers, agents, probes, other configurations, and the orderly end.

mod acceptor;
mod agents;
mod changes;
pub(crate) mod connection;
mod frames;
mod http2;
pub(crate) mod limits;
mod listeners;
mod private_dir;
mod proxy_protocol;
mod reload;
pub(crate) mod reverse;
mod signals;
mod socket;
mod stream;
pub(crate) mod tls;
mod unix_socket;
mod wire;
mod worker;
mod workers;

use crate::{
    admin::{self, Bounds, Health, Listeners as AdminListeners},
    exchange::{memory::BufferMemory, sockets::Sockets, tunnel::SOCKETS_CLOSE_WITHIN},
    recording::Recorder,
    snapshot::{Beside, Parts, Snapshot},
    telemetry::{Telemetry, access_log::AccessLog, logging, metrics::Metrics, notify},
    trace::{self, Recent},
    upstream::{echo, tls::write_authorities},
};
use limits::ConnectionLimits;
use listeners::Listeners;
use portcullis_agent_manager::{
    AgentManager, AgentObserver, AgentSettings,
    supervise::{STOP_GRACE, Supervisor},
};
use portcullis_config::{AgentId, Config, System};
use private_dir::PrivateDir;
use reverse::Doors;
use signals::{End, Signals, Wanted};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;
use worker::Shared;
use workers::Workers;

/// How long the start and a reload wait for names that nobody has asked for before. Their upstreams have no targets until they
/// are resolved, and a server of names that is not there keeps nobody from the others.
const TARGETS_FOUND_WITHIN: Duration = Duration::from_secs(3);
/// How long calls under way and connections to agents may take to end once no request needs them any more.
const AGENTS_CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Why the process could not start or go on. The text says what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(
        "listener \"{listener}\" cannot listen on {address}: {source}{}",
        listeners::advice(source)
    )]
    Bind {
        listener: String,
        address: String,
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] tls::TlsErrors),
    #[error("access log {path}: {source}")]
    AccessLog { path: String, source: io::Error },
    #[error("private folder for sockets: {0}")]
    PrivateDir(io::Error),
    #[error("{0}")]
    Compile(String),
    #[error("agent \"{agent}\" refuses: {reason}")]
    Agent { agent: AgentId, reason: String },
    #[error("a worker does not respond")]
    Worker,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a process is started with.
pub(crate) struct Start {
    pub(crate) config: Config,
    /// Reads the configuration again; `None` when it cannot be used, which has been reported then.
    pub(crate) load: Load,
    /// The log of the process, which obeys the configuration.
    pub(crate) log: logging::Handle,
}

/// Reads a configuration, on a thread that may wait for files.
pub(crate) type Load = Arc<dyn Fn() -> Option<Config> + Send + Sync>;

/// Serves until a signal ends the process.
///
/// # Errors
/// What kept it from starting.
pub(crate) fn serve(start: Start) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The thread that reads files for a reload is not needed for long.
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let ended = runtime.block_on(control(start));
    // Long enough for a task to notice, and short enough for nobody to wait.
    runtime.shutdown_timeout(Duration::from_millis(10));
    ended
}

/// Everything that is not a request: runs on the main thread, which lives as long as the process.
async fn control(start: Start) -> Result<(), ServeError> {
    let reload_asked = Arc::new(Notify::new());
    let mut signals = Signals::listen(reload_asked.clone())?;
    let mut process = Process::start(start, reload_asked).await?;
    notify::ready();
    let end = loop {
        match signals.next().await {
            Wanted::End(end) => break end,
            Wanted::Reopen => process.telemetry.access_log.reopen(),
            Wanted::Reload => {
                signals.reload_settles().await;
                // A configuration that takes long to take effect does not keep the process from ending.
                tokio::select! {
                    () = process.reload() => {}
                    end = signals.end() => break end,
                }
            }
        }
    };
    process.end(end, &mut signals).await;
    Ok(())
}

/// A process that serves.
struct Process {
    /// What is in effect.
    config: Config,
    load: Load,
    log: logging::Handle,
    executable: PathBuf,
    private: PrivateDir,
    telemetry: Arc<Telemetry>,
    limits: Arc<ConnectionLimits>,
    health: Arc<Health>,
    admin: AdminListeners,
    supervisor: Supervisor,
    doors: Doors,
    listeners: Listeners,
    workers: Workers,
    snapshot: Arc<Snapshot>,
    buffer_memory: Arc<BufferMemory>,
    sockets: Arc<Sockets>,
    beside: Beside,
    /// Told by agents that want the configuration to be read again and may have that.
    reload_asked: Arc<Notify>,
}

impl Process {
    async fn start(start: Start, reload_asked: Arc<Notify>) -> Result<Self, ServeError> {
        let Start { config, load, log } = start;
        let private = PrivateDir::create().map_err(ServeError::PrivateDir)?;
        let executable = std::env::current_exe()?;
        let telemetry = Arc::new(telemetry(&config)?);
        let mut listeners = Listeners::default();
        let tls = tls::load(&config.listeners, &listeners.tls())?;
        let plan = listeners.plan(&config.listeners, &tls, worker_count(&config.system))?;
        let limits = Arc::new(ConnectionLimits::new(config.system.max_connections));
        let mut supervisor = Supervisor::new(executable.clone(), private.path().to_owned());
        let health = Arc::new(Health::new(
            telemetry.clone(),
            limits.clone(),
            supervisor.board(),
        ));
        let mut admin = AdminListeners::default();
        let admin_plan = admin.plan(&config).await?;
        let echo = serve_echo(private.path())?;
        // From here on nothing fails that an operator could have mistaken.
        let mut doors = Doors::default();
        let (settings, doors_plan) = reached(&config, &executable, &mut supervisor, &doors).await?;
        doors.adopt(doors_plan);
        let buffer_memory = buffer_memory(&config.system);
        let sockets = Arc::new(Sockets::new(telemetry.metrics.open_sockets()));
        let authorities = write_authorities(private.path())?.display().to_string();
        let beside = Beside::start(&authorities)?;
        let parts = Parts {
            agents: manager(settings, None, &telemetry, &reload_asked),
            metrics: &telemetry.metrics,
            buffer_memory: &buffer_memory,
            sockets: &sockets,
            beside: &beside,
            echo_socket: &echo,
            previous: None,
        };
        let snapshot = Arc::new(Snapshot::compile(&config, &parts).map_err(ServeError::Compile)?);
        snapshot.targets_are_found(TARGETS_FOUND_WITHIN).await;
        health.serves(snapshot.clone(), agents::needed(&config));
        admin.adopt(admin_plan, &health);
        let shared = Arc::new(Shared {
            authorities,
            telemetry: telemetry.clone(),
            limits: limits.clone(),
        });
        let workers = Workers::start(plan.assignments.len(), &shared, &snapshot)?;
        let (assignments, adopted) = plan.split();
        workers.commit(assignments).await?;
        listeners.adopt(adopted, &telemetry.metrics.connections);
        telemetry.metrics.config.started();
        tracing::info!(workers = workers.count(), "ready to serve");
        Ok(Self {
            config,
            load,
            log,
            executable,
            private,
            telemetry,
            limits,
            health,
            admin,
            supervisor,
            doors,
            listeners,
            workers,
            snapshot,
            buffer_memory,
            sockets,
            beside,
            reload_asked,
        })
    }

    fn echo_socket(&self) -> PathBuf {
        echo_socket(self.private.path())
    }

    async fn end(self, end: End, signals: &mut Signals) {
        notify::stopping();
        self.health.drain();
        let mut agents_grace = Duration::ZERO;
        if end == End::InOrder {
            tokio::select! {
                () = self.drain() => agents_grace = STOP_GRACE,
                _ = signals.end() => tracing::warn!("second signal, ending at once"),
            }
        }
        self.workers.end();
        tokio::select! {
            () = self.supervisor.stop(agents_grace) => {}
            // Agents are killed with their parent.
            _ = signals.end() => tracing::warn!("second signal, not waiting for agents"),
        }
        self.telemetry.access_log.flush(Duration::from_secs(1));
        tracing::info!("ended");
    }

    /// Stops accepting, lets requests in flight finish, and returns when none is left or the grace is over.
    async fn drain(&self) {
        /// How often open connections are counted while the process ends.
        const POLL: Duration = Duration::from_millis(5);
        let (system, limits) = (&self.config.system, &self.limits);
        tracing::info!(open_connections = limits.open(), "ending: draining");
        tokio::time::sleep(system.drain_delay).await;
        self.workers.drain();
        let idle = async {
            while limits.open() > 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(system.shutdown_grace, idle)
            .await
            .is_err()
        {
            tracing::warn!(
                open_connections = limits.open(),
                "grace is over, closing what is left"
            );
        }
        let open = self.sockets.close(SOCKETS_CLOSE_WITHIN).await;
        if open > 0 {
            tracing::warn!(
                open,
                "some WebSockets are not closed, their connections are cut"
            );
        }
        let agents = &self.snapshot.agents;
        if let Err(left) = agents.shutdown(AGENTS_CLOSE_WITHIN).await {
            for (agent, connections) in left {
                tracing::warn!(%agent, connections, "agent still had work, its connections are cut");
            }
        }
    }
}

/// Starts the origin inside the binary and says where it listens.
fn serve_echo(private: &Path) -> io::Result<PathBuf> {
    let socket = echo_socket(private);
    admin::serve_unix(&socket, Arc::new(echo::EchoOrigin), Bounds::INTERNAL)?;
    Ok(socket)
}

fn echo_socket(private: &Path) -> PathBuf {
    private.join("echo.sock")
}

/// How the agents of a configuration are reached: those that do not run are started, sockets are bound for those that dial.
async fn reached(
    config: &Config,
    executable: &Path,
    supervisor: &mut Supervisor,
    doors: &Doors,
) -> Result<(Vec<AgentSettings>, reverse::Plan), ServeError> {
    let mut dialling = Vec::new();
    let settings = agents::settings(
        config,
        executable,
        |launch| supervisor.run(launch),
        |agent, reverse| {
            let agent = doors.agent(agent, reverse);
            dialling.push(agent.clone());
            agent
        },
    )
    .map_err(ServeError::Compile)?;
    let plan = doors.plan(&config.agents, &dialling).await?;
    Ok((settings, plan))
}

fn telemetry(config: &Config) -> Result<Telemetry, ServeError> {
    let metrics = Metrics::new();
    let settings = config.observability.access_log.as_ref();
    let dropped = metrics.access_log_dropped.clone();
    let access_log =
        AccessLog::open(settings, dropped).map_err(|source| access_log_error(config, source))?;
    Ok(Telemetry {
        metrics,
        access_log,
        recent: Recent::new(trace::kept(&config.observability, config.admin.is_some())),
        recordings: Arc::default(),
    })
}

fn access_log_error(config: &Config, source: io::Error) -> ServeError {
    let sink = config.observability.access_log.as_ref();
    ServeError::AccessLog {
        path: sink.map_or_else(String::new, |log| format!("{:?}", log.sink)),
        source,
    }
}

fn manager(
    settings: Vec<AgentSettings>,
    previous: Option<&AgentManager>,
    telemetry: &Telemetry,
    reload_asked: &Arc<Notify>,
) -> Arc<AgentManager> {
    let observer = |agent: &AgentId| -> Option<Arc<dyn AgentObserver>> {
        let metrics = telemetry.metrics.agent_observer(agent, reload_asked);
        Some(Arc::new(Recorder::new(
            agent,
            metrics,
            &telemetry.recordings,
        )))
    };
    Arc::new(AgentManager::new(settings, previous, &proxy_id(), observer))
}

fn buffer_memory(system: &System) -> Arc<BufferMemory> {
    let limit = bytes(system.buffer_memory);
    Arc::new(BufferMemory::new(limit, system.buffer_memory_per_client))
}

/// What no memory can hold is as good as no limit.
fn bytes(size: portcullis_config::ByteSize) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}

fn worker_count(system: &System) -> usize {
    match system.worker_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// What agents know this process by.
fn proxy_id() -> String {
    format!("portcullis-{}", std::process::id())
}
