//! gRPC as its users speak it: tonic on both sides, agents between them. Each call has to come to what it comes to without a
//! proxy.

use super::{text, to};
use crate::harness::{
    DEADLINE, Proxy, TestAgent,
    agent::{Phase, When},
    parrot::{BLOB, NO, PREFIX, Parrot, Text, refusal},
    tls_front::{Manner, TlsFront},
    tls_tail::{self, TlsTail},
};
use bytes::Bytes;
use futures::stream;
use http::uri::PathAndQuery;
use portcullis_agent_protocol::Decision;
use std::{collections::BTreeSet, net::SocketAddr};
use tokio::{sync::mpsc, time::timeout};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codegen::tokio_stream::wrappers::ReceiverStream,
    metadata::{KeyAndValueRef, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

/// The kinds of calls; the service has a method of each name.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Unary,
    ServerStreaming,
    ClientStreaming,
    Bidirectional,
}

/// What a call comes to, as its client sees it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    messages: Vec<String>,
    /// What the service has put into head and trailers.
    metadata: BTreeSet<(String, Bytes)>,
    code: Code,
    message: String,
    details: Vec<u8>,
}

impl Outcome {
    fn new() -> Self {
        Self {
            messages: Vec::new(),
            metadata: BTreeSet::new(),
            code: Code::Ok,
            message: String::new(),
            details: Vec::new(),
        }
    }

    fn note(&mut self, metadata: &MetadataMap) {
        for one in metadata.iter() {
            let (name, value) = match one {
                KeyAndValueRef::Ascii(name, value) => (
                    name.as_str(),
                    Bytes::copy_from_slice(value.as_encoded_bytes()),
                ),
                KeyAndValueRef::Binary(name, value) => (name.as_str(), value.to_bytes().unwrap()),
            };
            if name.starts_with(PREFIX) {
                self.metadata.insert((name.to_owned(), value));
            }
        }
    }

    /// An answer of one message.
    fn one(&mut self, response: Response<String>) {
        self.note(response.metadata());
        self.messages.push(response.into_inner());
    }

    /// An answer of messages that come one after the other.
    async fn all(&mut self, response: Response<Streaming<String>>) -> Result<(), Status> {
        self.note(response.metadata());
        let mut messages = response.into_inner();
        while let Some(message) = messages.message().await? {
            self.messages.push(message);
        }
        let trailers = messages.trailers().await?;
        self.note(&trailers.unwrap());
        Ok(())
    }

    fn ended(&mut self, status: &Status) {
        self.note(status.metadata());
        self.code = status.code();
        status.message().clone_into(&mut self.message);
        self.details = status.details().to_vec();
    }

    /// Whether there is metadata of this name.
    fn has(&self, name: &str) -> bool {
        self.metadata.iter().any(|(other, _)| other == name)
    }
}

/// With metadata of both kinds.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("parrot-from", MetadataValue::from_static("tonic"));
    metadata.insert_bin("parrot-blob-bin", MetadataValue::from_bytes(BLOB));
    request
}

fn path(kind: Kind) -> PathAndQuery {
    PathAndQuery::try_from(format!("/test.Parrot/{kind:?}")).unwrap()
}

