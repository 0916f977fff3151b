//! How the process ends, and what does not end it.

use crate::harness::{Answer, Origin, Proxy, RawClient, eventually};
use rustix::process::Signal;
use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Mutex, mpsc},
};

/// An origin whose answer comes when the test says so.
fn held_back() -> (Origin, mpsc::Sender<()>) {
    let (go_on, waiting) = mpsc::channel::<()>();
    let waiting = std::sync::Arc::new(Mutex::new(waiting));
    let origin = Origin::answering(move |_| {
        let waiting = waiting.clone();
        Answer::raw("").then(move |stream| {
            if waiting.lock().unwrap().recv().is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
            let _ = stream.read(&mut [0]);
        })
    });
    (origin, go_on)
}

#[test]
fn a_request_in_flight_is_finished() {
    let (origin, go_on) = held_back();
    let mut proxy = Proxy::in_front_of(&origin).start();
    let mut busy = proxy.client();
    busy.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    origin.saw(|request| request.target() == "/");
    let address = proxy.address_of("http");
    proxy.signal(Signal::TERM);
    // Nobody new is let in.
    eventually("the end of listening", || {
        std::net::TcpStream::connect(address).is_err().then_some(())
    });
    go_on.send(()).unwrap();
    let response = busy.response();
    assert_eq!((response.status, response.text()), (200, "ok".into()));
    busy.expect_closed();
    assert_eq!(proxy.wait_end().code(), Some(0));
    // The log is complete.
    assert_eq!(proxy.access_line_of("/")["status"], 200);
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let origin = Origin::start();
    let mut proxy = Proxy::in_front_of(&origin).start();
    let mut idle = proxy.client();
    assert_eq!(idle.get("/", &[]).status, 200);
    let mut silent = proxy.client();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_end().code(), Some(0));
    idle.expect_closed();
    silent.expect_closed();
}

#[test]
fn the_grace_has_an_end() {
    let (origin, _go_on) = held_back();
    let mut proxy = Proxy::builder(
        r#"
        system { shutdown-grace "300ms" }
        routes { route "all" { upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .start();
    let mut busy = proxy.client();
    busy.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    origin.saw(|request| request.target() == "/");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_end().code(), Some(0));
    assert!(
        busy.try_response()
            .is_none_or(|response| response.status != 200)
    );
}

#[test]
fn a_second_sigterm_and_a_sigint_end_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let (origin, _go_on) = held_back();
        let mut proxy = Proxy::in_front_of(&origin).start();
        let mut busy = proxy.client();
        busy.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        origin.saw(|request| request.target() == "/");
        proxy.signal(Signal::TERM);
        proxy.log_line(|line| line["message"] == "ending: draining");
        proxy.signal(second);
        assert_eq!(proxy.wait_end().code(), Some(0));
    }
}

#[test]
fn readiness_ends_before_the_listeners_do() {
    let origin = Origin::start();
    let mut proxy = Proxy::builder(
        r#"
        system { drain-delay "500ms" }
        routes { route "all" { upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .start();
    proxy.wait_ready();
    proxy.signal(Signal::TERM);
    eventually("not ready", || {
        (proxy.probe("/readyz").status == 503).then_some(())
    });
    assert_eq!(proxy.probe("/livez").status, 200);
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(proxy.wait_end().code(), Some(0));
}

#[test]
fn a_taken_address_is_said_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let kdl = format!(
        "listeners {{ listener \"http\" {{ address \"{address}\" }} }}\nroutes {{ route \"all\" {{ respond 200 }} }}"
    );
    let (code, _, stderr) = Proxy::builder(kdl).run_to_end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&address.to_string()), "{stderr}");
    assert!(stderr.contains("another process listens there"), "{stderr}");
}

#[test]
fn two_proxies_do_not_share_an_address() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let address = proxy.address_of("http");
    let kdl = format!(
        "listeners {{ listener \"http\" {{ address \"{address}\" }} }}\nroutes {{ route \"all\" {{ respond 200 }} }}"
    );
    let (code, _, stderr) = Proxy::builder(kdl).run_to_end();
    assert_eq!(code, Some(1), "{stderr}");
    for _ in 0..10 {
        assert_eq!(RawClient::connect(address).get("/", &[]).text(), "ok");
    }
}

#[test]
fn a_new_start_does_not_wait_for_old_connections() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let address = proxy.address_of("http");
    // Our side closes first, so that the address stays in TIME_WAIT here.
    let mut client = proxy.client();
    client.get("/", &["connection: close"]);
    client.expect_closed();
    drop(proxy);
    let kdl = format!(
        "listeners {{ listener \"http\" {{ address \"{address}\" }} }}\nroutes {{ route \"all\" {{ respond 200 \"again\" }} }}"
    );
    let again = Proxy::builder(kdl).start();
    assert_eq!(again.get("/").text(), "again");
}
