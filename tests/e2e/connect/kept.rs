//! Which connections are kept for the next request, and for how long.

use super::TO_POOL;
use crate::harness::{Origin, Proxy, eventually};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// An origin that answers when it has as many requests as it waits for, and counts connections that were closed.
struct Together {
    address: SocketAddr,
    closed: Arc<AtomicUsize>,
}

impl Together {
    fn start(wanted: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (closed, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = closed.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (closed, waiting) = (count.clone(), waiting.clone());
                thread::spawn(move || {
                    while let Ok(1..) = stream.read(&mut [0; 4096]) {
                        waiting.fetch_add(1, SeqCst);
                        eventually("requests", || {
                            (waiting.load(SeqCst) >= wanted).then_some(())
                        });
                        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                    closed.fetch_add(1, SeqCst);
                });
            }
        });
        Self { address, closed }
    }

    fn wait_closed(&self, count: usize) {
        eventually("closed connections", || {
            (self.closed.load(SeqCst) == count).then_some(())
        });
    }
}

fn ask_at_once(proxy: &Proxy, count: usize) {
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| assert_eq!(proxy.get("/").status, 200));
        }
    });
}

#[test]
fn a_connection_is_kept_for_as_long_as_it_may_be_idle() {
    let origin = Together::start(1);
    let target = format!("target \"{}\"; keepalive idle=\"200ms\"", origin.address);
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    ask_at_once(&proxy, 1);
    // The default would keep it beyond the deadline of this.
    origin.wait_closed(1);
}

#[test]
fn no_more_connections_are_kept_than_may_be() {
    let origin = Together::start(4);
    let target = format!("target \"{}\"; keepalive connections=1", origin.address);
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    ask_at_once(&proxy, 4);
    origin.wait_closed(3);
    ask_at_once(&proxy, 1);
    assert!(origin.closed.load(SeqCst) <= 4);
}

#[test]
fn a_connection_that_may_not_be_kept_serves_one_request() {
    let origin = Origin::start();
    let target = format!("target \"{}\"; keepalive connections=0", origin.address());
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!(origin.connections(), 5);
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!(origin.connections(), 6);
}
