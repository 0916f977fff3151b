//! Certificates, authorities and listeners change while clients ask without a pause: no request fails, and whoever may come back
//! with a ticket does.

use crate::harness::{
    Authority, Proxy, TestCertificate, eventually, proxy::Builder, tls::Connector,
};
use rustls::{HandshakeKind, client::Resumption};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

const EVERYTHING: &str = r#"routes { route "all" { respond 200 "here\n" } }"#;
const CLIENTS: usize = 4;
const RELOADS: usize = 8;

/// Clients that ask without a pause, each on one connection after the other and with a memory of its own.
struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    address: SocketAddr,
    /// By client.
    connectors: Mutex<Vec<Connector>>,
    /// Those that have come to their end, by client.
    connections: Vec<AtomicUsize>,
    full_handshakes: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    fn start(address: SocketAddr, connector: impl Fn() -> Connector) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            address,
            connectors: Mutex::new((0..CLIENTS).map(|_| connector()).collect()),
            connections: (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect(),
            full_handshakes: AtomicUsize::new(0),
            failures: Mutex::default(),
        });
        let threads = (0..CLIENTS)
            .map(|client| {
                let shared = shared.clone();
                thread::spawn(move || shared.ask(client))
            })
            .collect();
        let load = Self { shared, threads };
        load.goes_on();
        load
    }

    /// Waits until every client has made a connection from now on, and ended it.
    fn goes_on(&self) {
        let ended = || {
            let connections = self.shared.connections.iter();
            connections.map(|it| it.load(SeqCst)).collect::<Vec<_>>()
        };
        let before = ended();
        eventually("more connections of everybody", || {
            // One of them may have been under way.
            let mut both = before.iter().zip(ended());
            both.all(|(before, now)| now >= before + 2).then_some(())
        });
    }

    /// From now on clients are these.
    fn become_others(&self, connector: impl Fn() -> Connector) {
        let mut connectors = self.shared.connectors.lock().unwrap();
        connectors.iter_mut().for_each(|it| *it = connector());
    }

    /// Handshakes so far that no ticket made shorter.
    fn full_handshakes(&self) -> usize {
        self.shared.full_handshakes.load(SeqCst)
    }

    fn end(self) {
        self.shared.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.shared.failures.lock().unwrap();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

impl Shared {
    fn ask(&self, client: usize) {
        while !self.stop.load(SeqCst) {
            let connector = self.connectors.lock().unwrap()[client].clone();
            if let Err(error) = self.ask_on_a_connection(&connector) {
                self.failures.lock().unwrap().push(error.to_string());
                return;
            }
            self.connections[client].fetch_add(1, SeqCst);
        }
    }

    fn ask_on_a_connection(&self, connector: &Connector) -> io::Result<()> {
        let mut client = connector.try_connect(self.address, "test")?;
        if client.tls().handshake_kind() == Some(HandshakeKind::Full) {
            self.full_handshakes.fetch_add(1, SeqCst);
        }
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
            let answer = client.try_response();
            if !answer.is_some_and(|answer| answer.status == 200 && answer.complete) {
                return Err(io::Error::other("no whole answer"));
            }
        }
        Ok(())
    }
}

fn remembering(authority: &Authority, identity: Option<&TestCertificate>) -> Connector {
    let mut config = authority.client_config(identity);
    config.resumption = Resumption::in_memory_sessions(8);
    Connector::new(config)
}

#[test]
fn certificates_change_under_load() {
    let authority = Authority::new("servers");
    let with = || Proxy::builder(EVERYTHING).tls(&authority.server(&["test"]));
    let proxy = with().start();
    let load = Load::start(proxy.address_of("http"), || remembering(&authority, None));
    for _ in 0..RELOADS {
        proxy.reload(&with());
        load.goes_on();
    }
    // Whoever has a ticket comes back with it, whatever is shown to others meanwhile.
    assert_eq!(load.full_handshakes(), CLIENTS);
    load.end();
}

#[test]
fn authorities_of_clients_change_under_load() {
    let servers = Authority::new("servers");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = servers.server(&["test"]);
    let with = |authorities: &str| -> Builder {
        Proxy::builder(EVERYTHING)
            .file("clients.pem", authorities)
            .tls_with(&server, r#"client-auth "require" ca="clients.pem""#)
    };
    let proxy = with(&old.pem()).start();
    let before = old.client("app", &[], &[]);
    let load = Load::start(proxy.address_of("http"), || {
        remembering(&servers, Some(&before))
    });
    // As it is done: both for a while, then clients take theirs, then only the new one is believed.
    proxy.reload(&with(&(old.pem() + &new.pem())));
    load.goes_on();
    let after = new.client("app", &[], &[]);
    load.become_others(|| remembering(&servers, Some(&after)));
    load.goes_on();
    proxy.reload(&with(&new.pem()));
    load.goes_on();
    // Everybody has shown a certificate again. After that tickets do.
    let shown = load.full_handshakes();
    load.goes_on();
    assert_eq!(load.full_handshakes(), shown);
    load.end();
    assert!(
        servers
            .connector_of(&before)
            .refusal(proxy.address_of("http"), "test")
            .is_some()
    );
}

#[test]
fn listeners_come_and_go_under_load() {
    let authority = Authority::new("servers");
    let (first, second) = (authority.server(&["test"]), authority.server(&["test"]));
    let with = |others: &str| -> Builder {
        let kdl = format!(
            r#"
            {EVERYTHING}
            listeners {{
                listener "http" {{ address "127.0.0.1:0"; tls {{ certificate "first.pem" key="first.key" }} }}
                {others}
            }}
            "#
        );
        Proxy::builder(kdl)
            .certificate("first", &first)
            .certificate("second", &second)
    };
    let others = r#"
        listener "other" { address "127.0.0.1:0"; tls { certificate "second.pem" key="second.key" } }
        listener "plain" { address "127.0.0.1:0"; h2c }
    "#;
    let proxy = with("").start();
    let load = Load::start(proxy.address_of("http"), || remembering(&authority, None));
    for _ in 0..RELOADS / 2 {
        proxy.reload(&with(others));
        let connector = authority.connector();
        // One that is there is served, also while the listener goes.
        let mut open = connector.connect(proxy.address_of("other"));
        assert_eq!(open.get("/", &[]).status, 200);
        open.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        proxy.reload(&with(""));
        assert_eq!(open.response().status, 200);
        load.goes_on();
    }
    assert_eq!(load.full_handshakes(), CLIENTS);
    load.end();
}
