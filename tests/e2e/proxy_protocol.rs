//! Proxies in front of us that say who the client is before its first byte.

use crate::harness::{Authority, Origin, Proxy, RawClient, eventually};
use std::net::TcpStream;

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 8443\r\n";
/// The same, from 2001:db8::9, with something about TLS behind the addresses.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x29\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \xc8\x22\x20\xfb\x01\x00\x02h2";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

const TRUSTED: &str = r#"proxy-protocol; trusted-proxies "127.0.0.1" "198.51.100.0/24""#;

/// Sends a request behind a header, and has it answered.
fn ask(proxy: &Proxy, header: &[u8], path: &str, lines: &str) {
    let mut client = proxy.client();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
    client.send(header).send(request);
    assert_eq!(client.response().status, 200, "{path}");
}

fn rejected(proxy: &Proxy, reason: &str, count: f64) {
    let labels = format!(r#"{{listener="http",reason="{reason}"}}"#);
    proxy.wait_metric(
        &format!("portcullis_connections_rejected_total{labels}"),
        count,
    );
}

#[test]
fn the_client_is_whom_a_trusted_proxy_names() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).listener(TRUSTED).start();
    for (path, header, client, port) in [
        ("/v1", V1, "203.0.113.9", Some("8443")),
        ("/v2", V2, "2001:db8::9", Some("8443")),
        ("/local", LOCAL, "127.0.0.1", None),
        ("/unknown", UNKNOWN, "127.0.0.1", None),
    ] {
        // What the client says of itself in headers counts for nothing.
        let forged =
            "x-forwarded-for: 192.0.2.66\r\nx-request-id: forged\r\nforwarded: for=192.0.2.66\r\n";
        ask(&proxy, header, path, forged);
        let request = origin.last();
        assert_eq!(request.header_values("x-forwarded-for"), [client], "{path}");
        assert_eq!(request.header_values("x-real-ip"), [client], "{path}");
        assert_ne!(request.header("x-request-id").unwrap(), "forged");
        if let Some(port) = port {
            assert_eq!(request.header_values("x-forwarded-port"), [port], "{path}");
        }
        assert_eq!(proxy.access_line_of(path)["client_ip"], client);
    }
    // One header counts for all requests of a connection.
    let mut client = proxy.client();
    client.send(V1);
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).status, 200);
        assert_eq!(
            origin.last().header_values("x-forwarded-for"),
            ["203.0.113.9"]
        );
    }
}

#[test]
fn forwarded_headers_are_believed_where_that_is_wanted() {
    let origin = Origin::start();
    let listener = TRUSTED.replace(
        "proxy-protocol",
        r#"proxy-protocol forwarded-headers="believe""#,
    );
    let proxy = Proxy::in_front_of(&origin).listener(&listener).start();
    let lines = "x-forwarded-for: 192.0.2.66\r\n";
    // From a proxy behind the proxy, and not from a client.
    ask(
        &proxy,
        b"PROXY TCP4 198.51.100.1 192.0.2.1 1 2\r\n",
        "/proxy",
        lines,
    );
    assert_eq!(proxy.access_line_of("/proxy")["client_ip"], "192.0.2.66");
    ask(&proxy, V1, "/client", lines);
    assert_eq!(proxy.access_line_of("/client")["client_ip"], "203.0.113.9");
}

#[test]
fn headers_come_in_pieces_in_front_of_tls_too() {
    let origin = Origin::start();
    let authority = Authority::new("servers");
    let tls = r#"tls { certificate "server.pem" key="server.key" }"#;
    let proxy = Proxy::in_front_of(&origin)
        .certificate("server", &authority.server(&["test"]))
        .listener(&format!("{TRUSTED}; {tls}"))
        .start();
    for (header, client) in [(V1, "203.0.113.9"), (V2, "2001:db8::9")] {
        let mut socket = TcpStream::connect(proxy.address_of("http")).unwrap();
        socket.set_nodelay(true).unwrap();
        for byte in header {
            std::io::Write::write_all(&mut socket, &[*byte]).unwrap();
        }
        let stream = authority
            .connector()
            .handshake_over(socket, "test")
            .unwrap();
        let mut over_tls = RawClient::over_tls(stream);
        assert_eq!(over_tls.get("/", &[]).status, 200);
        let request = origin.last();
        assert_eq!(request.header_values("x-forwarded-for"), [client]);
        assert_eq!(request.header_values("x-forwarded-proto"), ["https"]);
    }
}

#[test]
fn whoever_is_no_trusted_proxy_or_sends_no_header_is_closed() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(&format!(
            r#"{TRUSTED}; timeouts {{ request-header "200ms" }}"#
        ))
        .start();
    proxy
        .client()
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect_closed();
    rejected(&proxy, "proxy_header", 1.0);
    proxy.client().send(&V1[..20]).expect_closed();
    rejected(&proxy, "proxy_header", 2.0);
    proxy
        .client()
        .send(&V2[..20])
        .finish_sending()
        .expect_closed();
    rejected(&proxy, "proxy_header", 3.0);
    let endless = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5000]].concat();
    proxy.client().send(endless).expect_closed();
    rejected(&proxy, "proxy_header", 4.0);

    let elsewhere = r#"proxy-protocol; trusted-proxies "198.51.100.0/24""#;
    let strangers = Proxy::in_front_of(&origin).listener(elsewhere).start();
    let mut client = strangers.client();
    client
        .send(V1)
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect_closed();
    rejected(&strangers, "untrusted_proxy", 1.0);
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn clients_behind_a_proxy_are_counted_by_their_own_addresses() {
    let origin = Origin::start();
    let listener = format!("{TRUSTED}; limits {{ connections-per-client 2 }}");
    let proxy = Proxy::in_front_of(&origin).listener(&listener).start();
    let connect = |header: &[u8]| {
        let mut client = proxy.client();
        client.send(header);
        client
    };
    let mut open = [connect(V1), connect(V1), connect(V2)];
    for client in &mut open {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    connect(V1).expect_closed();
    rejected(&proxy, "connections_per_client", 1.0);
    drop(open);
    eventually("a place for another", || {
        let mut client = connect(V1);
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        client.try_response().map(drop)
    });
}
