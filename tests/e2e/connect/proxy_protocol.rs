//! Targets that are told who the client is before anything else.

use super::TO_POOL;
use crate::harness::{
    DEADLINE, Origin, Proxy,
    agent_ways::tls_file,
    tls_front::{Manner, TlsFront},
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

#[test]
fn a_connection_begins_with_its_client_and_serves_nobody_else() {
    let origin = Origin::start();
    let target = format!(
        "target \"{}\"; send-proxy-protocol \"v1\"",
        origin.address()
    );
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    let own = proxy.address_of("http");
    for _ in 0..3 {
        let mut client = proxy.client();
        let port = client.local_address().port();
        for number in 0..2 {
            assert_eq!(client.get("/", &[]).status, 200);
            let line = match number {
                0 => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}", own.port()),
                // The second request of a client goes over the connection of the first.
                _ => "GET / HTTP/1.1".to_owned(),
            };
            assert_eq!(origin.last().request_line(), line);
        }
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_client_that_a_trusted_proxy_names_is_the_one_that_is_told() {
    let origin = Origin::start();
    let target = format!(
        "target \"{}\"; send-proxy-protocol \"v1\"",
        origin.address()
    );
    let proxy = Proxy::builder(TO_POOL)
        .listener("trusted-proxies \"127.0.0.0/8\"")
        .upstream("pool", &target)
        .start();
    // Two clients of one connection do not share one either.
    let mut between = proxy.client();
    for client in ["192.0.2.1", "192.0.2.2"] {
        let line = format!("x-forwarded-for: {client}");
        assert_eq!(between.get("/", &[&line]).status, 200);
        let told = origin.last().request_line();
        let begins = format!("PROXY TCP4 {client} 127.0.0.1 0 ");
        assert!(told.starts_with(&begins), "{told}");
    }
}

#[test]
fn the_second_version_is_binary() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut header = [0; 28];
        stream.read_exact(&mut header).unwrap();
        let mut head = [0; 16];
        stream.read_exact(&mut head).unwrap();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
        (header, head)
    });
    let target = format!("target \"{address}\"; send-proxy-protocol \"v2\"");
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    let mut client = proxy.client();
    let port = client.local_address().port();
    assert_eq!(client.get("/", &[]).status, 204);
    let (header, head) = seen.join().unwrap();
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[24..26], port.to_be_bytes());
    assert_eq!(&head, b"GET / HTTP/1.1\r\n");
}

#[test]
fn the_header_comes_before_tls() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    // Takes the header off and passes on the rest, as a terminator of TLS would.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let behind = front.address();
    let seen = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        let mut behind = std::net::TcpStream::connect(behind).unwrap();
        let (mut back, mut to) = (behind.try_clone().unwrap(), stream.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut back, &mut to));
        thread::spawn(move || std::io::copy(&mut stream, &mut behind));
        String::from_utf8(line).unwrap()
    });
    let target = format!(
        "target \"{address}\"; send-proxy-protocol \"v1\"; tls server-name=\"agent.test\" ca=\"{}\"",
        tls_file("ca.pem").display()
    );
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    assert_eq!(proxy.get("/").text(), "ok");
    assert!(seen.join().unwrap().starts_with("PROXY TCP4 127.0.0.1 "));
}

#[test]
fn checks_begin_with_a_header_that_names_nobody() {
    let settings = |address: SocketAddr, version: &str, check: &str| {
        format!(
            "target \"{address}\"; send-proxy-protocol \"{version}\"; health-check {check} interval=\"50ms\""
        )
    };
    let to = |settings: String| Proxy::builder(TO_POOL).upstream("pool", &settings).start();
    let origin = Origin::start();
    let _proxy = to(settings(
        origin.address(),
        "v1",
        "\"http\" path=\"/healthz\"",
    ));
    let line = origin.saw(|_| true).head;
    let line = String::from_utf8(line).unwrap();
    let begins = "PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\n";
    assert!(line.starts_with(begins), "{line}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _proxy = to(settings(listener.local_addr().unwrap(), "v2", "\"tcp\""));
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut sent = Vec::new();
    stream.read_to_end(&mut sent).unwrap();
    assert_eq!(sent, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
}
