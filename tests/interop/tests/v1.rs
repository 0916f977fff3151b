//! Old agents decide on requests through our proxy: one made with the published library of version 1, and a published program.

use portcullis_agent_protocol::{
    AnyConnection, CallGuard, ConnectError, ConnectOptions, Decision, Event, FrameOpcode, Target,
    WebSocketFrame,
};
use portcullis_interop::{Process, accepts, free_address, get, portcullis};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What `make test-interop` has installed.
fn denylist() -> PathBuf {
    let installed = "target/published/bin/sentinel-denylist-agent";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(installed);
    assert!(program.exists(), "`make test-interop` installs {installed}");
    program
}

/// The proxy with an agent on its only route, in front of the echo origin.
struct Stage {
    address: SocketAddr,
    proxy: Process,
    _agent: Option<Process>,
    _directory: TempDir,
}

impl Stage {
    /// With an agent that runs on its own.
    fn with(program: &Path, arguments: &[&str], settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let mut arguments = arguments.to_vec();
        arguments.push(socket.to_str().unwrap());
        let mut agent = Process::start(program, &arguments, directory.path().join("agent.log"));
        agent.wait_until(|| accepts(&socket));
        let way = format!("unix-socket \"{}\"", socket.display());
        Self::set(directory, Some(agent), &format!("{way}\n{settings}"))
    }

    fn set(directory: TempDir, agent: Option<Process>, settings: &str) -> Self {
        let path = |name: &str| directory.path().join(name);
        let (address, probes) = (free_address(), free_address());
        let config = path("interop.kdl");
        fs::write(&config, configuration(address, probes, settings)).unwrap();
        let arguments = ["run", "--config", config.to_str().unwrap()];
        let mut proxy = Process::start(&portcullis(), &arguments, path("proxy.log"));
        proxy.wait_until(|| get(probes, "/readyz").is_some_and(|answer| answer.status == 200));
        Self {
            address,
            proxy,
            _agent: agent,
            _directory: directory,
        }
    }

    fn library() -> Self {
        let settings = r#"
        inspect { request-headers; request-body "buffer"; response-headers; response-body "buffer"; request-complete }
        config { greeting "hello" }"#;
        let program = Path::new(env!("CARGO_BIN_EXE_published-v1-agent"));
        Self::with(program, &[], settings)
    }
}

fn configuration(address: SocketAddr, probes: SocketAddr, settings: &str) -> String {
    format!(
        r#"schema-version "1"
system {{ worker-threads 1 }}
probes {{ address "{probes}" }}
listeners {{ listener "http" {{ address "{address}" }} }}
routes {{
    route "all" {{
        match {{ path-prefix "/" }}
        filters {{ agent "old" }}
        upstream "echo"
    }}
}}
upstreams {{ upstream "echo" {{ builtin "echo" }} }}
agents {{
    agent "old" {{
        dialect "v1"
        timeout "5s"
        failure-mode "closed"
        {settings}
    }}
}}
observability {{ access-log "stdout" format="json" }}
"#
    )
}

/// The whole answer to one request with a body.
fn post(address: SocketAddr, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /body HTTP/1.1\r\nhost: interop.example\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn the_library_allows_and_sets_headers() {
    let stage = Stage::library();
    let answer = get(stage.address, "/anything?a=b").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // The origin says what it was asked. The value shows that the agent was configured and understood the whole event.
    assert!(
        answer
            .body
            .contains("hello GET /anything?a=b from 127.0.0.1"),
        "{answer:?}"
    );
    assert_eq!(answer.header("x-old-answer"), Some("all"), "{answer:?}");
    assert_eq!(answer.header("x-old-status"), Some("200"), "{answer:?}");
}

#[test]
fn the_library_blocks_and_redirects() {
    let mut stage = Stage::library();
    let answer = get(stage.address, "/block").unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.body, "blocked by an old agent\n");
    assert_eq!(answer.header("x-why"), Some("interop"), "{answer:?}");
    let line = stage.proxy.wait_for_line("/block");
    assert!(line.contains(r#""blocked_by":"old""#), "{line}");

    let answer = get(stage.address, "/redirect").unwrap();
    assert_eq!(answer.status, 307, "{answer:?}");
    let location = answer.header("location");
    assert_eq!(location, Some("https://interop.example/there"));
}

#[test]
fn the_library_changes_bodies_in_both_directions() {
    let stage = Stage::library();
    let answer = post(stage.address, "a cat and a dog");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The origin says that what it got is as long as a tiger makes it, and the agent has changed the word for it.
    assert!(answer.contains(r#""size": 17"#), "{answer}");
}

/// Waits until somebody listens there.
async fn bound(socket: &Path) {
    let listening = async {
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, listening).await.unwrap();
}

#[tokio::test]
async fn the_library_judges_frames_and_its_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("old.sock");
    let program = Path::new(env!("CARGO_BIN_EXE_published-v1-agent"));
    let arguments = [socket.to_str().unwrap()];
    let _agent = Process::start(program, &arguments, directory.path().join("agent.log"));
    bound(&socket).await;

    let target = Target::V1UnixSocket(socket);
    let options = ConnectOptions::new("old");
    let (connection, driver) = AnyConnection::connect(&target, &options).await.unwrap();
    tokio::spawn(driver);
    let table = [
        ("a cat", Decision::allow()),
        ("a dog", Decision::allow().close_websocket(1008, "no dogs")),
    ];
    for (index, (text, expected)) in (0..).zip(table) {
        let frame = Event::WebSocketFrame(WebSocketFrame {
            correlation_id: "ws",
            opcode: FrameOpcode::Text,
            data: text.into(),
            client_to_server: true,
            index,
            fin: true,
            route_id: Some("live"),
            client_ip: [203, 0, 113, 7].into(),
            budget_left: None,
        });
        let answer = connection.send(&frame, CallGuard::none()).unwrap();
        let decision = tokio::time::timeout(TIMEOUT, answer).await.unwrap();
        assert_eq!(decision, Ok(expected), "{text}");
    }

    let options = ConnectOptions {
        config: Some(Arc::new(serde_json::json!({"nothing": true}))),
        ..options
    };
    match AnyConnection::connect(&target, &options).await.map(drop) {
        Err(ConnectError::ConfigurationRefused { reason }) => {
            assert_eq!(reason, "a greeting is missing");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_published_program_denies() {
    let arguments = [
        "--block-paths",
        "/admin",
        "--block-user-agents",
        "sqlmap",
        "--socket",
    ];
    let stage = Stage::with(&denylist(), &arguments, "");
    assert_eq!(get(stage.address, "/public").unwrap().status, 200);
    let answer = get(stage.address, "/admin/users").unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.body, "Path /admin/users is blocked");
}

#[test]
fn the_published_program_denies_clients_and_is_started_by_the_proxy() {
    let program = denylist();
    let command = format!(
        r##"command "/bin/sh" "-c" #"exec {} --socket "$PORTCULLIS_AGENT_SOCKET" --block-ips 127.0.0.1"#"##,
        program.display()
    );
    let stage = Stage::set(tempfile::tempdir().unwrap(), None, &command);
    let answer = get(stage.address, "/").unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(answer.body, "IP 127.0.0.1 is blocked");
}
