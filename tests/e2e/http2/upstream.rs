//! Origins of HTTP/2 that end streams and connections in the middle, change their settings, or break the rules: no answer is
//! taken for another, and none looks complete that is not.

use super::transport::{Transport, over_every_transport};
use crate::harness::{
    Proxy, Response,
    frame_origin::{FrameOrigin, answer},
    frames::*,
    http2::{exchange, get as request_for},
    tls_front::{Manner, TlsFront},
    tls_tail,
};
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

over_every_transport![
    what_breaks_off_never_looks_complete,
    a_goaway_between_requests_is_obeyed,
    requests_that_were_not_taken_up_are_sent_again,
    an_origin_may_take_few_streams,
    an_origin_may_change_its_windows,
    an_early_answer_counts,
];

const STATUS: (&str, &str) = (":status", "200");

/// What an origin sends as soon as it has the head of a request on this stream, and what a client may make of it.
struct Case {
    name: &'static str,
    frames: Vec<Vec<u8>>,
    closes: bool,
    expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Whole(&'static str),
    /// An answer of ours, or one that shows that something is missing.
    Incomplete,
}

use Expected::{Incomplete, Whole};

#[rustfmt::skip]
fn cases(stream: u32) -> Vec<Case> {
    let case = |name, frames: &[Vec<u8>], closes, expected| Case { name, frames: frames.to_vec(), closes, expected };
    let head = || answer(stream, 0, &[STATUS]);
    let counted = |length| answer(stream, 0, &[STATUS, ("content-length", length)]);
    let data = |flags, text: &str| frame(DATA, flags, stream, text.as_bytes());
    let goaway = |last: u32, code: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    vec![
        case("all of it", &[head(), data(END_STREAM, "hello")], false, Whole("hello")),
        case("in pieces", &[head(), data(0, "he"), data(0, ""), data(0, "llo"), data(END_STREAM, "")], false, Whole("hello")),
        case("with trailers", &[head(), data(0, "hello"), answer(stream, END_STREAM, &[("x-a", "1")])], false, Whole("hello")),
        case("behind hints", &[answer(stream, 0, &[(":status", "103")]), answer(stream, 0, &[(":status", "100")]), head(), data(END_STREAM, "hello")], false, Whole("hello")),
        case("with an end of the connection behind it", &[head(), data(END_STREAM, "hello"), goaway(stream, NO_ERROR)], true, Whole("hello")),
        case("with an end of the connection in it", &[head(), data(0, "hel"), goaway(stream, NO_ERROR), data(END_STREAM, "lo")], false, Whole("hello")),
        case("with no head in sight and the end", &[], true, Incomplete),
        case("a head and the end", &[head()], true, Incomplete),
        case("a piece and the end", &[head(), data(0, "hello")], true, Incomplete),
        case("a counted piece and the end", &[counted("10"), data(0, "hello")], true, Incomplete),
        case("a reset", &[reset(stream, CANCEL)], false, Incomplete),
        case("a head and a reset", &[head(), reset(stream, CANCEL)], false, Incomplete),
        case("a piece and a reset", &[head(), data(0, "hello"), reset(stream, CANCEL)], false, Incomplete),
        case("a piece and a reset without an error", &[head(), data(0, "hello"), reset(stream, NO_ERROR)], false, Incomplete),
        case("a piece and an error of the connection", &[head(), data(0, "hello"), goaway(stream, PROTOCOL_ERROR)], true, Incomplete),
        case("a piece and a goaway of others", &[head(), data(0, "hello"), goaway(0, NO_ERROR)], true, Incomplete),
        case("less than its length", &[counted("10"), data(END_STREAM, "hello")], false, Incomplete),
        case("more than its length", &[counted("3"), data(END_STREAM, "hello")], false, Incomplete),
        case("a length and nothing", &[answer(stream, END_STREAM, &[STATUS, ("content-length", "5")])], false, Incomplete),
        case("data without a head", &[data(END_STREAM, "hello")], false, Incomplete),
        case("a head without a status", &[answer(stream, 0, &[("x-a", "1")]), data(END_STREAM, "hello")], false, Incomplete),
        case("a status of letters", &[answer(stream, 0, &[(":status", "abc")]), data(END_STREAM, "hello")], false, Incomplete),
        case("an upgrade", &[answer(stream, 0, &[(":status", "101")]), data(END_STREAM, "hello")], false, Incomplete),
        case("a name in capitals", &[answer(stream, 0, &[STATUS, ("X-A", "1")]), data(END_STREAM, "hello")], false, Incomplete),
        case("a line end in a value", &[answer(stream, 0, &[STATUS, ("x-a", "1\r\nx-b: 2")]), data(END_STREAM, "hello")], false, Incomplete),
        case("a coding", &[answer(stream, 0, &[STATUS, ("transfer-encoding", "chunked")]), data(END_STREAM, "5\r\nhello\r\n0\r\n\r\n")], false, Incomplete),
        case("a push", &[frame(PUSH_PROMISE, END_HEADERS, stream, &[&[0, 0, 0, 200][..], &block(&head_fields())].concat()), head(), data(END_STREAM, "hello")], false, Incomplete),
        case("an answer on another stream", &[answer(stream + 2, END_STREAM, &[STATUS])], false, Incomplete),
        case("data on another stream", &[head(), frame(DATA, END_STREAM, stream + 2, b"secret")], false, Incomplete),
        case("a frame that is too large", &[head(), frame(DATA, 0, stream, &[0; 20_000])], false, Incomplete),
        case("a block that cannot be read", &[frame(HEADERS, END_HEADERS, stream, &[0x80])], false, Incomplete),
        case("half a block", &[frame(HEADERS, 0, stream, &block(&[STATUS]))], true, Incomplete),
        case("text", &[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()], true, Incomplete),
        case("silence", &[], false, Incomplete),
        case("silence in the middle", &[head(), data(0, "hello")], false, Incomplete),
    ]
}

fn head_fields() -> Vec<(&'static str, &'static str)> {
    head("GET", "/pushed")
}

/// A proxy and what its origin is reached through.
struct Behind {
    proxy: Proxy,
    _front: Option<TlsFront>,
}

impl Deref for Behind {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

fn proxy(transport: Transport, origin: &FrameOrigin) -> Behind {
    let manner = Manner {
        protocols: &["h2"],
        ..Manner::default()
    };
    let front = (transport == Transport::Tls).then(|| TlsFront::start(origin.address(), manner));
    let (address, spoken) = match &front {
        None => (origin.address(), "protocol \"h2c\"".to_owned()),
        Some(front) => (front.address(), tls_tail::upstream()),
    };
    let target = format!(
        "target \"{address}\"; {spoken}; timeouts {{ response-header \"600ms\"; idle \"600ms\" }}"
    );
    let routes = r#"
        system { worker-threads 1 }
        routes { route "all" { upstream "frames" } }
    "#;
    Behind {
        proxy: Proxy::builder(routes).upstream("frames", &target).start(),
        _front: front,
    }
}

/// An origin that answers as the case of this number says.
fn origin(current: Arc<AtomicUsize>) -> FrameOrigin {
    FrameOrigin::serving(move |_, peer| {
        peer.send(frame(SETTINGS, 0, 0, &[]));
        while let Some(request) = peer.next_of(HEADERS) {
            let case = cases(request.stream).remove(current.load(SeqCst));
            peer.send(case.frames.concat());
            if case.closes {
                return;
            }
        }
    })
}

fn is_right(answer: Option<&Response>, expected: Expected) -> bool {
    match (answer, expected) {
        (Some(answer), Whole(body)) => {
            answer.status == 200 && answer.complete && answer.body == body.as_bytes()
        }
        (Some(answer), Incomplete) => !answer.complete || matches!(answer.status, 502 | 504),
        (None, expected) => expected == Incomplete,
    }
}

fn what_breaks_off_never_looks_complete(transport: Transport) {
    let cases = cases(1);
    assert!(cases.len() >= 30, "{}", cases.len());
    let current = Arc::new(AtomicUsize::new(0));
    let origin = origin(current.clone());
    let proxy = proxy(transport, &origin);
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        current.store(number, SeqCst);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = loop {
            match client.try_response() {
                Some(answer) if answer.status < 200 => {}
                answer => break answer,
            }
        };
        if !is_right(answer.as_ref(), case.expected) {
            failures.push(format!("{}: {answer:?}", case.name));
        }
        let answer = exchange(proxy.address_of("http"), vec![request_for("/")]).remove(0);
        let right = match (&answer, case.expected) {
            (Ok(answer), Whole(body)) => answer.status() == 200 && answer.body() == body,
            (Ok(answer), Incomplete) => matches!(answer.status().as_u16(), 502 | 504),
            (Err(error), Incomplete) => error.is_reset(),
            (Err(_), Whole(_)) => false,
        };
        if !right {
            failures.push(format!("{} over HTTP/2: {answer:?}", case.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Answers with the number of the connection.
fn number(peer: &mut FrameClient, connection: usize, stream: u32) {
    peer.send(answer(stream, 0, &[STATUS]));
    peer.send(frame(
        DATA,
        END_STREAM,
        stream,
        connection.to_string().as_bytes(),
    ));
}

/// A connection that its origin takes out of use is left for another, and no request is lost with it.
fn a_goaway_between_requests_is_obeyed(transport: Transport) {
    let origin = FrameOrigin::serving(|connection, peer| {
        peer.send(frame(SETTINGS, 0, 0, &[]));
        while let Some(request) = peer.next_of(HEADERS) {
            number(peer, connection, request.stream);
            // The next ones are for another connection.
            let last = [request.stream.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
            peer.send(frame(GOAWAY, 0, 0, &last));
        }
    });
    let proxy = proxy(transport, &origin);
    let mut client = proxy.client();
    for round in 1..=5 {
        let answer = client.get("/", &[]);
        assert_eq!((answer.status, answer.text()), (200, round.to_string()));
    }
    assert_eq!(origin.connections(), 5);
}

/// What an origin has not taken up it may be asked again, by whatever method: nothing has happened yet.
fn requests_that_were_not_taken_up_are_sent_again(transport: Transport) {
    for name in ["refused", "goaway"] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let origin = FrameOrigin::serving(move |connection, peer| {
            peer.send(frame(SETTINGS, 0, 0, &[]));
            while let Some(request) = peer.next_of(HEADERS) {
                match counted.fetch_add(1, SeqCst) {
                    0 => {
                        let last = [0_u32.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
                        peer.send(match name {
                            "refused" => reset(request.stream, REFUSED_STREAM),
                            _ => frame(GOAWAY, 0, 0, &last),
                        });
                    }
                    _ => number(peer, connection, request.stream),
                }
            }
        });
        let proxy = proxy(transport, &origin);
        assert_eq!(proxy.get("/").status, 200, "{name}");
        assert_eq!(asked.load(SeqCst), 2, "{name}");
    }
}

/// More requests at a time than the origin takes on a connection go over others.
fn an_origin_may_take_few_streams(transport: Transport) {
    let origin = FrameOrigin::serving(|connection, peer| {
        peer.send(frame(SETTINGS, 0, 0, &setting(3, 1)));
        while let Some(request) = peer.next_of(HEADERS) {
            number(peer, connection, request.stream);
        }
    });
    let proxy = proxy(transport, &origin);
    let requests = (0..30)
        .map(|number| request_for(&format!("/{number}")))
        .collect();
    for answer in exchange(proxy.address_of("http"), requests) {
        assert_eq!(answer.unwrap().status(), 200);
    }
}

/// Reads so many bytes of bodies.
fn receive(peer: &mut FrameClient, count: usize) {
    let mut received = 0;
    while received < count {
        received += peer.next_of(DATA).expect("data").payload.len();
    }
    assert_eq!(received, count);
}

/// Windows that are made small while a body is on its way, and large again.
fn an_origin_may_change_its_windows(transport: Transport) {
    let origin = FrameOrigin::serving(|connection, peer| {
        peer.send(frame(SETTINGS, 0, 0, &setting(4, 10)));
        let Some(first) = peer.next_of(HEADERS) else {
            return;
        };
        // The settings are in effect when this is through.
        number(peer, connection, first.stream);
        let Some(request) = peer.next_of(HEADERS) else {
            return;
        };
        receive(peer, 10);
        // Ten below zero, five above it.
        peer.send(frame(SETTINGS, 0, 0, &setting(4, 0)));
        peer.send(window_update(request.stream, 15));
        receive(peer, 5);
        peer.send(frame(SETTINGS, 0, 0, &setting(4, 30)));
        receive(peer, 30);
        peer.send(window_update(request.stream, 1000));
        receive(peer, 5);
        number(peer, connection, request.stream);
        peer.end();
    });
    let proxy = proxy(transport, &origin);
    let mut client = proxy.client();
    assert_eq!(client.get("/", &[]).text(), "1");
    let body = "x".repeat(50);
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{body}"
    ));
    assert_eq!(client.response().text(), "1");
}

/// An answer that is there before the request is through counts, and what is left of the request is not waited for.
fn an_early_answer_counts(transport: Transport) {
    let origin = FrameOrigin::serving(|connection, peer| {
        peer.send(frame(SETTINGS, 0, 0, &[]));
        while let Some(request) = peer.next_of(HEADERS) {
            number(peer, connection, request.stream);
            peer.send(reset(request.stream, NO_ERROR));
        }
    });
    let proxy = proxy(transport, &origin);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\nhalf");
    let answer = client.response();
    assert_eq!(
        (answer.status, answer.text(), answer.complete),
        (200, "1".to_owned(), true)
    );
    let mut client = FrameClient::connect(proxy.address_of("http"));
    client.send(post(1, "/"));
    client.send(frame(DATA, 0, 1, b"half"));
    assert!(matches!(client.outcome(1), Outcome::Answer(200, _)));
}
