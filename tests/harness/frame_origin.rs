//! An origin of HTTP/2 that answers with frames as it is told to, whether they are allowed or not.

use super::frames::{END_HEADERS, FrameClient, HEADERS, block, frame};
use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// A running origin. It stops accepting when it is dropped.
pub(crate) struct FrameOrigin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl FrameOrigin {
    /// Serves each connection like this. It is told which one it is, from 1 on, and has the other side's preface behind it.
    pub(crate) fn serving(serve: impl Fn(usize, &mut FrameClient) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            stopped: Arc::default(),
        };
        let (connections, stopped) = (origin.connections.clone(), origin.stopped.clone());
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                let number = connections.fetch_add(1, SeqCst) + 1;
                let serve = serve.clone();
                thread::spawn(move || {
                    if let Some(mut peer) = begin(stream.unwrap()) {
                        serve(number, &mut peer);
                    }
                });
            }
        });
        origin
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for FrameOrigin {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn begin(mut stream: TcpStream) -> Option<FrameClient> {
    // Longer than anything that is waited for: a thread that is left over ends by itself.
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .ok()?;
    stream.set_nodelay(true).ok()?;
    stream.read_exact(&mut [0; 24]).ok()?;
    Some(FrameClient::over(stream))
}

/// The head of an answer.
pub(crate) fn answer(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}
