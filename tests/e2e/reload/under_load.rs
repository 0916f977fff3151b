//! Reloads while much is going on: nothing fails, nothing is left behind.

use super::slow_origin;
use crate::{
    harness::{Origin, Proxy, RawClient, eventually, proxy::Builder},
    websocket::UPGRADE,
};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

/// More in the longer runs: `RELOADS=100`.
fn reloads() -> usize {
    let wanted = std::env::var("RELOADS").ok();
    wanted.map_or(20, |count| count.parse().unwrap())
}

/// What differs between one configuration and the next: an agent, a route and a listener.
fn number(number: usize, origin: &Origin) -> Builder {
    let kind = number % 3;
    let more = match kind {
        0 => "",
        1 => "listener \"more\" { address \"127.0.0.1:0\" }",
        _ => "listener \"other\" { address \"127.0.0.1:0\"; h2c }",
    };
    Proxy::builder(format!(
        r#"
        system {{ worker-threads 2 }}
        listeners {{ listener "http" {{ address "127.0.0.1:0"; h2c; limits {{ connections-per-client 1000 }} }}; {more} }}
        routes {{
            route "live" {{ match {{ path-prefix "/ws" }}; upstream "origin"; websocket }}
            route "extra-{kind}" {{ match {{ path "/extra" }}; respond 200 "{kind}" }}
            route "all" {{ filters {{ agent "guard"; agent "changing" }}; upstream "origin" }}
        }}"#
    ))
    .origin(origin)
    .agent_block("guard", "builtin \"denylist\"; timeout \"10s\"; config { paths \"/secret\" }")
    .agent_block(
        "changing",
        &format!("builtin \"echo\"; timeout \"10s\"; env {{ GENERATION \"{kind}\" }}"),
    )
}

/// What a process has that it could leak.
fn belongings(proxy: &Proxy) -> [usize; 3] {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    [proxy.descriptors(), tasks.count(), proxy.children().len()]
}

#[test]
fn no_request_fails_and_nothing_leaks() {
    let (origin, go_on) = slow_origin();
    let proxy = number(0, &origin).start();
    proxy.wait_ready();
    let mut socket = proxy.client();
    socket.send(format!("GET /ws HTTP/1.1\r\n{UPGRADE}\r\n"));
    assert!(socket.read_head().unwrap().starts_with("HTTP/1.1 101"));
    let mut slow = proxy.client();
    slow.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    origin.saw(|request| request.target() == "/slow");
    let before = steady(&proxy);
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..4 {
            let (proxy, done, served) = (&proxy, &done, &served);
            scope.spawn(move || ask_until(done, served, proxy, client));
        }
        for round in 1..=reloads() {
            if round % 2 == 0 {
                proxy.reload_in_vain(&Proxy::builder(
                    "routes { route \"all\" { respond 200; respond 201 } }",
                ));
            } else {
                proxy.reload(&number(round / 2 + 1, &origin));
            }
        }
        proxy.reload(&number(0, &origin));
        done.store(true, Relaxed);
    });
    assert!(served.load(Relaxed) > 100, "there was hardly any load");
    go_on.send(()).unwrap();
    assert_eq!(slow.response().text(), "slow");
    assert_eq!(socket.send("still there").read_exact(11), b"STILL THERE");
    drop(socket);
    eventually(
        &format!("descriptors, threads and agents as before: {before:?}"),
        || {
            let now = belongings(&proxy);
            // The connections of the load and the slow request are gone, and so may be connections to the origin.
            (now[0] <= before[0] && now[1] <= before[1] && now[2] == before[2]).then_some(())
        },
    );
    proxy.wait_metric("portcullis_agent_in_flight", 0.0);
}

fn steady(proxy: &Proxy) -> [usize; 3] {
    let mut last = belongings(proxy);
    let mut same = 0;
    eventually("a steady state", || {
        let now = belongings(proxy);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same > 20).then_some(now)
    })
}

/// Every answer is right: on connections that are kept, and on new ones.
fn ask_until(done: &AtomicBool, served: &AtomicUsize, proxy: &Proxy, number: usize) {
    let address = proxy.address_of("http");
    let mut kept = RawClient::connect(address);
    while !done.load(Relaxed) {
        let path = if number.is_multiple_of(2) {
            "/fine"
        } else {
            "/secret"
        };
        let wanted = if number.is_multiple_of(2) { 200 } else { 403 };
        let answer = kept.get(path, &[]);
        assert_eq!(
            (answer.status, answer.complete),
            (wanted, true),
            "{}",
            answer.text()
        );
        let answer = RawClient::connect(address).get(path, &["connection: close"]);
        assert_eq!(
            (answer.status, answer.complete),
            (wanted, true),
            "{}",
            answer.text()
        );
        served.fetch_add(2, Relaxed);
    }
}
