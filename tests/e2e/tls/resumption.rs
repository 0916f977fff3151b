//! Clients that come back.

use crate::harness::{
    Authority, Proxy, TestCertificate, eventually, proxy::Builder, tls::Connector,
};
use rustls::{HandshakeKind, client::Resumption};

const EVERYTHING: &str = r#"routes { route "all" { respond 204 } }"#;

/// How the handshakes were that a client made which remembers.
fn handshakes(proxy: &Proxy, connector: &Connector, count: usize) -> Vec<HandshakeKind> {
    (0..count)
        .map(|_| {
            let mut client = connector.connect(proxy.address_of("http"));
            // Over TLS 1.3 the ticket comes with the answer.
            assert_eq!(client.get("/", &[]).status, 204);
            client.tls().handshake_kind().unwrap()
        })
        .collect()
}

/// A client that remembers nothing so far.
fn remembering(authority: &Authority, identity: Option<&TestCertificate>) -> Connector {
    let mut config = authority.client_config(identity);
    config.resumption = Resumption::in_memory_sessions(8);
    Connector::new(config)
}

fn all_resumed(kinds: &[HandshakeKind]) -> bool {
    kinds.iter().all(|kind| *kind == HandshakeKind::Resumed)
}

#[test]
fn whoever_has_been_here_comes_back_faster_also_after_a_reload() {
    let authority = Authority::new("servers");
    let with = |certificate: &TestCertificate| Proxy::builder(EVERYTHING).tls(certificate);
    let proxy = with(&authority.server(&["test"])).start();
    let client = remembering(&authority, None);
    // Whichever worker takes the connection.
    let kinds = handshakes(&proxy, &client, 10);
    assert_eq!(kinds[0], HandshakeKind::Full);
    assert!(all_resumed(&kinds[1..]), "{kinds:?}");
    eventually("lines about nine that came back", || {
        let lines = proxy.access_lines();
        let resumed = lines.iter().filter(|line| line["tls_resumed"] == true);
        (resumed.count() == 9).then_some(())
    });
    // With another certificate, too.
    proxy.reload(&with(&authority.server(&["test"])));
    let kinds = handshakes(&proxy, &client, 10);
    assert!(all_resumed(&kinds), "{kinds:?}");
}

#[test]
fn what_was_shown_is_not_believed_once_something_else_is_asked() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let others = Authority::new("others");
    let server = servers.server(&["test"]);
    let with = |mode: &str, authorities: &str| -> Builder {
        let kdl = match mode {
            "off" => String::new(),
            mode => format!(r#"client-auth "{mode}" ca="clients.pem""#),
        };
        Proxy::builder(EVERYTHING)
            .file("clients.pem", authorities)
            .tls_with(&server, &kdl)
    };
    let proxy = with("off", "").start();
    let identity = clients.client("app", &[], &[]);
    let client = remembering(&servers, Some(&identity));
    assert!(all_resumed(&handshakes(&proxy, &client, 3)[1..]));
    // A ticket from the time when nobody was asked opens nothing.
    for (mode, authorities) in [
        ("request", clients.pem()),
        ("require", clients.pem()),
        ("require", clients.pem() + &others.pem()),
    ] {
        proxy.reload(&with(mode, &authorities));
        let kinds = handshakes(&proxy, &client, 3);
        assert_eq!(kinds[0], HandshakeKind::Full, "{mode}");
        assert!(all_resumed(&kinds[1..]), "{mode} {kinds:?}");
    }
    // The same is asked still, so tickets are good, and say who the client is.
    proxy.reload(&with("require", &(clients.pem() + &others.pem())));
    assert!(all_resumed(&handshakes(&proxy, &client, 3)));
    let line = proxy
        .access_line(|line| line["tls_resumed"] == true && !line["client_certificate"].is_null());
    assert_eq!(
        line["client_certificate"]["subject"],
        r"CN=app,O=Test\, Inc."
    );
    // An authority that is gone takes its clients with it.
    proxy.reload(&with("require", &others.pem()));
    assert!(client.refusal(proxy.address_of("http"), "test").is_some());
}
