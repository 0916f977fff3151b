//! Events behind the head of a request: bodies, responses, the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::codec::{EventId, NoDecision, binary};
use portcullis_agent_protocol::server::{Agent, AgentError, PerRequest, ServeOptions};
use portcullis_agent_protocol::{
    BodyChunk, CallError, CallGuard, CancelReason, Capabilities, ConnectOptions, Connection,
    Decision, Event, EventKind, Extensions, FrameOpcode, Limits, RequestComplete, RequestHeaders,
    ResponseHeaders, WebSocketFrame,
};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{PEERS, RawPeer, Request, Served, connect, connect_with, until, within};

const ALL: [EventKind; 5] = [
    EventKind::RequestHeaders,
    EventKind::RequestBodyChunk,
    EventKind::ResponseHeaders,
    EventKind::ResponseBodyChunk,
    EventKind::RequestComplete,
];

/// Says in its answers what it was told, and writes bodies in capitals.
pub(crate) struct Scribe {
    wants: Vec<EventKind>,
    /// Lets a piece `hold` go on.
    release: Notify,
    held: AtomicUsize,
    completed: AtomicUsize,
    /// How many bytes of each body there have been.
    bodies: PerRequest<usize>,
}

impl Scribe {
    pub(crate) fn served(extensions: Extensions) -> Served<Self> {
        Self::served_with(
            &ALL,
            ServeOptions {
                extensions,
                ..ServeOptions::default()
            },
        )
    }

    fn served_with(wants: &[EventKind], options: ServeOptions) -> Served<Self> {
        let scribe = Self {
            wants: wants.to_vec(),
            release: Notify::new(),
            held: AtomicUsize::new(0),
            completed: AtomicUsize::new(0),
            bodies: PerRequest::new(10),
        };
        Served::with_agent(scribe, options)
    }

    async fn decide(
        &self,
        chunk: &BodyChunk<'_>,
        replace: impl FnOnce(Decision, Vec<u8>) -> Decision,
    ) -> Result<Decision, AgentError> {
        match &chunk.data[..] {
            b"block" => return Ok(Decision::block(403)),
            b"fail" => return Err(AgentError::new("no idea")),
            b"panic" => panic!("a panic that belongs to the test"),
            b"keep" => return Ok(told(chunk)),
            b"hold" => {
                self.held.fetch_add(1, Ordering::SeqCst);
                let released = self.release.notified();
                released.await;
                self.held.fetch_sub(1, Ordering::SeqCst);
                return Ok(Decision::allow());
            }
            _ => {}
        }
        let add = |bytes: &mut usize| *bytes += chunk.data.len();
        match chunk.index {
            0 => self.bodies.with(chunk.correlation_id, usize::default, add),
            _ => self
                .bodies
                .with_existing(chunk.correlation_id, add)
                .ok_or_else(|| AgentError::new("in the middle"))?,
        }
        let data = match &chunk.data[..] {
            b"drop" => Vec::new(),
            data => data.to_ascii_uppercase(),
        };
        Ok(replace(told(chunk), data))
    }
}

fn told(event: &impl std::fmt::Debug) -> Decision {
    Decision::allow().tag(format!("{event:?}"))
}

#[async_trait::async_trait]
impl Agent for Scribe {
    fn name(&self) -> &str {
        "scribe"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("scribe", "1").with_events(&self.wants)
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        Ok(told(event))
    }

