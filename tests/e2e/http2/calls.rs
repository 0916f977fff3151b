//! Calls of gRPC that no agent sees: pauses, deadlines, ends, and many small messages.

use super::transport::{Transport, over_every_transport};
use crate::harness::{
    DEADLINE, Origin, Proxy,
    frames::*,
    grpc::{self, Call, CallServer, message},
};
use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

over_every_transport![many_small_messages_are_no_abuse,];

fn before(server: &CallServer, listener: &str) -> Proxy {
    let target = format!("target \"{}\"; protocol \"h2c\"", server.address());
    Proxy::builder(r#"routes { route "all" { upstream "calls" } }"#)
        .listener(listener)
        .upstream("calls", &target)
        .start()
}

/// Repeats what it is told, piece by piece.
fn parrot() -> CallServer {
    CallServer::serving(|mut served| {
        Box::pin(async move {
            served.answer(&[("content-type", "application/grpc")]);
            while let Some(Ok(piece)) = served.data().await {
                served.send(piece).await;
            }
            served.end_with(&[("grpc-status", "0")]);
        })
    })
}

/// A client that has begun to be answered may think for longer than one that is not.
#[test]
fn a_conversation_may_have_pauses() {
    let server = parrot();
    let proxy = before(&server, r#"h2c; timeouts { request-body-idle "200ms" }"#);
    let mut call = Call::to(proxy.address_of("http"), "/test.Parrot/Talk");
    assert!(call.send(message("one")));
    assert_eq!(call.head().unwrap().status(), 200);
    assert_eq!(call.data().unwrap().unwrap(), message("one"));
    // It is the test's subject, not a wait for something.
    thread::sleep(Duration::from_millis(600));
    assert!(call.send(message("two")));
    assert_eq!(call.data().unwrap().unwrap(), message("two"));
    call.finish();
    assert_eq!(call.rest().unwrap(), b"");
    assert_eq!(call.trailers().unwrap().unwrap()["grpc-status"], "0");
}

#[test]
fn a_deadline_and_its_end_reach_the_origin() {
    let (told, is_told) = mpsc::channel();
    let told = Mutex::new(told);
    let server = CallServer::serving(move |mut served| {
        let told = told.lock().unwrap().clone();
        Box::pin(async move {
            let deadline = served.head.headers["grpc-timeout"].to_str().unwrap();
            told.send(deadline.to_owned()).unwrap();
            served.given_up().await;
            told.send("given up".to_owned()).unwrap();
        })
    });
    let proxy = before(&server, "h2c");
    let mut request = grpc::call("/test.Parrot/Slow");
    request
        .headers_mut()
        .insert("grpc-timeout", "1S".parse().unwrap());
    let mut call = Call::begin(proxy.address_of("http"), request);
    assert_eq!(is_told.recv_timeout(DEADLINE).unwrap(), "1S");
    call.reset();
    assert_eq!(is_told.recv_timeout(DEADLINE).unwrap(), "given up");
}

/// An error of the origin in the middle of a call is one for the client, whatever has come before.
#[test]
fn a_call_that_breaks_off_has_no_status() {
    let server = CallServer::serving(|mut served| {
        Box::pin(async move {
            served.answer(&[("content-type", "application/grpc")]);
            served.send(message("one")).await;
            // It is with the client now.
            let _ = served.data().await;
            served.reset();
        })
    });
    let proxy = before(&server, "h2c");
    let mut call = Call::to(proxy.address_of("http"), "/test.Parrot/Talk");
    assert_eq!(call.head().unwrap().status(), 200);
    assert_eq!(call.data().unwrap().unwrap(), message("one"));
    call.send(message("two"));
    assert!(call.rest().is_err());
}

/// Thousands of messages of a few bytes at once are a use of the protocol like any other.
fn many_small_messages_are_no_abuse(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    client.send(post(1, "/small"));
    client.send(frame(DATA, 0, 1, b"ten bytes.").repeat(6000));
    client.send(frame(DATA, END_STREAM, 1, b""));
    assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    assert_eq!(origin.last().body.len(), 60_000);
}
