//! What the tests are made with.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use portcullis_agent_protocol::codec::frame::{self, MessageType};
use portcullis_agent_protocol::server::{self, Agent, AgentError, ServeOptions};
use portcullis_agent_protocol::{
    ConnectOptions, Connection, Decision, Event, Extensions, RequestHeaders, RequestMetadata,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};

/// Nothing in these tests takes longer, on whatever machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The kinds of peers that a proxy meets.
pub(crate) const PEERS: [Extensions; 4] = [
    Extensions::ALL,
    Extensions {
        binary: false,
        ..Extensions::ALL
    },
    Extensions {
        error: true,
        ..Extensions::NONE
    },
    Extensions::NONE,
];

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("the deadline of the test has passed")
}

/// Yields to the other tasks until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Polls a driver alone until it has heard so many messages, and sees to it that it takes a few at a time and asks for
/// another turn when there may be more.
pub(crate) async fn drive_by_turns(
    driver: impl Future<Output = impl std::fmt::Debug>,
    heard: &AtomicUsize,
    all: usize,
) {
    /// So many are taken in a turn.
    const MOST: usize = 64;
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mut driver = pin!(driver);
    let mut full_turns = 0;
    within(async {
        while heard.load(Ordering::SeqCst) < all {
            let woken = Arc::new(Woken::default());
            let waker = Arc::clone(&woken).into();
            let before = heard.load(Ordering::SeqCst);
            let polled = driver.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending(), "{polled:?}");
            let taken = heard.load(Ordering::SeqCst) - before;
            assert!(taken <= MOST, "{taken} in one turn");
            if taken == MOST {
                full_turns += 1;
                assert_eq!(woken.0.load(Ordering::SeqCst), 1);
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Otherwise nothing was seen here.
    assert!(full_turns > 0);
}

/// A request as agents see it.
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
}

impl Request {
    pub(crate) fn new(id: impl Into<String>, uri: impl Into<String>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("host", "example.com".parse().unwrap());
        Self {
            id: id.into(),
            uri: uri.into(),
            headers,
        }
    }

    pub(crate) fn event(&self) -> Event<'_> {
        Event::RequestHeaders(self.view())
    }

    pub(crate) fn view(&self) -> RequestHeaders<'_> {
        RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: &self.id,
                request_id: &self.id,
                client_ip: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
                client_port: 51234,
                server_name: None,
                protocol: "HTTP/1.1",
                tls_version: None,
                tls_cipher: None,
                client_certificate: None,
                route_id: Some("api"),
                upstream_id: Some("backend"),
                timestamp: UNIX_EPOCH + Duration::from_secs(1_782_907_200),
                traceparent: None,
            },
            method: "GET",
            uri: &self.uri,
            headers: &self.headers,
            budget_left: None,
        }
    }
}

/// Decides by the first segment of the path.
#[derive(Default)]
pub(crate) struct PathAgent {
    /// Lets the requests to `/hold` go on.
    pub(crate) release: Notify,
    held: AtomicUsize,
    /// The configuration that was taken last.
    pub(crate) configured: Mutex<Value>,
}

impl PathAgent {
    /// How many requests to `/hold` wait. One that is dropped does not.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    async fn hold(&self) {
        struct Held<'a>(&'a AtomicUsize);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        let _held = Held(&self.held);
        self.release.notified().await;
    }
}

#[async_trait::async_trait]
impl Agent for PathAgent {
    fn name(&self) -> &str {
        "path"
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        match config["refuse"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => {
                *self.configured.lock().unwrap() = config.clone();
                Ok(())
            }
        }
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let (first, rest) = event.path()[1..]
            .split_once('/')
            .unwrap_or((&event.path()[1..], ""));
        Ok(match first {
            "block" => block(),
            "redirect" => Decision::redirect("https://example.com/").tag("moved"),
            "challenge" => Decision::challenge("captcha").with_param("site_key", "k"),
            "edit" => edit(),
            "budget" => Decision::allow().tag(format!("{:?}", event.budget_left)),
            "hold" => {
                self.hold().await;
                Decision::allow().tag("held")
            }
            "yield" => {
                for _ in 0..rest.parse::<u32>()? {
                    tokio::task::yield_now().await;
                }
                Decision::allow().set_request_header("x-id", event.metadata.correlation_id)
            }
            "fail" => return Err(AgentError::new("no idea")),
            "later" => {
                let retry_after = rest.parse().ok().map(Duration::from_millis);
                return Err(AgentError::overloaded(retry_after));
            }
            "panic" => panic!("a panic that belongs to the test"),
            "huge" => Decision::block(403).with_body(vec![b'x'; 1 << 20]),
            _ => Decision::allow(),
        })
    }
}

pub(crate) fn block() -> Decision {
    Decision::block(403)
        .with_body("no")
        .with_header("x-why", "waf")
        .tag("t")
        .rule_id("942100")
        .confidence(0.9)
        .reason("SQLI")
        .custom("n", 1)
}

pub(crate) fn edit() -> Decision {
    Decision::allow()
        .set_request_header("x-a", "1")
        .add_request_header("x-b", "2")
        .remove_request_header("x-c")
        .set_response_header("x-d", "3")
        .add_response_header("x-e", "4")
        .remove_response_header("x-f")
        .provisional()
}

/// An agent that is being served, until this is dropped.
pub(crate) struct Served<A = PathAgent> {
    pub(crate) path: PathBuf,
    pub(crate) agent: Arc<A>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    _directory: TempDir,
}

