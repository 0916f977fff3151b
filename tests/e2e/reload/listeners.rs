//! Listeners come, change and go while the process serves.

use super::slow_origin;
use crate::harness::{Origin, Proxy, RawClient, eventually, proxy::Builder};
use std::net::TcpStream;

fn with(origin: &Origin, listeners: &str) -> Builder {
    Proxy::builder(format!(
        "listeners {{ {listeners} }}\nroutes {{ route \"all\" {{ upstream \"origin\" }} }}"
    ))
    .origin(origin)
}

const ONE: &str = "listener \"http\" { address \"127.0.0.1:0\" }";
const TWO: &str =
    "listener \"http\" { address \"127.0.0.1:0\" }; listener \"more\" { address \"127.0.0.1:0\" }";

#[test]
fn d21_listeners_are_added_and_removed() {
    let (origin, go_on) = slow_origin();
    let proxy = with(&origin, ONE).start();
    let address = proxy.address_of("http");
    let mut kept = proxy.client();
    assert_eq!(kept.get("/", &[]).status, 200);
    proxy.reload(&with(&origin, TWO));
    let more = proxy.address_of("more");
    let mut idle = RawClient::connect(more);
    assert_eq!(idle.get("/", &[]).status, 200);
    let mut busy = RawClient::connect(more);
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    origin.saw(|request| request.target() == "/slow");
    let line = proxy.reload(&with(&origin, ONE));
    assert!(
        line["changes"]
            .as_str()
            .unwrap()
            .starts_with("listeners: -more 1 kept")
    );
    eventually("the end of listening", || {
        TcpStream::connect(more).is_err().then_some(())
    });
    // Nobody waits for an answer there.
    idle.expect_closed();
    // Here somebody does.
    go_on.send(()).unwrap();
    let answer = busy.response();
    assert_eq!((answer.status, answer.text()), (200, "slow".into()));
    assert_eq!(answer.header("connection"), Some("close"));
    busy.expect_closed();
    // The listener that stays has kept its sockets and connections.
    assert_eq!(kept.get("/", &[]).status, 200);
    assert_eq!(proxy.address_of("http"), address);
}

#[test]
fn settings_of_a_listener_hold_for_new_connections() {
    let origin = Origin::start();
    let proxy = with(&origin, ONE).start();
    let mut old = proxy.client();
    assert_eq!(old.get("/", &[]).status, 200);
    let strict = "listener \"http\" { address \"127.0.0.1:0\"; limits { header-count 2 } }";
    proxy.reload(&with(&origin, strict));
    let lines = ["a: 1", "b: 2", "c: 3"];
    assert_eq!(proxy.get_with("/", &lines).status, 431);
    assert_eq!(old.get("/", &lines).status, 200);
}

#[test]
fn an_address_that_is_taken_changes_nothing() {
    let origin = Origin::start();
    let proxy = with(&origin, ONE).start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let new = format!(
        "{ONE}; listener \"more\" {{ address \"{}\" }}",
        taken.local_addr().unwrap()
    );
    proxy.reload_in_vain(&with(&origin, &new));
    let log = proxy.log_text();
    assert!(log.contains("another process listens there"), "{log}");
    assert_eq!(proxy.get("/").status, 200);
    drop(taken);
    proxy.reload(&with(&origin, &new));
    assert_eq!(
        RawClient::connect(proxy.address_of("more"))
            .get("/", &[])
            .status,
        200
    );
}

#[test]
fn an_address_of_ours_may_change_hands() {
    let origin = Origin::start();
    let proxy = with(&origin, TWO).start();
    let more = proxy.address_of("more");
    let renamed = format!("{ONE}; listener \"other\" {{ address \"{more}\" }}");
    // The port of the system's choice is now written down, under another name.
    proxy.reload(&with(&origin, &renamed));
    assert_eq!(RawClient::connect(more).get("/", &[]).status, 200);
    let wide = format!(
        "{ONE}; listener \"other\" {{ address \"0.0.0.0:{}\" }}",
        more.port()
    );
    proxy.reload(&with(&origin, &wide));
    let response = RawClient::connect(more).get("/other", &[]);
    assert_eq!(response.status, 200);
    assert_eq!(proxy.access_line_of("/other")["listener"], "other");
}

#[test]
fn probes_and_admin_move() {
    let origin = Origin::start();
    let at = |socket: &str| {
        Proxy::builder(format!(
            "admin {{ address \"unix:./{socket}\" }}\nroutes {{ route \"all\" {{ upstream \"origin\" }} }}"
        ))
        .origin(&origin)
    };
    let proxy = at("one.sock").start();
    let one = proxy.folder().join("one.sock");
    assert!(std::os::unix::net::UnixStream::connect(&one).is_ok());
    proxy.reload(&at("two.sock"));
    let two = proxy.folder().join("two.sock");
    assert!(std::os::unix::net::UnixStream::connect(&two).is_ok());
    eventually("the end of the old socket", || {
        std::os::unix::net::UnixStream::connect(&one)
            .is_err()
            .then_some(())
    });
}
