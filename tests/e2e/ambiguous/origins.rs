//! Origins that misbehave: what they leave incomplete never looks complete, and nothing of it gets into another answer.

use crate::harness::{
    Answer, DEADLINE, Origin, Proxy, Recorded, Response, TestAgent, eventually,
    http2::{exchange, get},
};
use socket2::SockRef;
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::Duration,
};

/// What an origin does with a request for it.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    then: Then,
    expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    Close,
    Reset,
    /// These bytes again and again, as long as somebody takes them.
    Repeat(&'static str),
    /// Nothing more, without an end.
    Silence,
}

/// What a client may make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// An answer of ours with this status.
    Ours(u16),
    /// An answer of ours, or one that shows that something is missing.
    Incomplete,
    /// This status and this body, whole.
    Whole(u16, &'static str),
    /// The same, where the end of the connection is that of the body. A client of HTTP/1.1 may be told in chunks.
    WholeAtEnd(u16, &'static str),
}

use Expected::{Incomplete, Ours, Whole, WholeAtEnd};
use Then::{Close, Repeat, Reset, Silence, Stay};

fn case(name: &'static str, bytes: impl AsRef<[u8]>, then: Then, expected: Expected) -> Case {
    Case {
        name,
        bytes: bytes.as_ref().to_vec(),
        then,
        expected,
    }
}

/// An answer with status 200 whose head has these lines.
fn ok(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}")
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let chunked = |body: &str| ok("transfer-encoding: chunked", body);
    let hello = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        // No answer of HTTP.
        case("nothing and the end", "", Close, Ours(502)),
        case("nothing and a reset", "", Reset, Ours(502)),
        case("half a head", "HTTP/1.1 200 OK\r\ncontent-len", Close, Ours(502)),
        case("garbage", "hello\r\n\r\n", Close, Ours(502)),
        case("bytes that are no text", [0x16, 3, 1, 0, 5, 1, 2, 13, 10, 13, 10], Close, Ours(502)),
        case("HTTP/0.9", "<html>hello</html>", Close, Ours(502)),
        case("HTTP/2 in text", "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", Close, Ours(502)),
        case("a status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n", Close, Ours(502)),
        case("a status of four digits", "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", Close, Ours(502)),
        case("a status of letters", "HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n", Close, Ours(502)),
        case("a status of zero", "HTTP/1.1 000 No\r\ncontent-length: 0\r\n\r\n", Close, Ours(502)),
        case("a status without words", "HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", Stay, Whole(200, "hello")),
        case("a head that does not end", "HTTP/1.1 200 OK\r\n", Repeat("x-filler: 0123456789abcdef\r\n"), Ours(502)),
        case("a line that does not end", "HTTP/1.1 200 OK\r\nx-filler: ", Repeat("0123456789abcdef"), Ours(502)),
        case("a head that is not sent to its end", "HTTP/1.1 200 OK\r\n", Silence, Ours(504)),
        // What is said in advance.
        case("100 without being asked", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", Stay, Whole(200, "hello")),
        case("a hundred hints", [&b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100)[..], ok("content-length: 5", "hello").as_bytes()].concat(), Stay, Whole(200, "hello")),
        case("hints without an end", "", Repeat("HTTP/1.1 103 Early Hints\r\n\r\n"), Ours(502)),
        case("an upgrade that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello", Stay, Ours(502)),
        case("hints and nothing", "HTTP/1.1 103 Early Hints\r\n\r\n", Close, Ours(502)),
        // Heads.
        case("a folded line", ok("x-a: 1\r\n 2\r\ncontent-length: 5", "hello"), Close, Whole(200, "hello")),
        case("a space behind a name", ok("content-length : 5", "hello"), Close, Whole(200, "hello")),
        case("a space in a name", ok("x a: 1\r\ncontent-length: 5", "hello"), Close, Ours(502)),
        case("NUL in a value", ok("x-a: 1\0\r\ncontent-length: 5", "hello"), Close, Ours(502)),
        case("CR in a value", ok("x-a: 1\rset-cookie: a=b\r\ncontent-length: 5", "hello"), Close, Ours(502)),
        case("a line without a colon", ok("hello\r\ncontent-length: 5", "hello"), Close, Ours(502)),
        case("lines that end with LF", "HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", Stay, Whole(200, "hello")),
        // Lengths.
        case("less than its length", ok("content-length: 10", "hello"), Close, Incomplete),
        case("less than its length and a reset", ok("content-length: 10", "hello"), Reset, Incomplete),
        case("more than its length", ok("content-length: 5", "hello, and more"), Stay, Whole(200, "hello")),
        case("another answer behind it", ok("content-length: 5", "helloHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"), Stay, Whole(200, "hello")),
        case("two lengths", ok("content-length: 5\r\ncontent-length: 6", "hello!"), Close, Ours(502)),
        case("two lengths that are the same", ok("content-length: 5\r\ncontent-length: 5", "hello"), Stay, Whole(200, "hello")),
        case("a length with a sign", ok("content-length: +5", "hello"), Close, Ours(502)),
        case("a length below nothing", ok("content-length: -5", "hello"), Close, Ours(502)),
        case("a length in hexadecimal", ok("content-length: 0x5", "hello"), Close, Ours(502)),
        case("a length that is no number", ok("content-length: five", "hello"), Close, Ours(502)),
        case("a length beyond all numbers", ok("content-length: 99999999999999999999999", "hello"), Close, Ours(502)),
        case("no length", ok("x-a: 1", "hello"), Close, WholeAtEnd(200, "hello")),
        case("no length and a reset", ok("x-a: 1", "hello"), Reset, Incomplete),
        // Codings.
        case("chunks", chunked(hello), Stay, Whole(200, "hello")),
        case("chunks and trailers", chunked("5\r\nhello\r\n0\r\nx-a: 1\r\n\r\n"), Stay, Whole(200, "hello")),
        case("chunks without the last", chunked("5\r\nhello\r\n"), Close, Incomplete),
        case("half a chunk", chunked("a\r\nhello"), Close, Incomplete),
        case("half a size", chunked("5\r\nhello\r\n1"), Close, Incomplete),
        case("half a last chunk", chunked("5\r\nhello\r\n0\r\n"), Close, Incomplete),
        case("a size that is none", chunked("5\r\nhello\r\nxyz\r\n"), Close, Incomplete),
        case("a size below nothing", chunked("-5\r\nhello\r\n0\r\n\r\n"), Close, Incomplete),
        case("a size beyond all numbers", chunked("fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), Close, Incomplete),
        case("a chunk longer than its size", chunked("3\r\nhello\r\n0\r\n\r\n"), Close, Incomplete),
        case("chunks and another answer", chunked("5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"), Stay, Whole(200, "hello")),
        case("chunks and a length", ok("content-length: 3\r\ntransfer-encoding: chunked", hello), Close, Whole(200, "hello")),
        case("a length and chunks", ok("transfer-encoding: chunked\r\ncontent-length: 15", hello), Close, Whole(200, "hello")),
        case("gzip in chunks", ok("transfer-encoding: gzip, chunked", hello), Close, Ours(502)),
        case("gzip and then chunks", ok("transfer-encoding: gzip\r\ntransfer-encoding: chunked", hello), Close, Ours(502)),
        case("gzip to the end", ok("transfer-encoding: gzip", "hello"), Close, Ours(502)),
        case("identity", ok("transfer-encoding: identity\r\ncontent-length: 5", "hello"), Close, Ours(502)),
        case("chunks twice", ok("transfer-encoding: chunked, chunked", hello), Close, Ours(502)),
        case("chunks in HTTP/1.0", format!("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{hello}"), Close, Ours(502)),
        // Answers that have no body, and have one.
        case("204 with a length", "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", Stay, Whole(204, "")),
        case("204 in chunks", format!("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n{hello}"), Stay, Whole(204, "")),
        case("304 with a body", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello", Stay, Whole(304, "")),
        case("304 and another answer", "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret", Stay, Whole(304, "")),
        // Ends.
        case("an end that was announced", ok("content-length: 5\r\nconnection: close", "hello"), Close, Whole(200, "hello")),
        case("an end that was announced and does not come", ok("content-length: 5\r\nconnection: close", "hello"), Silence, Whole(200, "hello")),
        case("an end that was not announced", ok("content-length: 5", "hello"), Close, Whole(200, "hello")),
        case("a reset behind the end", ok("content-length: 5", "hello"), Silence, Whole(200, "hello")),
        case("silence in the middle", ok("content-length: 10", "hello"), Silence, Incomplete),
    ]
}

/// The number of the case that is asked for.
fn number_of(target: &str) -> Option<usize> {
    target.strip_prefix("/case/")?.parse().ok()
}

/// Answers a request for a case as that says, and everything else with what was asked for.
fn answer(cases: &[Case], request: &Recorded) -> Answer {
    let target = request.target();
    let Some(case) = number_of(&target).map(|number| &cases[number]) else {
        return Answer::ok(&target);
    };
    let answer = Answer::raw(case.bytes.clone());
    match case.then {
        Stay => answer,
        Close => answer.then_close(),
        Reset => answer.then(|stream| {
            let linger = Some(Duration::ZERO);
            SockRef::from(&*stream).set_linger(linger).unwrap();
        }),
        Repeat(more) => answer.then(move |stream| {
            let many = more.repeat(500);
            while stream.write_all(many.as_bytes()).is_ok() {}
        }),
        Silence => answer.then(silence),
    }
}

/// Until the proxy has had enough.
fn silence(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0]);
}