    async fn request_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let replace = |decision: Decision, data| decision.replace_request_body(data);
        self.decide(event, replace).await
    }

    async fn response_headers(&self, event: &ResponseHeaders<'_>) -> Result<Decision, AgentError> {
        Ok(told(event))
    }

    async fn response_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let replace = |decision: Decision, data| decision.replace_response_body(data);
        self.decide(event, replace).await
    }

    async fn request_complete(&self, event: &RequestComplete<'_>) {
        assert_ne!(event.error, Some("panic"), "this belongs to the test");
        self.bodies.remove(event.correlation_id);
        self.completed.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn chunk(data: &'static [u8]) -> BodyChunk<'static> {
    BodyChunk {
        correlation_id: "c-1",
        index: 0,
        data: Bytes::from_static(data),
        is_last: true,
        total_size: None,
        transferred: data.len() as u64,
        truncated: false,
        trailers: None,
        budget_left: None,
    }
}

pub(crate) fn complete(error: Option<&'static str>) -> Event<'static> {
    Event::RequestComplete(RequestComplete {
        correlation_id: "c-1",
        status: 200,
        duration: Duration::from_millis(12),
        request_body_size: 5,
        response_body_size: u64::MAX,
        upstream_attempts: 2,
        error,
    })
}

async fn ask(connection: &Connection, event: &Event<'_>) -> Result<Decision, CallError> {
    within(connection.send(event, CallGuard::none())?).await
}

#[tokio::test]
async fn agents_are_told_everything_that_the_peer_may_know() {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let headers = HeaderMap::from_iter([(
        "content-type".parse().unwrap(),
        "text/html".parse().unwrap(),
    )]);
    let left = Some(Duration::from_micros(1500));
    let full = BodyChunk {
        index: u32::MAX,
        total_size: Some(1 << 50),
        transferred: 1 << 50,
        truncated: true,
        trailers: Some(&trailers),
        budget_left: left,
        ..chunk(b"keep")
    };
    let response = ResponseHeaders {
        correlation_id: "c-1",
        status: 404,
        headers: &headers,
        budget_left: left,
    };
    for extensions in PEERS {
        let served = Scribe::served(extensions);
        let connection = connect(&served.path).await;
        for kind in ALL {
            assert!(connection.supports(kind));
        }
        assert!(connection.capabilities().features.streaming_body);
        let left = left.filter(|_| extensions.event_id);
        let expected = BodyChunk {
            trailers: full.trailers.filter(|_| extensions.event_id),
            budget_left: left,
            ..full.clone()
        };
        for event in [
            Event::RequestBodyChunk(full.clone()),
            Event::ResponseBodyChunk(full.clone()),
        ] {
            assert_eq!(ask(&connection, &event).await, Ok(told(&expected)));
        }
        let expected = ResponseHeaders {
            budget_left: left,
            ..response.clone()
        };
        let event = Event::ResponseHeaders(response.clone());
        assert_eq!(ask(&connection, &event).await, Ok(told(&expected)));
    }
}

#[tokio::test]
async fn pieces_are_replaced_dropped_and_left_alone() {
    for extensions in PEERS {
        let served = Scribe::served(extensions);
        let connection = connect(&served.path).await;
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        for (data, expected) in [
            (Bytes::from_static(b"keep"), None),
            (Bytes::from_static(b"drop"), Some(Bytes::new())),
            (Bytes::new(), Some(Bytes::new())),
            (
                Bytes::from_static(b"h\xffi"),
                Some(Bytes::from_static(b"H\xffI")),
            ),
            (large, Some(Bytes::from(vec![b'X'; 1 << 20]))),
        ] {
            let event = BodyChunk { data, ..chunk(b"") };
            let answer = ask(&connection, &Event::RequestBodyChunk(event.clone())).await;
            let answer = answer.unwrap();
            assert_eq!(
                (answer.request_body, answer.response_body),
                (expected.clone(), None)
            );
            let answer = ask(&connection, &Event::ResponseBodyChunk(event)).await;
            let answer = answer.unwrap();
            assert_eq!(
                (answer.request_body, answer.response_body),
                (None, expected)
            );
        }
        let blocked = ask(&connection, &Event::RequestBodyChunk(chunk(b"block"))).await;
        assert_eq!(blocked, Ok(Decision::block(403)));
    }
}

#[tokio::test]
async fn an_agent_notices_that_it_has_missed_the_beginning() {
    let served = Scribe::served(Extensions::ALL);
    let connection = connect(&served.path).await;
    let piece = |index| {
        Event::RequestBodyChunk(BodyChunk {
            index,
            is_last: false,
            ..chunk(b"abc")
        })
    };
    assert!(ask(&connection, &piece(0)).await.is_ok());
    assert!(ask(&connection, &piece(1)).await.is_ok());
    assert_eq!(
        served.agent.bodies.with_existing("c-1", |bytes| *bytes),
        Some(6)
    );
    assert_eq!(
        ask(&connection, &complete(None)).await,
        Ok(Decision::allow())
    );
    assert!(served.agent.bodies.is_empty());
    let refused = ask(&connection, &piece(2)).await;
    assert_eq!(refused, Err(CallError::Agent("in the middle".to_owned())));
}

#[tokio::test]
async fn the_end_is_answered_with_an_allow_unless_the_agent_panics() {
    for extensions in PEERS {
        let served = Scribe::served(extensions);
        let connection = connect(&served.path).await;
        for error in [None, Some("upstream gone")] {
            let answer = ask(&connection, &complete(error)).await;
            assert_eq!(answer, Ok(Decision::allow()));
        }
        assert_eq!(served.agent.completed.load(Ordering::SeqCst), 2);
        let answer = ask(&connection, &complete(Some("panic"))).await;
        assert_eq!(answer, failed(extensions, "the agent panicked"));
    }
}

fn failed(extensions: Extensions, message: &str) -> Result<Decision, CallError> {
    match extensions.error {
        true => Err(CallError::Agent(message.to_owned())),
        false => Ok(Decision::block(500)
            .reason("agent_error")
            .custom("error", message)),
    }
}

#[tokio::test]
async fn d08_a_failing_agent_never_lets_a_body_pass() {
    for extensions in PEERS {
        let served = Scribe::served(extensions);
        let connection = connect(&served.path).await;
        for (data, message) in [(&b"fail"[..], "no idea"), (b"panic", "the agent panicked")] {
            for event in [
                Event::RequestBodyChunk(chunk(data)),
                Event::ResponseBodyChunk(chunk(data)),
            ] {
                let answer = ask(&connection, &event).await;
                assert_eq!(answer, failed(extensions, message));
            }
        }
    }
}

#[tokio::test]
async fn d08_what_an_agent_has_not_announced_is_a_failure() {
    let headers = HeaderMap::new();
    let request = Request::new("c-1", "/");
    let response = ResponseHeaders {
        correlation_id: "c-1",
        status: 200,
        headers: &headers,
        budget_left: None,
    };
    let events = [
        request.event(),
        Event::RequestBodyChunk(chunk(b"keep")),
        Event::ResponseHeaders(response),
        Event::ResponseBodyChunk(chunk(b"keep")),
        complete(None),
        Event::WebSocketFrame(WebSocketFrame {
            correlation_id: "c-1",
            opcode: FrameOpcode::Text,
            data: Bytes::new(),
            client_to_server: true,
            index: 0,
            fin: true,
            route_id: None,
            client_ip: [203, 0, 113, 7].into(),
            budget_left: None,
        }),
    ];
    for extensions in PEERS {
        for wanted in ALL {
            let options = ServeOptions {
                extensions,
                ..ServeOptions::default()
            };
            let served = Scribe::served_with(&[wanted], options);
            let connection = connect(&served.path).await;
            for event in &events {
                let answer = ask(&connection, event).await;
                if event.kind() == wanted {
                    assert!(answer.is_ok_and(|decision| decision.is_allow()));
                } else {
                    let message = format!("the agent does not support {:?}", event.kind());
                    assert_eq!(answer, failed(extensions, &message));
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_not_announced_is_refused_by_its_id() {
    let served = Scribe::served(Extensions::ALL);
    let mut proxy = RawPeer::connect(&served.path).await;
    let request = json!({"supported_versions": [2], "extensions": Extensions::ALL.names()});
    proxy.greet(&request).await;
    let event = 7_u64.to_be_bytes();
    proxy.send(MessageType::GuardrailInspect, &event).await;
    let (_, payload) = proxy.receive().await;
    let (id, answer) = binary::decode_answer(&payload, Extensions::ALL).unwrap();
    assert_eq!(id, EventId::Number(7));
    let message = "the agent does not support GuardrailInspect".to_owned();
    assert_eq!(answer, Err(NoDecision::Failed(message)));
}

#[tokio::test]
async fn a_piece_is_cancelled_as_any_event_is() {
    for extensions in [Extensions::ALL, PEERS[1]] {
        let options = ServeOptions {
            extensions,
            ..ServeOptions::default()
        };
        let counters = std::sync::Arc::clone(&options.counters);
        let served = Scribe::served_with(&ALL, options);
        let connection = connect(&served.path).await;
        let event = Event::ResponseBodyChunk(chunk(b"hold"));
        let held = connection.send(&event, CallGuard::none()).unwrap();
        until(|| served.agent.held.load(Ordering::SeqCst) == 1).await;
        held.cancel(CancelReason::ClientDisconnect);
        until(|| counters.cancelled_events() == 1).await;
        assert_eq!(connection.unanswered(), 0);
        assert_eq!(
            ask(&connection, &complete(None)).await,
            Ok(Decision::allow())
        );
    }
}

#[tokio::test]
async fn an_agent_takes_only_so_many_bytes_of_bodies() {
    const PIECE: usize = 256 << 10;
    let options = ServeOptions {
        concurrency: 1,
        ..ServeOptions::default()
    };
    let served = Scribe::served_with(&ALL, options);
    let limits = Limits {
        max_outbound_bytes: 1 << 20,
        ..Limits::default()
    };
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::new("test")
    };
    let connection = connect_with(&served.path, &options).await;
    let hold = Event::RequestBodyChunk(chunk(b"hold"));
    let held = connection.send(&hold, CallGuard::none()).unwrap();
    until(|| served.agent.held.load(Ordering::SeqCst) == 1).await;
    let piece = Event::RequestBodyChunk(BodyChunk {
        data: Bytes::from(vec![b'x'; PIECE]),
        ..chunk(b"")
    });
    let mut answers = Vec::new();
    let refused = within(async {
        loop {
            match connection.send(&piece, CallGuard::none()) {
                Ok(answer) => answers.push(answer),
                Err(error) => break error,
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(refused, CallError::OutboundFull);
    // Those that wait, the one that goes beyond, what the socket holds, and
    // what is still to be written.
    assert!(answers.len() * PIECE <= 7 << 20, "{}", answers.len());
    served.agent.release.notify_one();
    assert_eq!(within(held).await, Ok(Decision::allow()));
    for answer in answers {
        assert!(within(answer).await.is_ok());
    }
}