/// Runs this on a connection of its own.
fn connected<T>(address: SocketAddr, run: impl AsyncFnOnce(Grpc<Channel>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let running = async {
        let channel = endpoint.connect().await.unwrap();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        run(grpc).await
    };
    runtime
        .block_on(async { timeout(DEADLINE, running).await })
        .expect("within the deadline")
}

fn call(address: SocketAddr, kind: Kind, words: &[&str]) -> Outcome {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    connected(address, async |mut grpc| {
        let mut outcome = Outcome::new();
        let ended = async {
            let first = words.first().cloned().unwrap_or_default();
            let all = stream::iter(words);
            match kind {
                Kind::Unary => outcome.one(grpc.unary(request(first), path(kind), Text).await?),
                Kind::ServerStreaming => {
                    let answers = grpc.server_streaming(request(first), path(kind), Text);
                    outcome.all(answers.await?).await?;
                }
                Kind::ClientStreaming => {
                    let answer = grpc.client_streaming(request(all), path(kind), Text);
                    outcome.one(answer.await?);
                }
                Kind::Bidirectional => {
                    let answers = grpc.streaming(request(all), path(kind), Text);
                    outcome.all(answers.await?).await?;
                }
            }
            Ok::<_, Status>(())
        };
        if let Err(status) = ended.await {
            outcome.ended(&status);
        }
        outcome
    })
}

/// A proxy before the service, with an agent that inspects this.
fn before(service: SocketAddr, agent: &TestAgent, inspect: &str) -> Proxy {
    let upstream = format!("target \"{service}\"; protocol \"h2c\"");
    to(&upstream, agent, inspect)
}

const BODIES: &str = "request-body \"stream\"; response-body \"stream\"";
const HEADS: &str = "response-headers";

/// The words that are sent, those that come back, and whether the service has had enough in the end.
const CALLS: [(Kind, &[&str], &[&str], Code); 11] = [
    (Kind::Unary, &["hello"], &["hello"], Code::Ok),
    (Kind::Unary, &[""], &[""], Code::Ok),
    (Kind::Unary, &[NO], &[], Code::FailedPrecondition),
    (
        Kind::ServerStreaming,
        &["a b c"],
        &["a", "b", "c"],
        Code::Ok,
    ),
    (
        Kind::ServerStreaming,
        &["a b no"],
        &["a", "b"],
        Code::FailedPrecondition,
    ),
    (
        Kind::ClientStreaming,
        &["a", "b", "c"],
        &["a b c"],
        Code::Ok,
    ),
    (Kind::ClientStreaming, &[], &[""], Code::Ok),
    (
        Kind::ClientStreaming,
        &["a", NO, "c"],
        &[],
        Code::FailedPrecondition,
    ),
    (
        Kind::Bidirectional,
        &["a", "b", "c"],
        &["a", "b", "c"],
        Code::Ok,
    ),
    (Kind::Bidirectional, &[], &[], Code::Ok),
    (
        Kind::Bidirectional,
        &["a", "b", NO],
        &["a", "b"],
        Code::FailedPrecondition,
    ),
];

/// Makes all calls, without a proxy and through this one.
fn all_calls(service: SocketAddr, proxy: &Proxy) {
    all_calls_at(service, proxy.address_of("http"));
}

/// The same through whatever is at this address.
fn all_calls_at(service: SocketAddr, address: SocketAddr) {
    for (kind, words, answers, code) in CALLS {
        let direct = call(service, kind, words);
        let what = format!("{kind:?} {words:?}");
        assert_eq!(direct.messages, answers, "{what}");
        assert_eq!(direct.code, code, "{what}");
        let passed = call(address, kind, words);
        assert_eq!(passed, direct, "{what}");
        if code == Code::Ok {
            assert!(
                direct.has("parrot-from") && direct.has("parrot-blob-bin"),
                "{direct:?}"
            );
            continue;
        }
        assert!(
            direct.has("parrot-why") && direct.has("parrot-why-bin"),
            "{direct:?}"
        );
        assert_eq!(direct.message, refusal().message(), "{what}");
        assert_eq!(direct.details, refusal().details(), "{what}");
    }
}

#[test]
fn calls_pass_without_an_agent() {
    let service = Parrot::start();
    let proxy = Proxy::builder(r#"routes { route "all" { upstream "parrot" } }"#)
        .upstream("parrot", &format!("target \"{service}\"; protocol \"h2c\""))
        .start();
    all_calls(service, &proxy);
}

#[test]
fn calls_pass_an_agent_that_sees_both_bodies() {
    let service = Parrot::start();
    let agent = TestAgent::named("waf").start();
    let proxy = before(service, &agent, BODIES);
    all_calls(service, &proxy);
    assert!(text(&agent.seen("request_body_chunk")).contains("hello"));
    let seen = agent.seen("response_body_chunk");
    assert!(text(&seen).contains("hello"));
    let trailers = |status: &str, name: &str| {
        seen.iter().any(|piece| {
            let trailers = &piece["trailers"];
            trailers["grpc-status"][0] == status && trailers[name][0].is_string()
        })
    };
    assert!(trailers("0", "parrot-count"), "{seen:?}");
    assert!(trailers("9", "parrot-why-bin"), "{seen:?}");
    assert!(trailers("9", "grpc-status-details-bin"), "{seen:?}");
}

#[test]
fn calls_pass_an_agent_that_sees_heads_alone() {
    let service = Parrot::start();
    let agent = TestAgent::named("waf").start();
    let proxy = before(service, &agent, HEADS);
    all_calls(service, &proxy);
    let seen = agent.seen("response_headers");
    assert_eq!(seen.len(), CALLS.len());
    for head in &seen {
        assert_eq!(head["status"], 200, "{head}");
        assert_eq!(
            head["headers"]["content-type"][0], "application/grpc",
            "{head}"
        );
    }
    // A refusal before the first message is a head alone.
    let refused = seen
        .iter()
        .filter(|head| head["headers"]["grpc-status"][0] == "9");
    assert_eq!(refused.count(), 2, "{seen:?}");
}

/// Over TLS from the client, and to the service with and without it.
#[test]
fn calls_pass_from_tls_with_and_without_agents() {
    let service = Parrot::start();
    let manner = Manner {
        protocols: &["h2"],
        ..Manner::default()
    };
    let front = TlsFront::start(service, manner);
    for upstream in [
        format!("target \"{service}\"; protocol \"h2c\""),
        format!("target \"{}\"; {}", front.address(), tls_tail::upstream()),
    ] {
        for inspect in [None, Some(HEADS), Some(BODIES)] {
            let agent = TestAgent::named("waf").start();
            let filters = inspect.map_or("", |_| "filters { agent \"waf\" };");
            let routes = format!("routes {{ route \"all\" {{ {filters} upstream \"origin\" }} }}");
            let mut proxy = Proxy::builder(routes)
                .listener(&tls_tail::listener())
                .upstream("origin", &upstream);
            if let Some(inspect) = inspect {
                let settings = format!("timeout \"5s\"; inspect {{ {inspect} }}");
                proxy = proxy.agent_with(&agent, &settings);
            }
            let proxy = proxy.start();
            proxy.wait_ready();
            let tail = TlsTail::start(proxy.address_of("http"), "h2");
            all_calls_at(service, tail.address());
        }
    }
}

/// A message that is many pieces, in both directions.
#[test]
fn a_large_message_stays_whole() {
    let service = Parrot::start();
    let agent = TestAgent::named("waf").preferring(16 << 10).start();
    let large = String::from_utf8(super::body(1 << 20)).unwrap();
    let proxy = before(service, &agent, BODIES);
    for kind in [Kind::Unary, Kind::ClientStreaming, Kind::Bidirectional] {
        let outcome = call(proxy.address_of("http"), kind, &[&large]);
        assert_eq!(outcome.code, Code::Ok, "{kind:?}: {}", outcome.message);
        assert!(outcome.messages == [&*large], "{kind:?}");
    }
    assert!(agent.seen("request_body_chunk").len() > 3 * 16);
}

/// Each word is answered before the next is said.
#[test]
fn a_conversation_goes_back_and_forth() {
    let service = Parrot::start();
    let agent = TestAgent::named("waf").start();
    for inspect in [BODIES, HEADS] {
        let proxy = before(service, &agent, inspect);
        connected(proxy.address_of("http"), async |mut grpc| {
            let (say, said) = mpsc::channel(1);
            say.send("0".to_owned()).await.unwrap();
            let said = request(ReceiverStream::new(said));
            let answers = grpc.streaming(said, path(Kind::Bidirectional), Text).await;
            let mut answers = answers.unwrap().into_inner();
            for number in 0..20 {
                let answer = answers.message().await.unwrap();
                assert_eq!(answer, Some(number.to_string()), "{inspect}");
                say.send((number + 1).to_string()).await.unwrap();
            }
            drop(say);
            assert_eq!(answers.message().await.unwrap().as_deref(), Some("20"));
            assert_eq!(answers.message().await.unwrap(), None);
            let trailers = answers.trailers().await.unwrap().unwrap();
            assert_eq!(trailers.get("parrot-count").unwrap(), "21");
        });
    }
}

/// What an agent refuses is a status like any other to tonic.
#[test]
fn a_refusal_is_a_status() {
    let service = Parrot::start();
    let refuse = Decision::block(403).reason("rule 7 %");
    let holds = || When::Holds("forbidden".to_owned());
    let asked = |agent: &TestAgent, inspect: &str, kind| {
        let proxy = before(service, agent, inspect);
        let outcome = call(proxy.address_of("http"), kind, &["so forbidden"]);
        assert!(
            outcome
                .messages
                .iter()
                .all(|word| !word.contains("forbidden"))
        );
        (outcome.code, outcome.message)
    };
    let agent = TestAgent::named("waf")
        .then(Phase::RequestBody, holds(), refuse.clone())
        .start();
    let refused = (Code::PermissionDenied, "rule 7 %".to_owned());
    for kind in [Kind::Unary, Kind::ServerStreaming, Kind::ClientStreaming] {
        assert_eq!(asked(&agent, BODIES, kind), refused, "{kind:?}");
    }
    let agent = TestAgent::named("waf")
        .then(Phase::ResponseHeaders, When::Always, refuse.clone())
        .start();
    for kind in [Kind::Unary, Kind::ServerStreaming, Kind::Bidirectional] {
        assert_eq!(asked(&agent, HEADS, kind), refused, "{kind:?}");
    }
    // The head is with the client already: there is no status to be had any more, and no good end either.
    let agent = TestAgent::named("waf")
        .then(Phase::ResponseBody, holds(), refuse)
        .start();
    for kind in [Kind::Unary, Kind::ServerStreaming] {
        assert_ne!(asked(&agent, BODIES, kind).0, Code::Ok, "{kind:?}");
    }
}
