//! An agent over gRPC that the test plays message by message.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use portcullis_agent_protocol::codec::EventId;
use portcullis_agent_protocol::codec::protobuf::messages::{
    AgentResponse, AgentToProxy, FromAgent, FromProxy, HandshakeResponse, LogMessage, Pong,
    ProxyToAgent,
};
use portcullis_agent_protocol::codec::protobuf::{EXTENSIONS, encode_answer};
use portcullis_agent_protocol::{
    AnyConnection, CallError, CallGuard, ConnectError, ConnectOptions, ControlMessage, Decision,
    Extensions, GrpcEndpoint, LogEntry, LogLevel, Target, TlsFiles,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming, codegen};
use tonic_prost::ProstCodec;

use crate::support::{Request as Asked, drive_by_turns, within};

type Said = Result<AgentToProxy, Status>;

/// The two directions of a stream.
struct Peer {
    heard: Streaming<ProxyToAgent>,
    says: mpsc::UnboundedSender<Said>,
}

impl Peer {
    async fn hear(&mut self) -> FromProxy {
        let heard = within(self.heard.message()).await.unwrap().unwrap();
        heard.message.unwrap()
    }

    fn say(&self, message: FromAgent) {
        let message = Some(message);
        self.says.send(Ok(AgentToProxy { message })).unwrap();
    }

    async fn shake_hands(&mut self, extensions: Extensions) {
        let FromProxy::Handshake(request) = self.hear().await else {
            panic!("the proxy speaks first");
        };
        assert!(!request.extensions.contains(&"binary".to_owned()));
        self.say(FromAgent::Handshake(HandshakeResponse {
            protocol_version: 2,
            success: true,
            extensions: extensions.names().into_iter().map(str::to_owned).collect(),
            ..HandshakeResponse::default()
        }));
    }
}

#[derive(Clone)]
struct Played(mpsc::UnboundedSender<Peer>);

impl StreamingService<ProxyToAgent> for Played {
    type Response = AgentToProxy;
    type ResponseStream = BoxStream<'static, Said>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProxyToAgent>>) -> Self::Future {
        let (says, said) = mpsc::unbounded_channel();
        let heard = request.into_inner();
        drop(self.0.send(Peer { heard, says }));
        let next = |mut said: mpsc::UnboundedReceiver<Said>| async move {
            let message = said.recv().await?;
            Some((message, said))
        };
        let said = stream::unfold(said, next).boxed();
        Box::pin(async { Ok(Response::new(said)) })
    }
}

impl codegen::Service<http::Request<Body>> for Played {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let played = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/some.package.AgentServiceV2/ProcessStream" {
                return Ok(Status::unimplemented("no").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::default());
            Ok(grpc.streaming(played, request).await)
        })
    }
}

struct Stage {
    target: Target,
    peers: mpsc::UnboundedReceiver<Peer>,
}

impl Stage {
    async fn set() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (peer, peers) = mpsc::unbounded_channel();
        let accept = |listener: TcpListener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        };
        let incoming = stream::unfold(listener, accept);
        let serving = Server::builder().serve_with_incoming(Played(peer), incoming.boxed());
        tokio::spawn(serving);
        let endpoint = GrpcEndpoint {
            url,
            tls: TlsFiles::default(),
            keep_alive: None,
        };
        let package = "some.package".to_owned();
        Self {
            target: Target::V2Grpc { endpoint, package },
            peers,
        }
    }

    async fn peer(&mut self) -> Peer {
        within(self.peers.recv()).await.unwrap()
    }

    async fn connect(&self, options: &ConnectOptions) -> Result<AnyConnection, ConnectError> {
        let connected = within(AnyConnection::connect(&self.target, options)).await;
        connected.map(|(connection, driver)| {
            tokio::spawn(driver);
            connection
        })
    }

    async fn connected(&mut self, extensions: Extensions) -> (AnyConnection, Peer) {
        let target = self.target.clone();
        let options = ConnectOptions::new("test");
        let connecting = AnyConnection::connect(&target, &options);
        let agent = async {
            let mut peer = self.peer().await;
            peer.shake_hands(extensions).await;
            peer
        };
        let (connected, peer) = within(async { tokio::join!(connecting, agent) }).await;
        let (connection, driver) = connected.unwrap();
        tokio::spawn(driver);
        (connection, peer)
    }
}

