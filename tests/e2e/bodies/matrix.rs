//! Bodies of all sizes on every way through the proxy, with everything that an agent can do to them.

use super::{Framing, body, post};
use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
    eventually, http2,
    tls_front::{Manner, TlsFront},
    tls_tail::{self, TlsTail},
};
use bytes::Bytes;
use portcullis_agent_protocol::Decision;

/// An agent likes pieces of this size.
const PIECE: usize = 64 << 10;
const SIZES: [usize; 5] = [0, 1, PIECE, PIECE + 1, 5 << 20];
/// For agents whose every piece is JSON.
const FEW_SIZES: [usize; 3] = [0, 1, PIECE + 1];

/// What the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Passes,
    /// Every piece becomes one byte.
    Shortens,
    /// Every piece goes.
    Empties,
    /// Every piece gets two bytes more.
    Lengthens,
    /// The last piece is blocked, and in a buffer that is all of the body.
    Blocks,
}

const DEEDS: [Deed; 5] = [
    Deed::Passes,
    Deed::Shortens,
    Deed::Empties,
    Deed::Lengthens,
    Deed::Blocks,
];

impl Deed {
    const fn name(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Shortens => "shortens",
            Self::Empties => "empties",
            Self::Lengthens => "lengthens",
            Self::Blocks => "blocks",
        }
    }

    /// Checks what has come of a body. It was shown in this many pieces, if that is known.
    fn check(self, original: &[u8], got: &[u8], pieces: Option<usize>, case: &str) {
        // Bodies are too large to be printed.
        let same = |expected: &[u8]| {
            assert_eq!(got.len(), expected.len(), "{case}");
            assert!(got == expected, "{case}: another body of the same size");
        };
        match self {
            Self::Passes => same(original),
            Self::Empties => same(b""),
            Self::Shortens => {
                same(&vec![b'-'; got.len()]);
                assert_pieces(got.len(), pieces, original, case);
            }
            Self::Lengthens => {
                // Whole slices, because it may be 5 MiB.
                let between: Vec<&[u8]> = got.split(|byte| *byte == b'[').skip(1).collect();
                assert_pieces(between.len(), pieces, original, case);
                let kept = between.into_iter().map(|piece| {
                    let kept = piece.strip_suffix(b"]");
                    kept.unwrap_or_else(|| panic!("{case}: a piece without its end"))
                });
                let kept = kept.collect::<Vec<_>>().concat();
                assert!(kept == original, "{case}: another body between brackets");
            }
            Self::Blocks => panic!("{case}: a blocked body has come through"),
        }
    }
}

/// That a body was shown in as many pieces as was expected, or in as many as it has to have.
fn assert_pieces(count: usize, expected: Option<usize>, original: &[u8], case: &str) {
    match expected {
        Some(expected) => assert_eq!(count, expected, "{case}: pieces"),
        None => assert!(count >= fewest_pieces(original.len()), "{case}: {count}"),
    }
}

fn fewest_pieces(size: usize) -> usize {
    size.div_ceil(PIECE).max(1)
}

/// Who asks and how the body of the request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Length,
    Chunks,
    Http2,
}

/// What is answered, and how the body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Length,
    Chunks,
    /// By the end of the connection.
    Close,
    Http2,
}

/// What carries HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Tcp,
    Tls,
}

const TELLERS: [Teller; 4] = [Teller::Length, Teller::Chunks, Teller::Close, Teller::Http2];

impl Over {
    /// Who asks, and whether the origin speaks HTTP/2. Within TLS nothing else is spoken here.
    fn ways_up(self) -> Vec<(Asker, bool)> {
        if self == Self::Tls {
            return vec![(Asker::Http2, true)];
        }
        let askers = [Asker::Length, Asker::Chunks, Asker::Http2];
        let both = |asker| [false, true].map(|to_http2| (asker, to_http2));
        askers.into_iter().flat_map(both).collect()
    }

    fn ways_down(self) -> Vec<(Asker, Teller)> {
        if self == Self::Tls {
            return vec![(Asker::Http2, Teller::Http2)];
        }
        let all = |asker| TELLERS.map(|teller| (asker, teller));
        [Asker::Length, Asker::Http2]
            .into_iter()
            .flat_map(all)
            .collect()
    }
}