const TIMEOUTS: &str = r#"timeouts { response-header "500ms"; idle "500ms" }"#;

/// A proxy that passes responses on as they are, and one with an agent that sees all of them.
fn proxies(origin: &Origin, agent: &TestAgent) -> [(&'static str, Proxy); 2] {
    let target = format!("target \"{}\"; {TIMEOUTS}", origin.address());
    let plain = Proxy::builder(r#"routes { route "all" { upstream "slow" } }"#)
        .upstream("slow", &target)
        .start();
    let inspected = Proxy::builder(
        r#"routes { route "all" { filters { agent "waf" }; upstream "slow" } }"#,
    )
    .upstream("slow", &target)
    .agent_with(
        agent,
        r#"timeout "10s"; inspect { response-headers; response-body "stream" limit="1MiB" }"#,
    )
    .start();
    inspected.wait_ready();
    [("plain", plain), ("inspected", inspected)]
}

fn is_right(answer: Option<&Response>, expected: Expected) -> bool {
    match (answer, expected) {
        (Some(answer), Ours(status)) => answer.status == status && answer.complete,
        (None, Incomplete) => true,
        (Some(answer), Incomplete) => !answer.complete || answer.status == 502,
        (Some(answer), Whole(status, body)) => {
            answer.status == status && answer.body == body.as_bytes() && answer.complete
        }
        (Some(answer), WholeAtEnd(status, body)) => {
            answer.status == status && answer.body == body.as_bytes()
        }
        (None, _) => false,
    }
}

fn is_right_over_http2(
    answer: &Result<http::Response<bytes::Bytes>, h2::Error>,
    expected: Expected,
) -> bool {
    match (answer, expected) {
        (Ok(answer), Ours(status)) => answer.status() == status,
        (Ok(answer), Incomplete) => matches!(answer.status().as_u16(), 502 | 504),
        (Err(error), Incomplete) => error.is_reset(),
        (Ok(answer), Whole(status, body) | WholeAtEnd(status, body)) => {
            answer.status() == status && answer.body() == body
        }
        (Err(_), _) => false,
    }
}

/// Those that come next get what is theirs, whichever connections they go over.
fn leak(proxy: &Proxy) -> Option<String> {
    let mut client = proxy.client();
    (0..4).find_map(|number| {
        let path = format!("/next/{number}");
        let answer = client.get(&path, &[]);
        let right = answer.status == 200 && answer.text() == path;
        (!right).then(|| format!("{path}: {} {:?}", answer.status, answer.text()))
    })
}

#[test]
fn what_an_origin_leaves_incomplete_never_looks_complete() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let agent = TestAgent::named("waf").start();
    let origin = {
        let cases = self::cases();
        Origin::answering(move |request| answer(&cases, request))
    };
    let mut failures = Vec::new();
    for (scene, proxy) in proxies(&origin, &agent) {
        for (number, case) in cases.iter().enumerate() {
            let wrong = failure(&proxy, number, case);
            failures.extend(wrong.map(|wrong| format!("{scene}, {wrong}")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn failure(proxy: &Proxy, number: usize, case: &Case) -> Option<String> {
    let name = case.name;
    let path = format!("/case/{number}");
    let mut client = proxy.client();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
    let answer = loop {
        match client.try_response() {
            Some(answer) if answer.status < 200 => {}
            answer => break answer,
        }
    };
    if !is_right(answer.as_ref(), case.expected) {
        let shown = answer.map(|answer| {
            (
                answer.status,
                answer.complete,
                String::from_utf8_lossy(&answer.body).into_owned(),
            )
        });
        return Some(format!("{name}: {shown:?}, not {:?}", case.expected));
    }
    // The same connection, if it is still there, has nothing of it left.
    client.send("GET /same HTTP/1.1\r\nhost: a\r\n\r\n");
    if let Some(next) = client.try_response()
        && (next.status != 200 || next.text() != "/same")
    {
        return Some(format!("{name}, then: {} {:?}", next.status, next.text()));
    }
    if let Some(leaked) = leak(proxy) {
        return Some(format!("{name}, then {leaked}"));
    }
    let answers = exchange(proxy.address_of("http"), vec![get(&path), get("/beside")]);
    if !is_right_over_http2(&answers[0], case.expected) {
        return Some(format!("{name} over HTTP/2: {:?}", answers[0]));
    }
    let beside = answers[1].as_ref().map(|answer| answer.body().clone());
    if !beside.is_ok_and(|body| body == "/beside") {
        return Some(format!("{name} over HTTP/2, beside it: {:?}", answers[1]));
    }
    leak(proxy).map(|leaked| format!("{name} over HTTP/2, then {leaked}"))
}

/// An answer to HEAD has no body, whatever comes.
#[test]
fn a_body_behind_an_answer_to_head_is_nobodys() {
    let origin = Origin::answering(|request| {
        let line = request.request_line();
        match line.starts_with("HEAD") {
            true => Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"),
            false => Answer::ok(&request.target()),
        }
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    for round in 0..5 {
        client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(
            client.response_to_head().header("content-length"),
            Some("6")
        );
        let path = format!("/next/{round}");
        assert_eq!(client.get(&path, &[]).text(), path);
    }
}

/// What an origin says on a connection that nobody has asked on.
#[test]
fn an_answer_to_nobody_is_given_to_nobody() {
    let (said, is_said) = mpsc::channel();
    let said = std::sync::Mutex::new(said);
    let origin = Origin::answering(move |request| {
        let said = said.lock().unwrap().clone();
        if request.target() != "/first" {
            return Answer::ok(&request.target());
        }
        Answer::ok("/first").then(move |stream| {
            // When the connection is kept already.
            thread::sleep(Duration::from_millis(100));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret");
            said.send(()).unwrap();
            silence(stream);
        })
    });
    let proxy = Proxy::builder(
        "system { worker-threads 1 }\nroutes { route \"all\" { upstream \"origin\" } }",
    )
    .origin(&origin)
    .start();
    for round in 0..5 {
        assert_eq!(proxy.get("/first").text(), "/first");
        is_said.recv_timeout(DEADLINE).unwrap();
        // It has arrived when the proxy has served something after it.
        assert_eq!(proxy.probe("/livez").status, 200);
        let path = format!("/next/{round}");
        let answer = eventually("an answer", || Some(proxy.get(&path)));
        assert_eq!(answer.text(), path);
    }
}
