//! Version 1 over HTTP, against servers in raw bytes.

use std::sync::Arc;
use std::time::Duration;

use portcullis_agent_protocol::codec::v1;
use portcullis_agent_protocol::{
    AnyConnection, CallError, CallGuard, ConnectError, ConnectOptions, Decision, HttpEndpoint,
    Target, TlsFiles,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Request, within};

struct Server(TcpListener);

impl Server {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn target(&self) -> Target {
        let url = format!("http://{}/check", self.0.local_addr().unwrap());
        Target::V1Http(HttpEndpoint {
            url: url.parse().unwrap(),
            tls: TlsFiles::default(),
        })
    }

    /// The next socket on which something is said. Others only find out that
    /// somebody is here.
    async fn asked(&self) -> (TcpStream, String, Value) {
        loop {
            let (mut stream, _) = within(self.0.accept()).await.unwrap();
            if let Some((head, body)) = request(&mut stream).await {
                return (stream, head, body);
            }
        }
    }
}

/// The head and the body of a request; `None` at the end of the stream.
async fn request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    within(stream.read_exact(&mut body)).await.unwrap();
    Some((head, serde_json::from_slice(&body).unwrap()))
}

async fn respond(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
    within(stream.write_all(answer.as_bytes())).await.unwrap();
}

async fn connect(target: &Target, options: &ConnectOptions) -> AnyConnection {
    let connected = within(AnyConnection::connect(target, options)).await;
    let (connection, driver) = connected.unwrap();
    tokio::spawn(driver);
    connection
}

async fn ask_about(connection: &AnyConnection, id: &str) -> Result<Decision, CallError> {
    let request = Request::new(id, "/a");
    within(
        connection
            .send(&request.event(), CallGuard::none())
            .unwrap(),
    )
    .await
}

const ALLOW: &str = r#"{"version":1,"decision":"allow"}"#;

#[tokio::test]
async fn a_question_is_a_post() {
    let server = Server::new().await;
    let connection = connect(&server.target(), &ConnectOptions::new("old")).await;
    let agent = async {
        let (mut stream, head, body) = server.asked().await;
        assert!(head.starts_with("post /check http/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\ncontent-type: application/json\r\n"),
            "{head}"
        );
        assert_eq!(body["version"], 1);
        assert_eq!(body["event_type"], "request_headers");
        assert_eq!(body["payload"]["uri"], "/a");
        let block = json!({"version": 1, "decision": {"block": {"status": 403, "body": "no"}}});
        respond(&mut stream, "200 OK", &block.to_string()).await;
        // The socket is used again.
        let (_, body) = request(&mut stream).await.unwrap();
        assert_eq!(body["payload"]["metadata"]["correlation_id"], "b");
        respond(&mut stream, "201 Created", ALLOW).await;
    };
    let proxy = async {
        let blocked = ask_about(&connection, "a").await;
        assert_eq!(blocked, Ok(Decision::block(403).with_body("no")));
        assert_eq!(ask_about(&connection, "b").await, Ok(Decision::allow()));
    };
    tokio::join!(agent, proxy);
}

#[tokio::test]
async fn what_is_no_answer() {
    type Expected = fn(&CallError) -> bool;
    let failed: Expected = |error| matches!(error, CallError::Agent(_));
    let malformed: Expected = |error| matches!(error, CallError::Protocol(_));
    let huge = "x".repeat(v1::MAX_MESSAGE_BYTES + 1);
    let table: [(&str, &str, Expected); 7] = [
        ("500 Internal Server Error", ALLOW, failed),
        ("302 Found", ALLOW, failed),
        ("403 Forbidden", "", failed),
        ("200 OK", "", malformed),
        ("200 OK", "{}", malformed),
        ("200 OK", r#"{"version":9,"decision":"allow"}"#, malformed),
        ("200 OK", &huge, malformed),
    ];
    let server = Server::new().await;
    let connection = connect(&server.target(), &ConnectOptions::new("old")).await;
    for (status, body, is_expected) in table {
        let agent = async {
            let (mut stream, ..) = server.asked().await;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            // Who finds it too large does not read it to its end.
            let _ = within(stream.write_all(answer.as_bytes())).await;
        };
        let (answer, ()) = tokio::join!(ask_about(&connection, "c"), agent);
        let error = answer.unwrap_err();
        assert!(is_expected(&error), "{status}: {error:?}");
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn a_question_that_is_given_up_ends_its_own_socket_only() {
    let server = Server::new().await;
    let connection = connect(&server.target(), &ConnectOptions::new("old")).await;
    let slow = Request::new("slow", "/");
    let mut given_up = connection.send(&slow.event(), CallGuard::none()).unwrap();
    let (mut first, ..) = tokio::select! {
        asked = server.asked() => asked,
        _ = &mut given_up => panic!("answered"),
    };
    let other = async {
        let (mut stream, _, body) = server.asked().await;
        assert_eq!(body["payload"]["metadata"]["correlation_id"], "other");
        drop(given_up);
        let mut rest = Vec::new();
        drop(within(first.read_to_end(&mut rest)).await);
        respond(&mut stream, "200 OK", ALLOW).await;
    };
    let (answer, ()) = tokio::join!(ask_about(&connection, "other"), other);
    assert_eq!(answer, Ok(Decision::allow()));
    assert!(connection.is_open());
}

#[tokio::test]
async fn an_agent_that_is_gone_is_found_out() {
    let server = Server::new().await;
    let target = server.target();
    let options = ConnectOptions::new("old");
    let connection = connect(&target, &options).await;
    within(connection.ping()).await.unwrap();
    drop(server);
    assert_eq!(ask_about(&connection, "c").await, Err(CallError::Closed));
    assert!(!connection.is_open());
    let again = within(AnyConnection::connect(&target, &options)).await;
    assert!(matches!(again, Err(ConnectError::Unreachable(_))));
}

#[tokio::test]
async fn the_configuration_has_to_be_accepted() {
    let server = Server::new().await;
    let options = ConnectOptions {
        config: Some(Arc::new(json!({"a": 1}))),
        ..ConnectOptions::new("old")
    };
    let target = server.target();
    let answering = async |status: &str, body: &str| {
        let (mut stream, _, question) = server.asked().await;
        let expected = json!({"version": 1, "event_type": "configure",
            "payload": {"agent_id": "old", "config": {"a": 1}}});
        assert_eq!(question, expected);
        respond(&mut stream, status, body).await;
    };
    let refused = r#"{"version":1,"decision":{"block":{"status":500,"body":"no such setting"}}}"#;
    let (connected, ()) = tokio::join!(
        within(AnyConnection::connect(&target, &options)),
        answering("200 OK", refused)
    );
    match connected.map(drop) {
        Err(ConnectError::ConfigurationRefused { reason }) => {
            assert_eq!(reason, "no such setting");
        }
        other => panic!("{other:?}"),
    }
    let (connected, ()) = tokio::join!(
        within(AnyConnection::connect(&target, &options)),
        answering("200 OK", ALLOW)
    );
    drop(connected.unwrap());
    let short = ConnectOptions {
        handshake_timeout: Duration::from_millis(50),
        ..options.clone()
    };
    let connected = within(AnyConnection::connect(&target, &short)).await;
    assert!(matches!(connected, Err(ConnectError::Timeout)));
}
