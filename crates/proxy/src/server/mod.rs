//! From a configuration to a running process: sockets, workers, agents, probes, and the orderly end.

pub(crate) mod connection;
pub(crate) mod limits;
mod private_dir;
mod sockets;
mod stream;
mod worker;

use crate::{
    admin::{self, Bounds, Health},
    snapshot::{Live, Parts, Snapshot},
    telemetry::{Telemetry, access_log::AccessLog, metrics::Metrics},
    upstream::echo,
};
use arc_swap::ArcSwap;
use limits::ConnectionLimits;
use portcullis_agent_manager::{
    AgentManager, AgentSettings, BreakerSettings, HeaderRules, OwnedHeaders, PoolSettings,
    SendHeaders,
    supervise::{Launch, Supervisor},
};
use portcullis_config::{AgentId, AgentTransport, Config, Origin, System};
use private_dir::PrivateDir;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use worker::{Shared, Stage};

/// A connection to an agent that is silent for this long, or for twice the agent's timeout if that is longer, is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Why the process could not start or go on. The text says what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(
        "listener \"{listener}\" cannot listen on {address}: {source}{}",
        sockets::advice(source)
    )]
    Bind {
        listener: String,
        address: String,
        source: io::Error,
    },
    #[error("access log {path}: {source}")]
    AccessLog { path: String, source: io::Error },
    #[error("private folder for sockets: {0}")]
    PrivateDir(io::Error),
    #[error("{0}")]
    Compile(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until a signal ends the process.
///
/// # Errors
/// What kept it from starting.
pub(crate) fn serve(config: &Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()?;
    let ended = runtime.block_on(control(config));
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

/// Everything that is not a request: runs on the main thread, which lives as long as the process.
async fn control(config: &Config) -> Result<(), ServeError> {
    let mut signals = Signals::listen()?;
    let private = PrivateDir::create().map_err(ServeError::PrivateDir)?;
    let telemetry = Arc::new(telemetry(config)?);
    let (settings, launches) = agents(config, private.path())?;
    let queue_wait = |agent: &AgentId| Some(telemetry.metrics.queue_wait(agent));
    let agents = Arc::new(AgentManager::new(settings, &proxy_id(), queue_wait));
    let echo_socket = private.path().join("echo.sock");
    let snapshot = compile(config, &agents, &telemetry, &echo_socket)?;
    let sockets = sockets::bind_all(&config.listeners, worker_count(&config.system))?;
    if config
        .upstreams
        .iter()
        .any(|upstream| upstream.origin == Origin::BuiltinEcho)
    {
        admin::serve_unix(&echo_socket, Arc::new(echo::EchoOrigin), Bounds::INTERNAL)?;
    }
    let limits = Arc::new(ConnectionLimits::new(config.system.max_connections));
    let health = Arc::new(Health::new(
        agents.clone(),
        telemetry.clone(),
        limits.clone(),
        closed_agents(config),
    ));
    admin::start(config, &health).await?;
    let executable = std::env::current_exe()?;
    let supervisor = Supervisor::start(launches, &executable);
    let stage = watch::Sender::new(Stage::Running);
    let shared = Arc::new(Shared {
        live: Arc::new(snapshot),
        agents: agents.clone(),
        telemetry: telemetry.clone(),
        limits: limits.clone(),
    });
    let workers = start_workers(&shared, sockets, &stage)?;
    telemetry.metrics.config_generation.set(1);
    tracing::info!(workers = workers.len(), "ready to serve");
    if signals.end().await == End::InOrder {
        health.drain();
        tokio::select! {
            () = drain(&config.system, &stage, &limits) => {}
            _ = signals.end() => tracing::warn!("second signal, ending at once"),
        }
    }
    stage.send_replace(Stage::Ended);
    agents.shutdown();
    supervisor.stop().await;
    for worker in workers {
        // A worker that panicked has nothing left to wait for.
        let _ = worker.join();
    }
    telemetry.access_log.flush(Duration::from_secs(1));
    tracing::info!("ended");
    Ok(())
}

/// The signals that the process obeys.
struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

/// How a signal wants the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Requests in flight are finished first.
    InOrder,
    AtOnce,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            // Without handlers these two would end the process.
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal that ends the process.
    async fn end(&mut self) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::InOrder,
                _ = self.quit.recv() => return End::InOrder,
                _ = self.interrupt.recv() => return End::AtOnce,
                _ = self.hangup.recv() => {
                    tracing::warn!("reload is not supported yet; the configuration stays as it is, restart to change it");
                }
                _ = self.reopen.recv() => {
                    tracing::warn!("reopening log files is not supported yet; rotate them with copytruncate");
                }
            }
        }
    }
}

/// Stops accepting, lets requests in flight finish, and returns when none is left or the grace is over.
async fn drain(system: &System, stage: &watch::Sender<Stage>, limits: &ConnectionLimits) {
    /// How often open connections are counted while the process ends.
    const POLL: Duration = Duration::from_millis(10);
    tracing::info!(open_connections = limits.open(), "ending: draining");
    tokio::time::sleep(system.drain_delay).await;
    stage.send_replace(Stage::Draining);
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
}