#[tokio::test]
async fn an_answer_without_a_decision_fails_its_call_and_no_other() {
    let mut stage = Stage::set().await;
    let (connection, mut peer) = stage.connected(Extensions::NONE).await;
    for id in ["empty", "allowed"] {
        let request = Asked::new(id, "/");
        let answer = connection
            .send(&request.event(), CallGuard::none())
            .unwrap();
        let FromProxy::RequestHeaders(event) = peer.hear().await else {
            panic!("it is asked");
        };
        assert_eq!(event.metadata.unwrap().correlation_id, id);
        if id == "empty" {
            peer.say(FromAgent::Response(Box::new(AgentResponse {
                correlation_id: id.to_owned(),
                ..AgentResponse::default()
            })));
            let failed = within(answer).await;
            assert!(matches!(failed, Err(CallError::Protocol(_))), "{failed:?}");
        } else {
            let id = EventId::Correlation(id.to_owned());
            let allow = encode_answer(&id, &Ok(Decision::allow()), Extensions::NONE);
            peer.say(FromAgent::Response(Box::new(allow)));
            assert_eq!(within(answer).await, Ok(Decision::allow()));
        }
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let mut stage = Stage::set().await;
    let (connection, mut peer) = stage.connected(EXTENSIONS).await;
    let request = Asked::new("c", "/");
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    peer.hear().await;
    let allow = encode_answer(&EventId::Number(7), &Ok(Decision::allow()), EXTENSIONS);
    peer.say(FromAgent::Response(Box::new(allow)));
    let failed = within(answer).await;
    assert!(matches!(failed, Err(CallError::Protocol(_))), "{failed:?}");
    within(connection.closed()).await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_no_answer() {
    let mut stage = Stage::set().await;
    for status in [None, Some(Status::internal("the agent has fallen over"))] {
        let (connection, mut peer) = stage.connected(EXTENSIONS).await;
        let request = Asked::new("c", "/");
        let answer = connection
            .send(&request.event(), CallGuard::none())
            .unwrap();
        peer.hear().await;
        if let Some(status) = status {
            peer.says.send(Err(status)).unwrap();
        }
        drop(peer);
        assert_eq!(within(answer).await, Err(CallError::Closed));
        within(connection.closed()).await;
    }
}

#[tokio::test]
async fn an_agent_that_floods_leaves_the_thread_to_others() {
    const FLOOD: usize = 1_000;
    let mut stage = Stage::set().await;
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    let options = ConnectOptions {
        on_control: Some(Arc::new(move |_| {
            hears.fetch_add(1, Ordering::SeqCst);
        })),
        ..ConnectOptions::new("test")
    };
    let target = stage.target.clone();
    let connecting = AnyConnection::connect(&target, &options);
    let agent = async {
        let mut peer = stage.peer().await;
        peer.shake_hands(Extensions::NONE).await;
        peer
    };
    let (connected, peer) = within(async { tokio::join!(connecting, agent) }).await;
    let (connection, driver) = connected.unwrap();
    for _ in 0..FLOOD {
        peer.say(FromAgent::Log(LogMessage::default()));
    }
    drive_by_turns(driver, &heard, FLOOD).await;
    drop((connection, peer));
}

#[tokio::test]
async fn what_an_agent_logs_is_heard() {
    let mut stage = Stage::set().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let options = ConnectOptions {
        on_control: Some(Arc::new(move |message| {
            hears.lock().unwrap().push(message.clone());
        })),
        ..ConnectOptions::new("test")
    };
    let target = stage.target.clone();
    let connecting = AnyConnection::connect(&target, &options);
    let agent = async {
        let mut peer = stage.peer().await;
        peer.shake_hands(Extensions::NONE).await;
        peer
    };
    let (connected, mut peer) = within(async { tokio::join!(connecting, agent) }).await;
    let (connection, driver) = connected.unwrap();
    tokio::spawn(driver);
    peer.say(FromAgent::Log(LogMessage {
        level: 3,
        message: "rules are old".to_owned(),
        fields: [("age".to_owned(), "9d".to_owned())].into(),
        ..LogMessage::default()
    }));
    // What comes behind it shows that it has been read.
    let ping = connection.ping();
    let FromProxy::Ping(asked) = peer.hear().await else {
        panic!("it is pinged");
    };
    peer.say(FromAgent::Pong(Pong {
        sequence: asked.sequence,
        ..Pong::default()
    }));
    assert!(within(ping).await.is_ok());
    let expected = ControlMessage::Log(LogEntry {
        level: LogLevel::Warn,
        message: "rules are old".to_owned(),
        fields: vec![("age".to_owned(), "9d".to_owned())],
    });
    assert_eq!(heard.lock().unwrap()[0], expected);
}

#[tokio::test]
async fn a_published_agent_takes_a_configuration_without_a_word() {
    let mut stage = Stage::set().await;
    let options = ConnectOptions {
        config: Some(Arc::new(json!({"level": 2}))),
        ..ConnectOptions::new("test")
    };
    for takes in [true, false] {
        let target = stage.target.clone();
        let connecting = AnyConnection::connect(&target, &options);
        let agent = async {
            let mut peer = stage.peer().await;
            peer.shake_hands(Extensions::NONE).await;
            let FromProxy::Configure(configure) = peer.hear().await else {
                panic!("it is configured");
            };
            assert_eq!(configure.config_json, r#"{"level":2}"#);
            assert!(configure.is_initial);
            let FromProxy::Ping(ping) = peer.hear().await else {
                panic!("it is pinged");
            };
            if takes {
                let sequence = ping.sequence;
                peer.say(FromAgent::Pong(Pong {
                    sequence,
                    ..Pong::default()
                }));
            }
            takes.then_some(peer)
        };
        let (connected, _peer) = within(async { tokio::join!(connecting, agent) }).await;
        match connected {
            Ok(_) => assert!(takes),
            Err(ConnectError::ConfigurationRefused { .. }) => assert!(!takes),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_service_in_another_package_is_named() {
    let mut stage = Stage::set().await;
    if let Target::V2Grpc { package, .. } = &mut stage.target {
        *package = "another.package".to_owned();
    }
    let refused = stage.connect(&ConnectOptions::new("test")).await;
    let Err(ConnectError::Refused { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("package"), "{reason}");
}