/// One proxy, one agent and both kinds of origins, for many cases.
struct Ways {
    mode: &'static str,
    proxy: Proxy,
    http1: Origin,
    http2: Http2Origin,
    http2_client: http2::Client,
    /// TLS on both sides of the proxy, where there is any.
    _tls: Option<(TlsTail, TlsFront)>,
    /// Ends before the proxy does.
    _agent: TestAgent,
}

impl Ways {
    fn new(
        dialect: Dialect,
        mode: &'static str,
        direction: &str,
        phase: Phase,
        over: Over,
    ) -> Self {
        let agent = TestAgent::named("waf")
            .speaking(dialect)
            .then(
                phase,
                When::Always.on("/shortens"),
                Reaction::Replace("-".into()),
            )
            .then(
                phase,
                When::Always.on("/empties"),
                Reaction::Replace(String::new()),
            )
            .then(
                phase,
                When::Always.on("/lengthens"),
                Reaction::Replace("[$DATA]".into()),
            )
            .then(phase, When::Last.on("/blocks"), Decision::block(403))
            .start();
        let http1 = Origin::answering(|request| http1_answer(&request.target()));
        let http2 = Http2Origin::answering(|request| http2_answer(&request.target()));
        let inspect = format!("request-headers; {direction}-body \"{mode}\" limit=\"8MiB\"");
        let front = (over == Over::Tls).then(|| {
            let protocols = &["h2"];
            let manner = Manner {
                protocols,
                ..Manner::default()
            };
            TlsFront::start(http2.address(), manner)
        });
        let upstream = match &front {
            Some(front) => format!("target \"{}\"; {}", front.address(), tls_tail::upstream()),
            None => format!("target \"{}\"; protocol \"h2c\"", http2.address()),
        };
        let listener = match over {
            Over::Tls => tls_tail::listener(),
            Over::Tcp => "h2c".to_owned(),
        };
        let proxy = Proxy::builder(
            r#"system { worker-threads 1 }
            routes {
                route "two" { match { host "two" }; filters { agent "waf" }; upstream "two" }
                route "one" { filters { agent "waf" }; upstream "origin" }
            }"#,
        )
        .listener(&listener)
        .origin(&http1)
        .upstream("two", &upstream)
        .agent_with(&agent, &format!("timeout \"10s\"; inspect {{ {inspect} }}"))
        .start();
        proxy.wait_ready();
        let tls = front.map(|front| (TlsTail::start(proxy.address_of("http"), "h2"), front));
        let address = match &tls {
            Some((tail, _)) => tail.address(),
            None => proxy.address_of("http"),
        };
        let http2_client = http2::Client::connect(address).unwrap();
        Self {
            mode,
            proxy,
            http1,
            http2,
            http2_client,
            _tls: tls,
            _agent: agent,
        }
    }

    fn holds(&self) -> bool {
        self.mode == "buffer"
    }

    /// What a response from the given client was: its status and its body, if all of that came.
    fn ask(&self, asker: Asker, to_http2: bool, target: &str, body: Option<&[u8]>) -> Got {
        if asker == Asker::Http2 {
            let method = if body.is_some() { "POST" } else { "GET" };
            let mut request =
                http2::request(method, target, body.unwrap_or_default().to_vec().into());
            if to_http2 {
                let uri = request.uri().to_string().replace("//test/", "//two/");
                *request.uri_mut() = uri.parse().unwrap();
            }
            return self.http2_client.ask(request).map_or(Got::Cut, |response| {
                let length = response.headers().get("content-length");
                let length = length.map(|length| length.to_str().unwrap().parse().unwrap());
                Got::Whole(response.status().as_u16(), length, response.into_body())
            });
        }
        let framing = match asker {
            Asker::Chunks => Framing::Chunks(48_000),
            Asker::Length | Asker::Http2 => Framing::Length,
        };
        let host = if to_http2 { "two" } else { "test" };
        let mut client = self.proxy.client();
        let response = match body {
            Some(body) => {
                let bytes = post(target, body, framing, &[]);
                let head = b"host: test\r\n";
                let at = crate::harness::find(&bytes, head).unwrap();
                client.send(&bytes[..at]);
                client.send(format!("host: {host}\r\n"));
                client.send(&bytes[at + head.len()..]).response()
            }
            None => client.get(target, &[&format!("host: {host}")]),
        };
        if !response.complete {
            return Got::Cut;
        }
        let length = response.header("content-length");
        let length = length.map(|length| length.parse().unwrap());
        Got::Whole(response.status, length, response.body.into())
    }

