//! Accepts agents that dial, and bounds those of whom nothing is known yet.

use super::super::{
    limits::{ConnectionLimits, PerClient, Permit},
    proxy_id,
};
use portcullis_agent_manager::Allowance;
use portcullis_agent_protocol::{
    CloseReason, RegisterError, ReverseAgent, ReverseDoor, ReverseTls,
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// So many may be about to register at one place at once. At a socket further ones wait; at an address they are closed, since
/// anybody could keep others waiting there.
const REGISTERING: usize = 64;
/// How many of those at an address may come from one client.
const REGISTERING_PER_CLIENT: usize = 16;
/// How long nothing is accepted after accepting went wrong.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Lines in a second about those who came in vain, because anybody can come.
const LINES_PER_SECOND: u32 = 10;

/// Those who may register at a place.
pub(super) type Agents = Arc<Mutex<Vec<ReverseAgent>>>;

pub(super) enum Listener {
    Unix(UnixListener),
    Tls(TcpListener, ReverseTls),
}

/// One that has connected, and the place that it has until it has registered.
enum Arrival {
    Unix(UnixStream, OwnedSemaphorePermit),
    Tls(TcpStream, ReverseTls, Permit),
}

pub(super) async fn accept(listener: Listener, agents: Agents) {
    let places = Arc::new(Semaphore::new(REGISTERING));
    let limits = Arc::new(ConnectionLimits::new(REGISTERING));
    let lines = Arc::new(Mutex::new(Allowance::new(LINES_PER_SECOND, Instant::now())));
    loop {
        let arrival = match &listener {
            Listener::Unix(listener) => from_socket(listener, &places).await,
            Listener::Tls(listener, tls) => from_network(listener, tls, &limits).await,
        };
        let arrival = match arrival {
            Ok(Some(arrival)) => arrival,
            Ok(None) => {
                say(&lines, |dropped| {
                    tracing::warn!(dropped, "too many are about to register, one was closed");
                });
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept agents that dial");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
        let door = ReverseDoor {
            agents: agents.clone(),
            proxy_id: proxy_id(),
        };
        drop(agents);
        let lines = Arc::clone(&lines);
        tokio::spawn(async move {
            if let Err(error) = register(door, arrival).await {
                say(&lines, |dropped| in_vain(&error, dropped));
            }
        });
    }
}

async fn from_socket(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<Option<Arrival>> {
    // Nobody closes it.
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok(Some(Arrival::Unix(stream, place)))
}

async fn from_network(
    listener: &TcpListener,
    tls: &ReverseTls,
    limits: &Arc<ConnectionLimits>,
) -> io::Result<Option<Arrival>> {
    let (stream, client) = listener.accept().await?;
    let place = limits.admit(client.ip(), Some(PerClient::in_all(REGISTERING_PER_CLIENT)));
    Ok(place
        .ok()
        .map(|place| Arrival::Tls(stream, tls.clone(), place)))
}

async fn register(door: ReverseDoor, arrival: Arrival) -> Result<CloseReason, RegisterError> {
    let log = |agent: &str| tracing::info!(agent, "agent has registered");
    match arrival {
        Arrival::Unix(stream, place) => {
            let registered = |agent: &str| {
                drop(place);
                log(agent);
            };
            door.receive(stream, registered).await
        }
        Arrival::Tls(stream, tls, place) => {
            let registered = |agent: &str| {
                drop(place);
                log(agent);
            };
            door.receive_tls(stream, &tls, registered).await
        }
    }
}

fn in_vain(error: &RegisterError, dropped: u64) {
    let agent = match error {
        RegisterError::Refused { id, .. } => id.as_str(),
        _ => "",
    };
    tracing::warn!(agent, %error, dropped, "a registration came to nothing");
}

/// Says something unless too much has been said; with how much was left out before.
fn say(lines: &Mutex<Allowance>, line: impl FnOnce(u64)) {
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let allowed = lines.take(Instant::now());
    drop(lines);
    if let Some(dropped) = allowed {
        line(dropped);
    }
}
