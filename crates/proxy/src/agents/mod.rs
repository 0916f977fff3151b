//! The agents inside this binary. Each runs in a process of its own and is
//! an agent like any other: it is built on the agent library alone, and the
//! proxy knows nothing of it but its socket.

mod body_guard;
mod content;
mod denylist;
mod echo;
mod frame_guard;
pub(crate) mod mock;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use portcullis_agent_protocol::Extensions;
use portcullis_agent_protocol::server::{self, Agent, SOCKET_VARIABLE, ServeOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::body_guard::BodyGuard;
use self::denylist::Denylist;
use self::echo::Echo;
use self::frame_guard::FrameGuard;
use self::mock::{Mock, Spoils};

/// An agent to run as it is.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Builtin {
    /// Refuses bodies by what they hold, and takes out of them what nobody shall see
    BodyGuard(RunArgs),
    /// Blocks by path, user agent and client address
    Denylist(RunArgs),
    /// Allows everything, and adds a header to request and response
    Echo(RunArgs),
    /// Closes WebSockets by what their messages hold, how deep and how large they are
    FrameGuard(RunArgs),
}

/// How an agent of this binary runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    place: Place,

    /// A JSON file with the agent's configuration, until a proxy sends one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where an agent of this binary listens, and what it speaks.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The Unix socket to listen on; default: $PORTCULLIS_AGENT_SOCKET
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Serve gRPC at this address, without TLS, instead of a Unix socket
    #[arg(long, value_name = "ADDRESS", conflicts_with = "socket")]
    grpc: Option<SocketAddr>,

    /// Speak plain protocol version 2 in JSON, without extensions
    #[arg(long)]
    legacy: bool,
}

impl Builtin {
    fn parts(&self) -> (Arc<dyn Agent>, &RunArgs) {
        match self {
            Self::BodyGuard(args) => (Arc::new(BodyGuard::default()), args),
            Self::Denylist(args) => (Arc::new(Denylist::default()), args),
            Self::Echo(args) => (Arc::new(Echo::default()), args),
            Self::FrameGuard(args) => (Arc::new(FrameGuard::default()), args),
        }
    }
}

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
enum AgentRunError {
    #[error("no socket to listen on: give --socket or --grpc, or set {SOCKET_VARIABLE}")]
    NoSocket,
    #[error("cannot listen on {}: {error}", .path.display())]
    Bind { path: PathBuf, error: io::Error },
    #[error("cannot listen on {address}: {error}")]
    BindAddress {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("cannot read {}: {error}", .path.display())]
    ReadConfig { path: PathBuf, error: io::Error },
    #[error("{} is not JSON: {error}", .path.display())]
    ParseConfig {
        path: PathBuf,
        error: serde_json::Error,
    },
    #[error("the agent refuses {}: {reason}", .path.display())]
    RefusedConfig { path: PathBuf, reason: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs an agent until SIGTERM or SIGINT; it then finishes what it has. Says
/// on stderr where it listens, or why it does not.
pub(crate) fn run(builtin: &Builtin) -> ExitCode {
    let (agent, args) = builtin.parts();
    let name = agent.name().to_owned();
    let config = args.config.as_deref().map(read_config).transpose();
    let run = config.and_then(|config| run_agent(agent, &args.place, config, None));
    exit_code(&name, run)
}

/// The same for the agent that tests are made with.
pub(crate) fn run_mock(mock: Mock, place: &Place) -> ExitCode {
    let spoils = mock.spoils();
    let name = mock.name.clone();
    let run = run_agent(Arc::new(mock), place, None, spoils);
    exit_code(&name, run)
}

fn exit_code(name: &str, run: Result<(), AgentRunError>) -> ExitCode {
    let Err(error) = run else {
        return ExitCode::SUCCESS;
    };
    eprintln!("agent {name}: {error}");
    match error {
        AgentRunError::NoSocket => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

fn run_agent(
    agent: Arc<dyn Agent>,
    place: &Place,
    config: Option<(PathBuf, Value)>,
    spoils: Option<Spoils>,
) -> Result<(), AgentRunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(agent, place, config, spoils))
}

fn read_config(path: &Path) -> Result<(PathBuf, Value), AgentRunError> {
    let owned = || path.to_owned();
    let text = fs::read(path).map_err(|error| AgentRunError::ReadConfig {
        path: owned(),
        error,
    })?;
    let config = serde_json::from_slice(&text);
    let config = config.map_err(|error| AgentRunError::ParseConfig {
        path: owned(),
        error,
    })?;
    Ok((owned(), config))
}

async fn serve(
    agent: Arc<dyn Agent>,
    place: &Place,
    config: Option<(PathBuf, Value)>,
    spoils: Option<Spoils>,
) -> Result<(), AgentRunError> {
    if let Some((path, config)) = config {
        let configured = agent.configure(&config).await;
        configured.map_err(|reason| AgentRunError::RefusedConfig { path, reason })?;
    }
    // Before the socket is there, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut options = ServeOptions::default();
    if place.legacy {
        options.extensions = Extensions::NONE;
    }
    let says = |place: &dyn std::fmt::Display| {
        let (name, version) = (agent.name(), agent.version());
        eprintln!("agent {name} {version} listens on {place}");
    };
    if let Some(address) = place.grpc {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|error| AgentRunError::BindAddress { address, error })?;
        says(&listener.local_addr()?);
        server::serve_grpc(agent, listener, None, options, stop).await?;
        return Ok(());
    }
    let path = place.socket.clone().or_else(server::socket_from_env);
    let path = path.ok_or(AgentRunError::NoSocket)?;
    let bind = |path: &Path| {
        server::bind_socket(path).map_err(|error| AgentRunError::Bind {
            path: path.to_owned(),
            error,
        })
    };
    let listener = match spoils {
        None => bind(&path)?,
        Some(spoils) => {
            let inner = mock::inner_socket(&path);
            let listener = bind(&inner)?;
            tokio::spawn(mock::stand_before(inner, bind(&path)?, spoils));
            listener
        }
    };
    says(&path.display());
    server::serve(agent, listener, options, stop).await?;
    Ok(())
}
