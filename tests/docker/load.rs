//! Clients that ask until nobody listens any longer.

use super::docker::get;
use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub const CLIENTS: usize = 4;
/// They end then, whatever happens.
const LONGEST: Duration = Duration::from_secs(60);

/// Requests of one client that got no good answer.
#[derive(Debug, Default)]
pub struct Missed {
    /// An answer was begun and not finished, or was not the right one.
    pub lost: Vec<String>,
    /// Not a byte came: the proxy had not taken the connection any more, which is as good as a refusal.
    pub unheard: usize,
}

pub struct Load {
    answered: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Missed>>,
}

impl Load {
    /// Each client asks one request after the other, on new connections.
    pub fn start(address: SocketAddr) -> Self {
        let answered = Arc::new(AtomicUsize::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|_| {
                let (answered, over) = (answered.clone(), over.clone());
                thread::spawn(move || ask(address, &answered, &over))
            })
            .collect();
        Self {
            answered,
            over,
            clients,
        }
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Relaxed)
    }

    /// Waits for the clients.
    pub fn end(self) -> Missed {
        self.over.store(true, Relaxed);
        let mut all = Missed::default();
        for client in self.clients {
            let missed = client.join().unwrap();
            all.lost.extend(missed.lost);
            all.unheard += missed.unheard;
        }
        all
    }
}

/// A connection that is refused is the end: the listener is gone.
fn ask(address: SocketAddr, answered: &AtomicUsize, over: &AtomicBool) -> Missed {
    let mut missed = Missed::default();
    let end = Instant::now() + LONGEST;
    while !over.load(Relaxed) && Instant::now() < end {
        match get(address, "/hello") {
            Ok(response) if response.status == 200 => {
                answered.fetch_add(1, Relaxed);
            }
            Ok(response) => missed.lost.push(format!("status {}", response.status)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            Err(error) if is_unheard(&error) => missed.unheard += 1,
            Err(error) => missed.lost.push(error.to_string()),
        }
    }
    missed
}

fn is_unheard(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}
