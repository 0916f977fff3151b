//! Clients that ask until nobody listens any longer.

use super::docker::get;
use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const CLIENTS: usize = 4;
/// They end then, whatever happens.
const LONGEST: Duration = Duration::from_secs(60);

pub struct Load {
    answered: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
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

    /// Waits for the clients; what became of requests that had a connection and got no good answer.
    pub fn end(self) -> Vec<String> {
        self.over.store(true, Relaxed);
        let ended = self.clients.into_iter().map(JoinHandle::join);
        ended.flat_map(Result::unwrap).collect()
    }
}

/// A connection that is refused is the end: the listener is gone.
fn ask(address: SocketAddr, answered: &AtomicUsize, over: &AtomicBool) -> Vec<String> {
    let mut lost = Vec::new();
    let end = Instant::now() + LONGEST;
    while !over.load(Relaxed) && Instant::now() < end {
        match get(address, "/hello") {
            Ok(response) if response.status == 200 => {
                answered.fetch_add(1, Relaxed);
            }
            Ok(response) => lost.push(format!("status {}", response.status)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            Err(error) => lost.push(error.to_string()),
        }
    }
    lost
}