    /// What has arrived at both origins since the last call: target, length by its head, body, and whether that was whole.
    fn take(&self) -> Vec<Arrived> {
        let one = self.http1.take().into_iter().map(|request| Arrived {
            target: request.target(),
            length: request.header("content-length"),
            complete: request.complete,
            body: request.body,
        });
        let two = self.http2.take().into_iter().map(|request| Arrived {
            target: request.target(),
            length: request.header("content-length"),
            complete: request.complete,
            body: request.body,
        });
        one.chain(two).collect()
    }
}

#[derive(Debug)]
enum Got {
    /// Status, content-length, body.
    Whole(u16, Option<usize>, Bytes),
    Cut,
}

struct Arrived {
    target: String,
    length: Option<String>,
    complete: bool,
    body: Vec<u8>,
}

/// The value of a parameter of the query.
fn parameter(target: &str, name: &str) -> String {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(found, _)| *found == name);
    found.map_or_else(String::new, |(_, value)| value.to_owned())
}

fn said_at(target: &str) -> Vec<u8> {
    body(parameter(target, "says").parse().unwrap_or(0))
}

fn http1_answer(target: &str) -> Answer {
    let tag = [("etag", "\"1\"")];
    match parameter(target, "framing").as_str() {
        "Chunks" => Answer::chunked(200, &tag, &said_at(target), 48_000),
        "Close" => {
            let head = b"HTTP/1.1 200 OK\r\netag: \"1\"\r\n\r\n".to_vec();
            Answer::raw([head, said_at(target)].concat()).then_close()
        }
        _ => Answer::with(200, &tag, &said_at(target)),
    }
}

fn http2_answer(target: &str) -> Http2Answer {
    Http2Answer::with(200, &[("etag", "\"1\"")], said_at(target))
}

/// Sends bodies of these sizes on all ways.
fn requests(dialect: Dialect, mode: &'static str, sizes: &[usize], over: Over) {
    let ways = Ways::new(dialect, mode, "request", Phase::RequestBody, over);
    // Blocks first, to see that there is not even a connection.
    let blocks_first = DEEDS.into_iter().rev();
    for deed in blocks_first {
        for size in sizes {
            for (asker, to_http2) in over.ways_up() {
                request(&ways, deed, *size, asker, to_http2, dialect);
            }
        }
        if deed == Deed::Blocks && ways.holds() {
            // A body without a byte has nothing that could be blocked, unless it comes in chunks.
            let unseen = usize::from(sizes.contains(&0));
            let unseen_over_tcp = if over == Over::Tcp { unseen } else { 0 };
            assert_eq!(ways.http1.connections(), unseen_over_tcp, "{dialect:?}");
            assert_eq!(ways.http2.connections(), unseen, "{dialect:?}");
        }
    }
    ways.proxy
        .wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
}

fn request(ways: &Ways, deed: Deed, size: usize, asker: Asker, to_http2: bool, dialect: Dialect) {
    let mode = ways.mode;
    let case = format!("{dialect:?} {mode} {deed:?} {size} {asker:?} to h2: {to_http2}");
    let target = format!("/{}?size={size}&by={asker:?}&two={to_http2}", deed.name());
    let original = body(size);
    let got = ways.ask(asker, to_http2, &target, Some(&original));
    let Got::Whole(status, ..) = got else {
        panic!("{case}: no whole answer");
    };
    // A head can say that there is no body.
    let is_seen = size > 0 || asker == Asker::Chunks;
    let deed = if is_seen { deed } else { Deed::Passes };
    if deed == Deed::Blocks {
        assert_eq!(status, 403, "{case}");
        if !ways.holds() && size > 2 * PIECE {
            // What went on before the last piece has come to an end that is none.
            eventually("a broken request at the origin", || {
                let arrived = ways.take();
                assert!(arrived.iter().all(|request| !request.complete), "{case}");
                let mut arrived = arrived.into_iter();
                arrived.find(|request| request.target == target)
            });
        }
        assert!(
            ways.take().iter().all(|request| !request.complete),
            "{case}"
        );
        return;
    }
    assert_eq!(status, 200, "{case}");
    let mut arrived = ways.take();
    // One that was blocked before may end only now.
    arrived.retain(|request| request.complete || request.target == target);
    assert_eq!(arrived.len(), 1, "{case}");
    let arrived = &arrived[0];
    assert_eq!(arrived.target, target, "{case}");
    assert!(arrived.complete, "{case}");
    let pieces = ways.holds().then(|| fewest_pieces(size));
    deed.check(&original, &arrived.body, pieces, &case);
    if let Some(length) = &arrived.length {
        assert_eq!(*length, arrived.body.len().to_string(), "{case}");
    }
    if ways.holds() && is_seen {
        assert!(arrived.length.is_some(), "{case}: its length is known");
    }
}

