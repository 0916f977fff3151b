//! `portcullis healthcheck`: whom it asks, and that it answers in time whoever is asked.

use crate::harness::{Proxy, eventually};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The exit code and the line that says why.
fn healthcheck(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("healthcheck")
        .args(arguments)
        .env_remove("PORTCULLIS_CONFIG")
        .output()
        .unwrap();
    // What is good goes to the standard output, and nothing else does.
    let (line, other) = match output.status.code() {
        Some(0) => (output.stdout, output.stderr),
        _ => (output.stderr, output.stdout),
    };
    assert_eq!(String::from_utf8(other).unwrap(), "");
    let line = String::from_utf8(line).unwrap();
    assert_eq!(line.lines().count(), 1, "{line:?}");
    (output.status.code(), line)
}

/// Asks whom this configuration names.
fn healthcheck_with(kdl: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("portcullis.kdl");
    let rest = r#"
        schema-version "1"
        listeners { listener "http" { address "127.0.0.1:8080" } }
        routes { route "all" { match { path-prefix "/" }; respond 200 } }
    "#;
    std::fs::write(&path, format!("{rest}\n{kdl}\n")).unwrap();
    healthcheck(&["-c", path.to_str().unwrap()])
}

/// Somebody who does this with every connection.
fn peer(does: impl Fn(std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(does));
    address
}

#[test]
fn a_proxy_that_is_ready_is_found_by_its_configuration() {
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("admin.sock");
    let socket = socket.display();
    let proxy = Proxy::builder(format!(
        r#"
        admin {{ address "unix:{socket}" }}
        routes {{ route "all" {{ match {{ path-prefix "/" }}; respond 200 }} }}
        "#
    ))
    .start();
    proxy.wait_ready();
    let probes = proxy.address_of("probes");
    let port = probes.port();
    for kdl in [
        format!("probes {{ address \"{probes}\" }}"),
        format!("probes {{ address \"0.0.0.0:{port}\" }}"),
        format!("probes {{ address \"[::]:{port}\" }}"),
        // Probes come first: nobody is at the address of admin.
        format!("probes {{ address \"{probes}\" }}\nadmin {{ address \"127.0.0.1:1\" }}"),
        format!("admin {{ address \"{probes}\" }}"),
        format!("admin {{ address \"unix:{socket}\" }}"),
    ] {
        let (code, line) = healthcheck_with(&kdl);
        assert_eq!(code, Some(0), "{kdl}: {line}");
        assert!(line.ends_with(": ready\n"), "{kdl}: {line}");
    }
    for address in [probes.to_string(), format!("localhost:{port}")] {
        let (code, line) = healthcheck(&["--address", &address]);
        assert_eq!(code, Some(0), "{address}: {line}");
    }
}

#[test]
fn admin_over_tcp_takes_the_question() {
    let proxy = Proxy::builder(
        r#"
        admin { address "127.0.0.1:0" }
        routes { route "all" { match { path-prefix "/" }; respond 200 } }
        "#,
    )
    .start();
    proxy.wait_ready();
    let admin = proxy.address_of("admin");
    let (code, line) = healthcheck_with(&format!("admin {{ address \"{admin}\" }}"));
    assert_eq!(code, Some(0), "{line}");
}

#[test]
fn a_proxy_that_is_not_ready_says_what_is_missing() {
    let sockets = tempfile::tempdir().unwrap();
    let missing = sockets.path().join("missing.sock");
    let proxy = Proxy::builder(
        r#"routes { route "all" { match { path-prefix "/" }; filters { agent "absent" }; respond 200 } }"#,
    )
    .agent_block("absent", &format!("unix-socket \"{}\"", missing.display()))
    .start();
    let address = proxy.address_of("probes").to_string();
    let line = eventually("the reason", || {
        let (code, line) = healthcheck(&["--address", &address]);
        assert_eq!(code, Some(1), "{line}");
        line.contains("unreachable").then_some(line)
    });
    assert!(line.contains("503"), "{line}");
    assert!(line.contains("not ready: agent absent: "), "{line}");
}

#[test]
fn whoever_is_asked_it_ends_in_time_and_with_a_reason() {
    let silent = peer(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let gone = peer(drop);
    let endless = peer(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 503 No\r\n\r\n");
        while stream.write_all(&[b'x'; 1000]).is_ok() {}
    });
    let head = peer(|mut stream| while stream.write_all(b"HTTP/1.1 200 OK\r\nx: y\r\n").is_ok() {});
    let words = peer(|mut stream| {
        let _ = stream.write_all(b"ready\n\n");
    });
    // Free again as soon as its address is known.
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let nobody = nobody.unwrap();
    for (address, reason) in [
        (silent, "no answer within 300ms"),
        (gone, "no answer: "),
        (endless, "503 Service Unavailable xxx"),
        (head, "no answer"),
        (words, "no answer"),
        (nobody, "no connection: "),
    ] {
        let began = Instant::now();
        let (code, line) = healthcheck(&["--address", &address.to_string(), "--timeout", "300ms"]);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains(reason), "{reason}: {line}");
        assert!(line.len() < 5000, "{} bytes", line.len());
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "{reason}: {took:?}");
    }
}

#[test]
fn who_cannot_be_asked_is_not_ready() {
    for (kdl, reason) in [
        ("", "neither probes nor admin"),
        (r#"probes { address "0.0.0.0:0" }"#, "choose the port"),
        ("probes { nonsense }", "not usable"),
    ] {
        let (code, line) = healthcheck_with(kdl);
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains(reason), "{reason}: {line}");
    }
}

#[test]
fn a_wrong_command_line_is_not_a_state_of_the_proxy() {
    for timeout in ["2", "0s", "2 s", "soon"] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["healthcheck", "--timeout", timeout])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{timeout}");
    }
}
