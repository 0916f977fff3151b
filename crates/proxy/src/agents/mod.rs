//! The agents inside this binary. Each runs in a process of its own and is
//! an agent like any other: it is built on the agent library alone, and the
//! proxy knows nothing of it but its socket.

mod body_guard;
mod content;
mod denylist;
mod echo;
mod frame_guard;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use portcullis_agent_protocol::Extensions;
use portcullis_agent_protocol::server::{self, Agent, SOCKET_VARIABLE, ServeOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::body_guard::BodyGuard;
use self::denylist::Denylist;
use self::echo::Echo;
use self::frame_guard::FrameGuard;

/// Which agent runs, and where.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArgs {
    /// The agent to run
    #[arg(value_enum)]
    pub(crate) name: AgentName,

    /// The Unix socket to listen on; default: $PORTCULLIS_AGENT_SOCKET
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Serve gRPC at this address, without TLS, instead of a Unix socket
    #[arg(long, value_name = "ADDRESS", conflicts_with = "socket")]
    pub(crate) grpc: Option<SocketAddr>,

    /// A JSON file with the agent's configuration, until a proxy sends one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Speak plain protocol version 2 in JSON, without extensions
    #[arg(long)]
    pub(crate) legacy: bool,
}

/// The agents that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AgentName {
    /// Refuses bodies by what they hold, and takes out of them what nobody shall see
    BodyGuard,
    /// Blocks by path, user agent and client address
    Denylist,
    /// Allows everything, and adds a header to request and response
    Echo,
    /// Closes WebSockets by what their messages hold, how deep and how large they are
    FrameGuard,
}

impl AgentName {
    fn agent(self) -> Arc<dyn Agent> {
        match self {
            Self::BodyGuard => Arc::new(BodyGuard::default()),
            Self::Denylist => Arc::new(Denylist::default()),
            Self::Echo => Arc::new(Echo::default()),
            Self::FrameGuard => Arc::new(FrameGuard::default()),
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
pub(crate) fn run(args: AgentArgs) -> ExitCode {
    match run_agent(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent {}: {error}", args.name.agent().name());
            match error {
                AgentRunError::NoSocket => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Where an agent listens.
enum Place {
    Socket(PathBuf),
    Grpc(SocketAddr),
}

fn run_agent(args: &AgentArgs) -> Result<(), AgentRunError> {
    let path = || {
        let path = args.socket.clone().or_else(server::socket_from_env);
        path.ok_or(AgentRunError::NoSocket)
    };
    let place = match args.grpc {
        Some(address) => Place::Grpc(address),
        None => Place::Socket(path()?),
    };
    let config = args.config.as_deref().map(read_config).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, &place, config))
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
    args: &AgentArgs,
    place: &Place,
    config: Option<(PathBuf, Value)>,
) -> Result<(), AgentRunError> {
    let agent = args.name.agent();
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
    if args.legacy {
        options.extensions = Extensions::NONE;
    }
    let says = |place: &dyn std::fmt::Display| {
        let (name, version) = (agent.name(), agent.version());
        eprintln!("agent {name} {version} listens on {place}");
    };
    match place {
        Place::Socket(path) => {
            let listener = server::bind_socket(path).map_err(|error| AgentRunError::Bind {
                path: path.clone(),
                error,
            })?;
            says(&path.display());
            server::serve(agent, listener, options, stop).await?;
        }
        Place::Grpc(address) => {
            let address = *address;
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|error| AgentRunError::BindAddress { address, error })?;
            says(&listener.local_addr()?);
            server::serve_grpc(agent, listener, None, options, stop).await?;
        }
    }
    Ok(())
}