fn telemetry(config: &Config) -> Result<Telemetry, ServeError> {
    let metrics = Metrics::new();
    let access_log = match &config.observability.access_log {
        None => AccessLog::off(),
        Some(log) => AccessLog::open(&log.sink, log.format, metrics.access_log_dropped.clone())
            .map_err(|source| ServeError::AccessLog {
                path: format!("{:?}", log.sink),
                source,
            })?,
    };
    Ok(Telemetry {
        metrics,
        access_log,
    })
}

fn compile(
    config: &Config,
    agents: &Arc<AgentManager>,
    telemetry: &Telemetry,
    echo_socket: &Path,
) -> Result<Live, ServeError> {
    let parts = Parts {
        agents: agents.clone(),
        metrics: &telemetry.metrics,
        echo_socket,
    };
    let snapshot = Snapshot::compile(config, &parts).map_err(ServeError::Compile)?;
    Ok(ArcSwap::from_pointee(snapshot))
}

/// How the manager reaches each agent, and which of them have to be started.
fn agents(
    config: &Config,
    private: &Path,
) -> Result<(Vec<AgentSettings>, Vec<Launch>), ServeError> {
    let executable = std::env::current_exe()?;
    let mut settings = Vec::new();
    let mut launches = Vec::new();
    for (position, agent) in config.agents.iter().enumerate() {
        // Numbers, because the path of a socket may have only about a hundred bytes.
        let own_socket = private.join(format!("agent-{position}.sock"));
        let launch = |program: &Path, arguments: Vec<String>, env: &[(String, String)]| Launch {
            id: agent.id.clone(),
            program: program.to_owned(),
            arguments,
            env: env.to_vec(),
            socket: own_socket.clone(),
        };
        let socket = match &agent.transport {
            AgentTransport::UnixSocket(path) => path.clone(),
            AgentTransport::Command {
                program,
                arguments,
                env,
            } => {
                launches.push(launch(program, arguments.clone(), env));
                own_socket
            }
            AgentTransport::Builtin { name, env } => {
                let arguments = vec!["agent".to_owned(), name.name().to_owned()];
                launches.push(launch(&executable, arguments, env));
                own_socket
            }
        };
        settings.push(agent_settings(agent, socket));
    }
    Ok((settings, launches))
}

fn agent_settings(agent: &portcullis_config::Agent, socket: PathBuf) -> AgentSettings {
    let breaker = &agent.circuit_breaker;
    let patterns = |list: &[String]| OwnedHeaders::new(list.iter().map(String::as_str));
    AgentSettings {
        config: agent.config.clone().map(Arc::new),
        // An agent that takes its time over an answer may be silent for as long.
        ping_interval: PING_INTERVAL.max(agent.timeout * 2),
        max_concurrent_calls: agent.max_concurrent_calls,
        queue: agent.queue,
        breaker: BreakerSettings {
            failures: breaker.failures,
            successes: breaker.successes,
            open_for: breaker.open_for,
            probes: breaker.probes,
        },
        pool: PoolSettings {
            min: agent.pool.min,
            max: agent.pool.max,
        },
        headers: HeaderRules {
            owns: patterns(&agent.owns_headers),
            send: match &agent.send_headers {
                portcullis_config::SendHeaders::All => SendHeaders::All,
                portcullis_config::SendHeaders::Except(list) => SendHeaders::Except(patterns(list)),
                portcullis_config::SendHeaders::Only(list) => SendHeaders::Only(patterns(list)),
            },
        },
        ..AgentSettings::new(agent.id.clone(), socket)
    }
}

/// The agents without which some route refuses requests; readiness waits for them.
fn closed_agents(config: &Config) -> Vec<AgentId> {
    use portcullis_config::{FailureMode, Filter};
    let mut closed: Vec<_> = config
        .routes
        .iter()
        .flat_map(|route| &route.filters)
        .flat_map(|filter| match filter {
            Filter::Agent(used) => std::slice::from_ref(used),
            Filter::Parallel(uses) => uses,
            Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => &[],
        })
        .filter(|used| used.failure_mode == FailureMode::Closed)
        .map(|used| used.agent.clone())
        .collect();
    closed.sort();
    closed.dedup();
    closed
}

fn start_workers(
    shared: &Arc<Shared>,
    sockets: Vec<Vec<worker::Socket>>,
    stage: &watch::Sender<Stage>,
) -> io::Result<Vec<JoinHandle<()>>> {
    sockets
        .into_iter()
        .enumerate()
        .map(|(number, sockets)| {
            let shared = shared.clone();
            let stage = stage.subscribe();
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    if let Err(error) = worker::run(&shared, sockets, stage) {
                        tracing::error!(%error, "worker cannot run");
                    }
                })
        })
        .collect()
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
