//! Requests that are sent once more, and those for which there is no room.

use crate::harness::{
    Answer, Origin, Proxy, RawClient, Recorded, TestAgent, eventually, http2, proxy::Builder,
};
use rustix::process::Signal;
use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

fn behind(retry: &str, upstream: &str) -> Builder {
    Proxy::builder(format!(
        "routes {{ route \"all\" {{ upstream \"pool\"; {retry} }} }}"
    ))
    .upstream("pool", upstream)
}

fn targets(origins: &[&Origin]) -> String {
    let targets = origins
        .iter()
        .map(|origin| format!("target \"{}\"; ", origin.address()));
    targets.collect()
}

fn with_status(status: u16) -> Origin {
    Origin::answering(move |_| Answer::with(status, &[], b"no"))
}

/// One that takes the request and closes the connection.
fn closing() -> Origin {
    Origin::answering(|_| Answer::raw("").then_close())
}

/// One that takes the request and says nothing.
fn silent() -> Origin {
    Origin::answering(|_| {
        Answer::raw("").then(|stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    })
}

const RETRIES: &str = "portcullis_upstream_retries_total";

#[test]
fn what_a_target_has_not_answered_goes_to_another() {
    for (retry, bad, result) in [
        ("retry { on \"503\" }", with_status(503), "503"),
        ("retry { on \"5xx\" }", with_status(500), "500"),
        ("retry { on 404 }", with_status(404), "404"),
        ("retry { on \"reset\" }", closing(), "reset"),
        ("retry", closing(), "reset"),
        ("retry per-try-timeout=\"200ms\"", silent(), "timeout"),
        (
            "retry { on \"timeout\" }; timeouts { response-header \"200ms\" }",
            silent(),
            "timeout",
        ),
    ] {
        let good = Origin::start();
        let proxy = behind(retry, &targets(&[&bad, &good])).start();
        let mut client = proxy.client();
        for number in 0..4 {
            let response = client.get(&format!("/{number}"), &[]);
            assert_eq!((response.status, &*response.text()), (200, "ok"), "{retry}");
        }
        let first = bad.address().to_string();
        let line = proxy.access_line(|line| line["upstream_tried"][0]["address"] == first);
        assert_eq!(line["upstream_tried"][0]["result"], result, "{retry}");
        assert_eq!(line["upstream_attempts"], 2);
        assert_eq!(line["upstream_address"], good.address().to_string());
        assert_eq!(
            proxy.metric(RETRIES),
            bad.requests().len() as f64,
            "{retry}"
        );
        // The same for a client of HTTP/2.
        for _ in 0..2 {
            let answers = http2::exchange(proxy.address_of("http"), vec![http2::get("/h2")]);
            assert_eq!(answers[0].as_ref().unwrap().body(), "ok", "{retry}");
        }
    }
}

#[test]
fn what_is_no_reason_reaches_the_client() {
    for (retry, bad, status) in [
        ("", with_status(503), 503),
        ("retry { on \"502\" }", with_status(503), 503),
        ("retry { on \"connect-failure\" }", closing(), 502),
        (
            "retry { on \"reset\" }; timeouts { response-header \"200ms\" }",
            silent(),
            504,
        ),
    ] {
        let proxy = behind(retry, &targets(&[&bad])).start();
        assert_eq!(proxy.get("/").status, status, "{retry}");
        assert_eq!(bad.requests().len(), 1, "{retry}");
        assert_eq!(proxy.metric(RETRIES), 0.0);
    }
}

#[test]
fn attempts_are_counted_and_the_last_answer_is_the_clients() {
    let bad = [503, 503, 503, 503].map(with_status);
    let all = bad.each_ref();
    let proxy = behind("retry attempts=2", &targets(&all)).start();
    let response = proxy.get("/");
    assert_eq!((response.status, &*response.text()), (503, "no"));
    let counts: Vec<_> = bad.iter().map(|origin| origin.requests().len()).collect();
    assert_eq!(counts, [1, 1, 1, 0]);
    assert_eq!(proxy.access_line_of("/")["upstream_attempts"], 3);
    // With one target only, it is that again.
    let proxy = behind("retry attempts=2", &targets(&[&bad[3]])).start();
    assert_eq!(proxy.get("/").status, 503);
    assert_eq!(bad[3].requests().len(), 3);
}

#[test]
fn what_could_have_an_effect_twice_is_sent_once() {
    for (bad, status) in [(with_status(503), 503), (closing(), 502)] {
        let good = Origin::start();
        let proxy = behind("retry", &targets(&[&bad, &good])).start();
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(client.response().status, status);
        assert_eq!(good.requests().len(), 0);
    }
    // A connection that could not be made had no effect.
    let (_socket, refusing) = refusing();
    let good = Origin::start();
    let upstream = format!("target \"{refusing}\"; {}", targets(&[&good]));
    let proxy = behind("retry", &upstream).start();
    for _ in 0..2 {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(client.response().status, 200);
        assert_eq!(good.last().body, b"hello");
    }
}

fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn put(length: usize) -> String {
    let body = "x".repeat(length);
    format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[test]
fn a_body_goes_along_as_far_as_it_is_here() {
    let agent = TestAgent::named("waf").start();
    for (inspected, length, status) in [
        (false, 60_000, 200),
        // A part of it is no longer here.
        (false, 200_000, 503),
        // Agents hold all of it.
        (true, 60_000, 200),
        (true, 200_000, 200),
    ] {
        let bad = with_status(503);
        let good = Origin::start();
        let filters = if inspected {
            "filters { agent \"waf\" }; "
        } else {
            ""
        };
        let mut builder = behind(&format!("{filters}retry"), &targets(&[&bad, &good]));
        if inspected {
            let inspect = "timeout \"10s\"; inspect { request-headers; request-body \"buffer\"; response-headers }";
            builder = builder.agent_with(&agent, inspect);
        }
        let proxy = builder.start();
        proxy.wait_ready();
        let mut client = proxy.client();
        client.send(put(length));
        assert_eq!(client.response().status, status, "{inspected} {length}");
        if status == 200 {
            assert_eq!(good.last().body.len(), length);
        }
    }
}

#[test]
fn agents_are_asked_once_however_often_a_request_is_sent() {
    let agent = TestAgent::named("waf").start();
    let bad = [503, 503].map(with_status);
    let good = Origin::start();
    let upstream = targets(&[&bad[0], &bad[1], &good]);
    let proxy = behind("filters { agent \"waf\" }; retry attempts=2", &upstream)
        .agent_with(
            &agent,
            "timeout \"10s\"; inspect { request-headers; response-headers }",
        )
        .start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(bad[0].requests().len() + bad[1].requests().len(), 2);
    let of = |event: &str| agent.seen(event).len();
    assert_eq!((of("request_headers"), of("response_headers")), (1, 1));
}

#[test]
fn second_tries_have_a_budget() {
    let bad = [503, 503].map(with_status);
    let upstream = format!("{}retry-budget \"0%\" min=0", targets(&bad.each_ref()));
    let proxy = behind("retry", &upstream).start();
    assert_eq!(proxy.get("/").status, 503);
    assert_eq!(proxy.metric(RETRIES), 0.0);
    assert_eq!(
        proxy.metric("portcullis_upstream_retries_over_budget_total"),
        1.0
    );
}

/// An origin that answers when it is told to, and how many wait for that.
fn held() -> (Origin, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (released, waiting) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (told, count) = (released.clone(), waiting.clone());
    let origin = Origin::answering(move |_: &Recorded| {
        count.fetch_add(1, SeqCst);
        eventually("release", || told.load(SeqCst).then_some(()));
        Answer::ok("ok")
    });
    (origin, released, waiting)
}

#[test]
fn who_finds_no_room_waits_or_is_refused() {
    let (origin, released, waiting) = held();
    let limits = |pending: usize| {
        format!(
            "{}limits {{ requests 2; pending {pending}; pending-timeout \"9s\" }}",
            targets(&[&origin])
        )
    };
    let proxy = behind("", &limits(3)).start();
    let address = proxy.address_of("http");
    let ask = || thread::spawn(move || RawClient::connect(address).get("/", &[]).status);
    let clients: Vec<_> = (0..5).map(|_| ask()).collect();
    proxy.wait_metric("portcullis_upstream_requests_pending", 3.0);
    proxy.wait_metric("portcullis_upstream_requests_in_flight", 2.0);
    let refused = proxy.get("/full");
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(
        proxy.access_line_of("/full")["reason"],
        "upstream_saturated"
    );
    // Another limit counts those that are there.
    proxy.reload(&behind("", &limits(1)));
    assert_eq!(proxy.get("/still-full").status, 503);
    assert_eq!(waiting.load(SeqCst), 2);
    released.store(true, SeqCst);
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
    assert_eq!(proxy.metric("portcullis_upstream_saturated_total"), 2.0);
    proxy.wait_metric("portcullis_upstream_requests_in_flight", 0.0);
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn who_waits_does_not_wait_for_ever() {
    let (origin, released, waiting) = held();
    let upstream = format!(
        "{}limits {{ requests 1; pending 5; pending-timeout \"100ms\" }}",
        targets(&[&origin])
    );
    let proxy = behind("", &upstream).start();
    let address = proxy.address_of("http");
    let first = thread::spawn(move || RawClient::connect(address).get("/", &[]).status);
    eventually("the first", || (waiting.load(SeqCst) == 1).then_some(()));
    assert_eq!(proxy.get("/").status, 503);
    released.store(true, SeqCst);
    assert_eq!(first.join().unwrap(), 200);
}

/// A target that is a process of its own: it can be killed, and it can take its leave in order.
fn process(address: SocketAddr, name: &str) -> Proxy {
    Proxy::builder(format!(
        "schema-version \"1\"\n\
         listeners {{ listener \"http\" {{ address \"{address}\" }} }}\n\
         routes {{ route \"all\" {{ respond 200 \"{name}\" }} }}\n"
    ))
    .verbatim()
    .start()
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A client that asks until it is told that it is enough, and counts who answers. Statuses, and whether the answer was somebody's.
fn load(
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 3]>,
) -> thread::JoinHandle<Vec<(u16, bool)>> {
    thread::spawn(move || {
        let mut client = RawClient::connect(address);
        let mut statuses = Vec::new();
        while !ended.load(SeqCst) {
            let response = client.get("/", &[]);
            let names = ["killed", "drained", "slow"];
            let who = names.iter().position(|name| response.text() == *name);
            if let Some(who) = who {
                counts[who].fetch_add(1, SeqCst);
            }
            statuses.push((response.status, who.is_some()));
        }
        statuses
    })
}

#[test]
fn under_load_no_idempotent_request_fails_whatever_becomes_of_targets() {
    const CLIENTS: usize = 8;
    let slow = Origin::answering(|request| match &*request.target() {
        "/health" => Answer::ok("slow"),
        _ => {
            thread::sleep(Duration::from_millis(500));
            Answer::ok("slow")
        }
    });
    let addresses = [free(), free()];
    let mut killed = process(addresses[0], "killed");
    let mut drained = process(addresses[1], "drained");
    let upstream = format!(
        "target \"{}\"; target \"{}\"; {}balance \"p2c-ewma\"; outlier failures=3 eject=\"200ms\"; \
         health-check \"http\" path=\"/health\" interval=\"100ms\" unhealthy=1 healthy=1; retry-budget \"100%\"",
        addresses[0],
        addresses[1],
        targets(&[&slow])
    );
    let proxy = behind("retry attempts=3", &upstream).start();
    let address = proxy.address_of("http");
    let ended = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| load(address, ended.clone(), counts.clone()))
        .collect();
    let count = |who: usize| counts[who].load(SeqCst);
    let more = |who: usize, by: usize| {
        let before = count(who);
        eventually("more answers", || (count(who) >= before + by).then_some(()));
    };
    more(0, 300);
    more(1, 300);
    killed.signal(Signal::KILL);
    killed.wait_end();
    more(1, 500);
    let killed = process(addresses[0], "killed");
    // Found to be healthy again, and used.
    more(0, 300);
    drained.signal(Signal::TERM);
    drained.wait_end();
    more(0, 500);
    ended.store(true, SeqCst);
    let statuses: Vec<_> = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap())
        .collect();
    let failed: Vec<_> = statuses
        .iter()
        .filter(|status| **status != (200, true))
        .collect();
    assert!(failed.is_empty(), "{failed:?} of {}", statuses.len());
    let of_slow = count(2);
    assert!(
        of_slow * 10 < statuses.len(),
        "{of_slow} of {}",
        statuses.len()
    );
    drop(killed);
}
