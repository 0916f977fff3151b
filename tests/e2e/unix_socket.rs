//! Clients that connect to a Unix socket.

use crate::harness::{Origin, Proxy, RawClient, proxy::Builder};
use std::{
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn connect(path: &Path) -> RawClient {
    RawClient::over_unix(UnixStream::connect(path).unwrap())
}

/// A proxy whose listener `local` is at `http.sock` and says this beside.
fn with(origin: &Origin, listener: &str) -> Builder {
    let kdl = format!(
        r#"
        routes {{ route "all" {{ upstream "origin" }} }}
        listeners {{
            listener "local" {{ unix-socket "./http.sock" {listener} }}
            listener "http" {{ address "127.0.0.1:0" }}
        }}
        "#
    );
    Proxy::builder(kdl).origin(origin)
}

#[test]
fn clients_of_a_unix_socket_are_served_by_all_workers() {
    let origin = Origin::start();
    let mut proxy = with(&origin, "; limits { connections-per-client 1 }").start();
    let path = proxy.folder().join("http.sock");
    assert_eq!(mode_of(&path), 0o660);
    // More at a time than a client with an address may have.
    let mut clients: Vec<_> = (0..8).map(|_| connect(&path)).collect();
    for client in &mut clients {
        assert_eq!(
            client.get("/", &["x-forwarded-for: 192.0.2.66"]).status,
            200
        );
        let request = origin.last();
        assert_eq!(request.header_values("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(request.header("x-forwarded-port"), None);
    }
    assert_eq!(
        proxy.access_line(|line| line["listener"] == "local")["client_ip"],
        "127.0.0.1"
    );
    // It ends in order, and takes the file with it.
    proxy.signal(rustix::process::Signal::TERM);
    for client in &mut clients {
        client.expect_closed();
    }
    assert!(proxy.wait_end().success());
    assert!(!path.exists());
}

#[test]
fn what_a_proxy_on_the_same_machine_says_can_be_believed() {
    let origin = Origin::start();
    let proxy = with(&origin, r#"; trusted-proxies "127.0.0.1""#).start();
    let mut client = connect(&proxy.folder().join("http.sock"));
    client.get("/believed", &["x-forwarded-for: 192.0.2.66"]);
    assert_eq!(proxy.access_line_of("/believed")["client_ip"], "192.0.2.66");
    let introduced = r#"; trusted-proxies "127.0.0.1"; proxy-protocol"#;
    proxy.reload(&with(&origin, introduced));
    let mut client = connect(&proxy.folder().join("http.sock"));
    client.send(b"PROXY TCP4 203.0.113.9 192.0.2.1 51234 8443\r\n");
    client.get("/introduced", &[]);
    assert_eq!(
        proxy.access_line_of("/introduced")["client_ip"],
        "203.0.113.9"
    );
}

#[test]
fn a_reload_keeps_changes_and_removes_sockets() {
    let origin = Origin::start();
    let proxy = with(&origin, "").start();
    let path = proxy.folder().join("http.sock");
    let mut kept = connect(&path);
    assert_eq!(kept.get("/", &[]).status, 200);
    proxy.reload(&with(&origin, r#"mode="0600""#));
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(kept.get("/", &[]).status, 200);
    assert_eq!(connect(&path).get("/", &[]).status, 200);
    // One that cannot take effect leaves everything as it was.
    let taken = proxy.folder().join("taken.sock");
    let _other = UnixListener::bind(&taken).unwrap();
    let text = r#"mode="0666" }; listener "new" { unix-socket "./new.sock" }; listener "taken" { unix-socket "./taken.sock""#;
    proxy.reload_in_vain(&with(&origin, text));
    assert_eq!(mode_of(&path), 0o600);
    assert!(!proxy.folder().join("new.sock").exists());
    assert!(taken.exists());
    let without = Proxy::builder(r#"routes { route "all" { upstream "origin" } }"#);
    proxy.reload(&without.origin(&origin));
    assert!(!path.exists());
    kept.expect_closed();
}

#[test]
fn only_a_socket_that_nobody_listens_on_is_replaced() {
    let origin = Origin::start();
    let mut first = with(&origin, "").start();
    let path = first.folder().join("http.sock");
    let same = format!(
        r#"
        routes {{ route "all" {{ respond 204 }} }}
        listeners {{ listener "local" {{ unix-socket "{}" }} }}
        "#,
        path.display()
    );
    let (code, _, errors) = Proxy::builder(same.as_str()).run_to_end();
    assert_eq!(code, Some(1));
    assert!(errors.contains("another process listens"), "{errors}");
    assert_eq!(connect(&path).get("/", &[]).status, 200);
    // Killed, it leaves its file behind.
    first.signal(rustix::process::Signal::KILL);
    first.wait_end();
    assert!(path.exists());
    let _second = Proxy::builder(same).start();
    assert_eq!(connect(&path).get("/", &[]).status, 204);
}