/// Gets bodies of these sizes on all ways.
fn responses(dialect: Dialect, mode: &'static str, sizes: &[usize], over: Over) {
    let ways = Ways::new(dialect, mode, "response", Phase::ResponseBody, over);
    for deed in DEEDS {
        for size in sizes {
            for (asker, teller) in over.ways_down() {
                response(&ways, deed, *size, asker, teller, dialect);
            }
        }
    }
    ways.proxy
        .wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
}

fn response(ways: &Ways, deed: Deed, size: usize, asker: Asker, teller: Teller, dialect: Dialect) {
    let mode = ways.mode;
    let case = format!("{dialect:?} {mode} {deed:?} {size} {asker:?} from {teller:?}");
    let target = format!("/{}?says={size}&framing={teller:?}", deed.name());
    let original = body(size);
    let got = ways.ask(asker, teller == Teller::Http2, &target, None);
    // A head can say that there is no body.
    let is_seen = size > 0 || teller != Teller::Length;
    let deed = if is_seen { deed } else { Deed::Passes };
    match got {
        Got::Cut => assert!(deed == Deed::Blocks && !ways.holds(), "{case}: broken"),
        Got::Whole(403, _, text) if deed == Deed::Blocks && ways.holds() => {
            assert!(text.starts_with(b"403 Forbidden\n"), "{case}: {text:?}");
        }
        Got::Whole(status, length, body) => {
            assert_eq!(status, 200, "{case}");
            let pieces = ways.holds().then(|| fewest_pieces(size));
            deed.check(&original, &body, pieces, &case);
            assert!(length.is_none_or(|length| length == body.len()), "{case}");
            if ways.holds() && (size > 0 || deed != Deed::Passes) {
                let is_told = length.is_some() || teller != Teller::Length && deed == Deed::Passes;
                assert!(is_told, "{case}: its length is known");
            }
        }
    }
}

#[test]
fn buffered_requests_of_all_sizes_on_all_ways() {
    requests(Dialect::Binary, "buffer", &SIZES, Over::Tcp);
}

#[test]
fn streamed_requests_of_all_sizes_on_all_ways() {
    requests(Dialect::Binary, "stream", &SIZES, Over::Tcp);
}

#[test]
fn buffered_responses_of_all_sizes_on_all_ways() {
    responses(Dialect::Binary, "buffer", &SIZES, Over::Tcp);
}

#[test]
fn streamed_responses_of_all_sizes_on_all_ways() {
    responses(Dialect::Binary, "stream", &SIZES, Over::Tcp);
}

#[test]
fn bodies_on_all_ways_past_an_agent_without_the_library() {
    for mode in ["buffer", "stream"] {
        requests(Dialect::Legacy, mode, &FEW_SIZES, Over::Tcp);
        responses(Dialect::Legacy, mode, &FEW_SIZES, Over::Tcp);
    }
}

#[test]
fn requests_of_all_sizes_from_tls_to_tls() {
    for mode in ["buffer", "stream"] {
        requests(Dialect::Binary, mode, &SIZES, Over::Tls);
    }
}

#[test]
fn responses_of_all_sizes_from_tls_to_tls() {
    for mode in ["buffer", "stream"] {
        responses(Dialect::Binary, mode, &SIZES, Over::Tls);
    }
}
