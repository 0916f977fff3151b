//! Protocol version 2 over gRPC: agents made with published libraries decide on requests through our proxy, and the client of
//! one of them asks our denylist agent.

use portcullis_interop::{Process, free_address, get, portcullis};
use serde_json::json;
use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};
use tempfile::TempDir;
use zentinel_agent_protocol::{
    AgentResponse, Decision, RequestHeadersEvent, RequestMetadata, v2::AgentClientV2,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The proxy with an agent on its only route, in front of the echo origin.
struct Stage {
    address: SocketAddr,
    probes: SocketAddr,
    _proxy: Process,
    agent: Option<Process>,
    place: SocketAddr,
    program: &'static str,
    directory: TempDir,
}

impl Stage {
    fn set(program: &'static str, package: &str, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (place, address, probes) = (free_address(), free_address(), free_address());
        let mut agent = start(program, place, directory.path());
        agent.wait_until(|| TcpStream::connect(place).is_ok());
        let text = format!(
            r#"schema-version "1"
system {{ worker-threads 1 }}
probes {{ address "{probes}" }}
listeners {{ listener "http" {{ address "{address}" }} }}
routes {{ route "all" {{ filters {{ agent "published" }}; upstream "echo" }} }}
upstreams {{ upstream "echo" {{ builtin "echo" }} }}
agents {{ agent "published" {{ grpc "http://{place}" {package}; timeout "5s"; {settings} }} }}
"#
        );
        let config = directory.path().join("interop.kdl");
        fs::write(&config, text).unwrap();
        let arguments = ["run", "--config", config.to_str().unwrap()];
        let log = directory.path().join("proxy.log");
        let proxy = Process::start(&portcullis(), &arguments, log);
        Self {
            address,
            probes,
            _proxy: proxy,
            agent: Some(agent),
            place,
            program,
            directory,
        }
    }

    fn wait_ready(mut self) -> Self {
        let probes = self.probes;
        let ready = || get(probes, "/readyz").is_some_and(|answer| answer.status == 200);
        self._proxy.wait_until(ready);
        self
    }
}

fn start(program: &str, place: SocketAddr, directory: &Path) -> Process {
    let log = directory.join("agent.log");
    Process::start(Path::new(program), &[&place.to_string()], log)
}

const AGENT: &str = env!("CARGO_BIN_EXE_published-agent");
const FORK: &str = env!("CARGO_BIN_EXE_published-fork");
const CONFIG: &str = r#"config { greeting "hello" }"#;

#[test]
fn a_published_agent_decides() {
    let stage = Stage::set(AGENT, "", CONFIG).wait_ready();
    let allowed = get(stage.address, "/anything?a=b").unwrap();
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let seen = "hello GET /anything?a=b from interop";
    assert!(allowed.body.contains(seen), "{allowed:?}");
    assert_eq!(allowed.header("x-published-answer"), Some("all"));
    let blocked = get(stage.address, "/block").unwrap();
    assert_eq!(blocked.status, 403, "{blocked:?}");
    assert_eq!(blocked.body, "blocked by a published agent\n");
    assert_eq!(blocked.header("x-why"), Some("interop"));
    let redirected = get(stage.address, "/redirect").unwrap();
    assert_eq!(redirected.status, 307, "{redirected:?}");
}

#[test]
fn a_published_agent_may_refuse_its_configuration() {
    let mut stage = Stage::set(AGENT, "", "config { rules 1 }");
    let line = stage._proxy.wait_for_line("refused its configuration");
    assert!(line.contains("published"), "{line}");
    assert_eq!(get(stage.address, "/").unwrap().status, 503);
}

#[test]
fn a_published_agent_may_be_killed_and_come_back() {
    let mut stage = Stage::set(AGENT, "", CONFIG).wait_ready();
    drop(stage.agent.take());
    let address = stage.address;
    let status = || get(address, "/").map(|answer| answer.status);
    stage._proxy.wait_until(|| status() == Some(503));
    stage.agent = Some(start(stage.program, stage.place, stage.directory.path()));
    stage._proxy.wait_until(|| status() == Some(200));
}

#[test]
fn a_fork_is_called_in_its_package() {
    let stage = Stage::set(FORK, r#"package="grapsus.agent.v2""#, "").wait_ready();
    let allowed = get(stage.address, "/anything").unwrap();
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert!(allowed.body.contains("GET /anything"), "{allowed:?}");
    let blocked = get(stage.address, "/block").unwrap();
    assert_eq!(blocked.status, 403, "{blocked:?}");
    assert_eq!(blocked.body, "blocked by a fork\n");
}

#[test]
fn another_package_is_told_from_an_agent_that_is_not_there() {
    let mut stage = Stage::set(FORK, "", "");
    let line = stage._proxy.wait_for_line("package");
    assert!(line.contains("Unimplemented"), "{line}");
    assert_eq!(get(stage.address, "/").unwrap().status, 503);
}

async fn ask(client: &AgentClientV2, path: &str) -> AgentResponse {
    let event = RequestHeadersEvent {
        metadata: RequestMetadata {
            correlation_id: path.to_owned(),
            request_id: path.to_owned(),
            client_ip: "203.0.113.7".to_owned(),
            client_port: 51234,
            server_name: None,
            protocol: "HTTP/1.1".to_owned(),
            tls_version: None,
            tls_cipher: None,
            route_id: Some("all".to_owned()),
            upstream_id: None,
            timestamp: "2026-07-01T12:00:00Z".to_owned(),
            traceparent: None,
        },
        method: "GET".to_owned(),
        uri: path.to_owned(),
        headers: HashMap::from([("host".to_owned(), vec!["interop.example".to_owned()])]),
    };
    client.send_request_headers(path, &event).await.unwrap()
}

async fn client(directory: &TempDir) -> (Process, AgentClientV2) {
    let place = free_address();
    let arguments = ["agent", "denylist", "--grpc", &place.to_string()];
    let log = directory.path().join("denylist.log");
    let mut agent = Process::start(&portcullis(), &arguments, log);
    agent.wait_until(|| TcpStream::connect(place).is_ok());
    let url = format!("http://{place}");
    let client = AgentClientV2::new("denylist", url, TIMEOUT).await.unwrap();
    (agent, client)
}

#[tokio::test]
async fn a_published_client_asks_the_denylist() {
    let directory = tempfile::tempdir().unwrap();
    let (_agent, mut client) = client(&directory).await;
    client.set_config(Some(json!({ "paths": ["/admin"] })));
    client.connect().await.unwrap();
    let capabilities = client.capabilities().await.unwrap();
    assert_eq!(capabilities.agent_id, "denylist");
    for (path, blocked) in [("/hello", false), ("/admin", true), ("/", false)] {
        let answer = ask(&client, path).await;
        match answer.decision {
            Decision::Allow => assert!(!blocked, "{path} was allowed"),
            Decision::Block { status, .. } => assert_eq!((status, blocked), (403, true), "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_published_client_is_told_that_its_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_agent, mut client) = client(&directory).await;
    client.set_config(Some(json!({ "pahts": ["/admin"] })));
    assert!(client.connect().await.is_err());
}
