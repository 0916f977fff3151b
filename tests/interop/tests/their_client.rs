//! The client of the published library asks our denylist agents, the builtin one and the example in Python.

use portcullis_interop::{Process, accepts, portcullis};
use serde_json::json;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};
use zentinel_agent_protocol::{
    AgentResponse, Decision, RequestHeadersEvent, RequestMetadata, v2::AgentClientV2Uds,
};

const TIMEOUT: Duration = Duration::from_secs(5);

fn event(correlation_id: &str, path: &str, user_agent: &str) -> RequestHeadersEvent {
    RequestHeadersEvent {
        metadata: RequestMetadata {
            correlation_id: correlation_id.to_owned(),
            request_id: correlation_id.to_owned(),
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
        headers: HashMap::from([
            ("host".to_owned(), vec!["interop.example".to_owned()]),
            ("user-agent".to_owned(), vec![user_agent.to_owned()]),
        ]),
    }
}

async fn ask(client: &AgentClientV2Uds, path: &str, user_agent: &str) -> AgentResponse {
    let id = format!("{path} {user_agent}");
    let event = event(&id, path, user_agent);
    client.send_request_headers(&id, &event).await.unwrap()
}

fn builtin(folder: &Path) -> (Process, PathBuf) {
    let socket = folder.join("denylist.sock");
    let arguments = ["agent", "denylist", "--socket", socket.to_str().unwrap()];
    let mut agent = Process::start(&portcullis(), &arguments, folder.join("denylist.log"));
    agent.wait_until(|| accepts(&socket));
    (agent, socket)
}

fn in_python(folder: &Path) -> (Process, PathBuf) {
    const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/python");
    let socket = folder.join("denylist.sock");
    let sources = format!("PYTHONPATH={SDK}/src");
    let example = format!("{SDK}/examples/denylist.py");
    let arguments = [&*sources, "python3", &*example, socket.to_str().unwrap()];
    let log = folder.join("denylist.log");
    let mut agent = Process::start(Path::new("/usr/bin/env"), &arguments, log);
    agent.wait_until(|| accepts(&socket));
    (agent, socket)
}

#[tokio::test]
async fn the_denylist_allows_and_blocks() {
    for start in [builtin, in_python] {
        let directory = tempfile::tempdir().unwrap();
        let (_agent, socket) = start(directory.path());
        allows_and_blocks(&socket).await;
    }
}

async fn allows_and_blocks(socket: &Path) {
    let mut client = AgentClientV2Uds::new("denylist", socket.to_str().unwrap(), TIMEOUT)
        .await
        .unwrap();
    client.set_config(Some(
        json!({ "paths": ["/admin"], "user-agents": ["sqlmap"] }),
    ));
    client.connect().await.unwrap();
    let capabilities = client.capabilities().await.unwrap();
    assert_eq!(capabilities.protocol_version, 2);

    for (path, user_agent, blocked) in [
        ("/hello", "interop", false),
        ("/admin", "interop", true),
        ("/hello", "sqlmap/1.8", true),
        ("/", "interop", false),
    ] {
        let answer = ask(&client, path, user_agent).await;
        match answer.decision {
            Decision::Allow => assert!(!blocked, "{path} by {user_agent} was allowed"),
            Decision::Block { status, .. } => {
                assert!(blocked, "{path} by {user_agent} was blocked");
                assert_eq!(status, 403);
            }
            other => panic!("{path} by {user_agent}: {other:?}"),
        }
    }
    client.ping().await.unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_the_denylist_does_not_understand_is_refused() {
    for start in [builtin, in_python] {
        let directory = tempfile::tempdir().unwrap();
        let (_agent, socket) = start(directory.path());
        let mut client = AgentClientV2Uds::new("denylist", socket.to_str().unwrap(), TIMEOUT)
            .await
            .unwrap();
        client.set_config(Some(json!({ "pahts": ["/admin"] })));
        assert!(client.connect().await.is_err());
    }
}
