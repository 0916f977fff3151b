//! The end of the process under load: what was begun is answered.

use crate::harness::{Answer, Origin, Proxy, RawClient, eventually, http2};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// More in the longer runs: `SIGTERMS=20`.
fn rounds() -> usize {
    let wanted = std::env::var("SIGTERMS").ok();
    wanted.map_or(4, |count| count.parse().unwrap())
}

/// What became of the requests of all clients, by path.
#[derive(Default)]
struct Outcomes {
    complete: Mutex<BTreeSet<String>>,
    /// The head of an answer came, and not all of the rest.
    broken: Mutex<BTreeSet<String>>,
    /// Not a byte came: the connection was refused, or ended before the request had arrived.
    nothing: Mutex<BTreeSet<String>>,
    count: AtomicUsize,
}

impl Outcomes {
    fn next(&self, client: &str) -> String {
        format!("/{client}/{}", self.count.fetch_add(1, Relaxed))
    }

    fn is(set: &Mutex<BTreeSet<String>>, path: String) {
        set.lock().unwrap().insert(path);
    }

    /// Whether an answer came at all.
    fn answered(&self, path: String, answer: Option<bool>) -> bool {
        match answer {
            Some(true) => Self::is(&self.complete, path),
            Some(false) => Self::is(&self.broken, path),
            None => Self::is(&self.nothing, path),
        }
        answer.is_some()
    }
}

/// Connections that are kept until the proxy closes them.
fn kept(address: SocketAddr, outcomes: &Outcomes) {
    while let Some(mut client) = RawClient::try_connect(address) {
        loop {
            let path = outcomes.next("kept");
            let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            let answer = client.send(head).try_response();
            let last = answer
                .as_ref()
                .is_none_or(|answer| answer.header("connection") == Some("close"));
            outcomes.answered(path, answer.map(|answer| answer.complete));
            if last {
                break;
            }
        }
    }
}

/// A connection for each request.
fn fresh(address: SocketAddr, outcomes: &Outcomes) {
    while let Some(mut client) = RawClient::try_connect(address) {
        let path = outcomes.next("fresh");
        // In two pieces, so that there are heads that have begun to arrive.
        client.send(format!("GET {path} HTTP/1.1\r\n"));
        thread::yield_now();
        let answer = client
            .send("host: a\r\nconnection: close\r\n\r\n")
            .try_response();
        outcomes.answered(path, answer.map(|answer| answer.complete));
    }
}

fn http2(address: SocketAddr, outcomes: &Outcomes) {
    while let Ok(client) = http2::Client::connect(address) {
        loop {
            let path = outcomes.next("http2");
            let answer = client.get(&path);
            let complete = answer.is_ok_and(|answer| answer.status() == 200);
            if !outcomes.answered(path, complete.then_some(true)) {
                break;
            }
        }
    }
}

#[test]
fn every_request_that_has_begun_is_answered() {
    for round in 0..rounds() {
        let origin = Origin::answering(|_| Answer::ok("a body that has to arrive whole"));
        let mut proxy = Proxy::builder(
            r#"
            system { worker-threads 2 }
            listeners { listener "http" { address "127.0.0.1:0"; h2c; limits { connections-per-client 10000 } } }
            routes { route "all" { filters { agent "guard" }; upstream "origin" } }
            "#,
        )
        .origin(&origin)
        .agent_block("guard", "builtin \"echo\"; timeout \"10s\"")
        .start();
        proxy.wait_ready();
        let address = proxy.address_of("http");
        let outcomes = Outcomes::default();
        thread::scope(|scope| {
            for client in [kept, kept, fresh, fresh, http2, http2] {
                let outcomes = &outcomes;
                scope.spawn(move || client(address, outcomes));
            }
            let enough = 200 + 37 * round;
            eventually("load", || {
                (outcomes.complete.lock().unwrap().len() > enough).then_some(())
            });
            proxy.signal(Signal::TERM);
            assert_eq!(proxy.wait_end().code(), Some(0));
        });
        check(&outcomes, &origin);
    }
}

fn check(outcomes: &Outcomes, origin: &Origin) {
    let complete = outcomes.complete.lock().unwrap();
    let nothing = outcomes.nothing.lock().unwrap();
    assert_eq!(*outcomes.broken.lock().unwrap(), BTreeSet::new());
    for request in origin.requests() {
        let path = request.target();
        assert!(
            complete.contains(&path),
            "{path} went to the origin and has no answer"
        );
    }
    // Whoever got nothing was told so at once and does not ask again.
    assert!(nothing.len() <= 2 * 6, "{nothing:?}");
    eprintln!(
        "{} complete, {} without a byte",
        complete.len(),
        nothing.len()
    );
}

#[test]
fn a_head_that_has_begun_is_read_to_its_end_and_answered() {
    let origin = Origin::start();
    let mut proxy = Proxy::in_front_of(&origin).start();
    let mut first = proxy.client();
    first.send("GET /first HTTP/1.1\r\nho");
    let mut next = proxy.client();
    assert_eq!(next.get("/", &[]).status, 200);
    next.send("G");
    // The pieces have arrived when a connection that was made after them is served.
    assert_eq!(proxy.get("/later").status, 200);
    proxy.signal(Signal::TERM);
    proxy.log_line(|line| line["message"] == "ending: draining");
    let address = proxy.address_of("http");
    eventually("the end of listening", || {
        TcpStream::connect(address).is_err().then_some(())
    });
    for (client, rest) in [
        (&mut first, "st: a\r\n\r\n"),
        (&mut next, "ET /next HTTP/1.1\r\nhost: a\r\n\r\n"),
    ] {
        let answer = client.send(rest).response();
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some("close"))
        );
        client.expect_closed();
    }
    assert_eq!(proxy.wait_end().code(), Some(0));
}
