//! Accepts agents that dial, and bounds those of whom nothing is known yet.

use super::{
    super::proxy_id,
    places::{Client, GivesWay, Place, Places},
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
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

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

/// One that has connected.
enum Arrival {
    Unix(UnixStream),
    Tls(TcpStream, ReverseTls),
}

pub(super) async fn accept(listener: Listener, agents: Agents, places: Arc<Places>) {
    let lines = Arc::new(Mutex::new(Allowance::new(LINES_PER_SECOND, Instant::now())));
    loop {
        let (arrival, client) = match next(&listener).await {
            Ok(come) => come,
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
        let place = place(&door, client, &places, &lines);
        let lines = Arc::clone(&lines);
        tokio::spawn(async move {
            if let Err(error) = register(door, arrival, place).await {
                say(&lines, |dropped| in_vain(&error, dropped));
            }
        });
    }
}

async fn next(listener: &Listener) -> io::Result<(Arrival, Client)> {
    match listener {
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            let client = Client::User(stream.peer_cred()?.uid());
            Ok((Arrival::Unix(stream), client))
        }
        Listener::Tls(listener, tls) => {
            let (stream, client) = listener.accept().await?;
            let client = Client::at(client.ip());
            Ok((Arrival::Tls(stream, tls.clone()), client))
        }
    }
}

/// `None` for one that the door refuses unheard, which takes no time.
fn place(
    door: &ReverseDoor,
    client: Client,
    places: &Arc<Places>,
    lines: &Mutex<Allowance>,
) -> Option<(Place, GivesWay)> {
    if let Client::User(uid) = client
        && !door.expects_user(uid)
    {
        return None;
    }
    let (place, gives_way, gone) = places.take(client);
    if gone > 0 {
        say(lines, |dropped| {
            tracing::warn!(
                dropped,
                "too many are about to register, the oldest was closed"
            );
        });
    }
    Some((place, gives_way))
}

async fn register(
    door: ReverseDoor,
    arrival: Arrival,
    place: Option<(Place, GivesWay)>,
) -> Result<(), RegisterError> {
    let Some((place, gives_way)) = place else {
        return serve(door, arrival, ()).await.map(drop);
    };
    tokio::select! {
        ended = serve(door, arrival, place) => ended.map(drop),
        // Whoever wanted the place has said so.
        () = gives_way.wanted() => Ok(()),
    }
}

async fn serve(
    door: ReverseDoor,
    arrival: Arrival,
    place: impl Send,
) -> Result<CloseReason, RegisterError> {
    let registered = |agent: &str| tracing::info!(agent, "agent has registered");
    match arrival {
        Arrival::Unix(stream) => door.receive(stream, place, registered).await,
        Arrival::Tls(stream, tls) => door.receive_tls(stream, &tls, place, registered).await,
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