impl Served {
    pub(crate) fn new(options: ServeOptions) -> Self {
        Self::with_agent(PathAgent::default(), options)
    }

    pub(crate) fn with_extensions(extensions: Extensions) -> Self {
        Self::new(ServeOptions {
            extensions,
            ..ServeOptions::default()
        })
    }
}

impl<A: Agent> Served<A> {
    pub(crate) fn with_agent(agent: A, options: ServeOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = server::bind_socket(&path).unwrap();
        let agent = Arc::new(agent);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let serving = tokio::spawn(server::serve(
            Arc::clone(&agent),
            listener,
            options,
            shutdown,
        ));
        Self {
            path,
            agent,
            stop: Some(stop),
            serving: Some(serving),
            _directory: directory,
        }
    }

    pub(crate) fn begin_stop(&mut self) {
        self.stop.take();
    }

    pub(crate) async fn stopped(&mut self) {
        self.begin_stop();
        within(self.serving.take().unwrap()).await.unwrap().unwrap();
    }
}

/// Connects and runs the driver.
pub(crate) async fn connect(path: &Path) -> Connection {
    connect_with(path, &ConnectOptions::new("test")).await
}

pub(crate) async fn connect_with(path: &Path, options: &ConnectOptions) -> Connection {
    let (connection, driver) = within(Connection::connect(path, options)).await.unwrap();
    tokio::spawn(driver);
    connection
}

/// An agent that the test plays in raw bytes.
pub(crate) struct RawListener {
    pub(crate) path: PathBuf,
    listener: UnixListener,
    _directory: TempDir,
}

impl RawListener {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raw.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self {
            path,
            listener,
            _directory: directory,
        }
    }

    pub(crate) async fn accept(&self) -> RawPeer {
        RawPeer {
            stream: within(self.listener.accept()).await.unwrap().0,
        }
    }

    /// Accepts, shakes hands with these extensions, and gives back both ends.
    pub(crate) async fn connected(&self, extensions: Extensions) -> (Connection, RawPeer) {
        self.connected_with(&ConnectOptions::new("raw"), extensions, false)
            .await
    }

    /// The same with these options, and an agent that says whether it
    /// understands that an event was cancelled.
    pub(crate) async fn connected_with(
        &self,
        options: &ConnectOptions,
        extensions: Extensions,
        cancellation: bool,
    ) -> (Connection, RawPeer) {
        let agent = async {
            let mut peer = self.accept().await;
            peer.shake_hands_as(extensions, cancellation).await;
            peer
        };
        tokio::join!(connect_with(&self.path, options), agent)
    }
}

/// One end of a socket, in raw bytes.
pub(crate) struct RawPeer {
    pub(crate) stream: UnixStream,
}

impl RawPeer {
    pub(crate) async fn connect(path: &Path) -> Self {
        Self {
            stream: within(UnixStream::connect(path)).await.unwrap(),
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn send(&mut self, kind: MessageType, payload: &[u8]) {
        self.send_bytes(&framed(kind, payload)).await;
    }

    pub(crate) async fn send_json(&mut self, kind: MessageType, message: &Value) {
        self.send(kind, message.to_string().as_bytes()).await;
    }

    pub(crate) async fn receive(&mut self) -> (MessageType, Vec<u8>) {
        within(async {
            let length = self.stream.read_u32().await.unwrap();
            let kind = MessageType::from_byte(self.stream.read_u8().await.unwrap()).unwrap();
            let mut payload = vec![0; length as usize - 1];
            self.stream.read_exact(&mut payload).await.unwrap();
            (kind, payload)
        })
        .await
    }

    pub(crate) async fn receive_json(&mut self, kind: MessageType) -> Value {
        let (received, payload) = self.receive().await;
        assert_eq!(received, kind);
        serde_json::from_slice(&payload).unwrap()
    }

    /// Waits until the other end has closed.
    pub(crate) async fn ended(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well.
        drop(within(self.stream.read_to_end(&mut rest)).await);
    }

    /// Greets an agent as a proxy, and gives back what it says.
    pub(crate) async fn greet(&mut self, request: &Value) -> Value {
        self.send_json(MessageType::HandshakeRequest, request).await;
        self.receive_json(MessageType::HandshakeResponse).await
    }

    pub(crate) async fn shake_hands(&mut self, extensions: Extensions) -> Value {
        self.shake_hands_as(extensions, false).await
    }

    pub(crate) async fn shake_hands_as(
        &mut self,
        extensions: Extensions,
        cancellation: bool,
    ) -> Value {
        let capabilities = json!({"features": {"cancellation": cancellation}});
        self.shake_hands_saying(extensions, &capabilities).await
    }

    pub(crate) async fn shake_hands_saying(
        &mut self,
        extensions: Extensions,
        capabilities: &Value,
    ) -> Value {
        let request = self.receive_json(MessageType::HandshakeRequest).await;
        let mut response = json!({"protocol_version": 2, "success": true, "error": null,
            "capabilities": capabilities, "encoding": "json"});
        if extensions != Extensions::NONE {
            response["extensions"] = json!(extensions.names());
        }
        self.send_json(MessageType::HandshakeResponse, &response)
            .await;
        request
    }
}

pub(crate) fn framed(kind: MessageType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::append(&mut out, kind, frame::MAX_FRAME_BYTES, |out| {
        out.extend_from_slice(payload)
    })
    .unwrap();
    out
}

/// A legacy answer to an event.
pub(crate) fn legacy_answer(id: &str, decision: &Value) -> Value {
    json!({"version": 2, "decision": decision, "audit": {"custom": {"correlation_id": id}}})
}
