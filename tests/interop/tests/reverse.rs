//! An agent made with our library dials a proxy that is made with the published one.

use portcullis_agent_protocol::{
    Decision as OurDecision, RequestHeaders,
    server::{self, Agent, AgentError, DialOptions, DialTarget, ServeOptions},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use zentinel_agent_protocol::{
    Decision, RequestHeadersEvent, RequestMetadata,
    v2::{AgentPool, ReverseConnectionConfig, ReverseConnectionListener},
};

const WITHIN: Duration = Duration::from_secs(20);

struct Gate;

#[async_trait::async_trait]
impl Agent for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<OurDecision, AgentError> {
        Ok(match event.path() {
            "/admin" => OurDecision::block(403),
            _ => OurDecision::allow(),
        })
    }
}

fn event(path: &str) -> RequestHeadersEvent {
    RequestHeadersEvent {
        metadata: RequestMetadata {
            correlation_id: path.to_owned(),
            request_id: path.to_owned(),
            client_ip: "203.0.113.7".to_owned(),
            client_port: 51234,
            server_name: None,
            protocol: "HTTP/1.1".to_owned(),
            tls_version: None,
            tls_cipher: None,
            route_id: None,
            upstream_id: None,
            timestamp: "2026-07-01T12:00:00Z".to_owned(),
            traceparent: None,
        },
        method: "GET".to_owned(),
        uri: path.to_owned(),
        headers: HashMap::from([("host".to_owned(), vec!["interop.example".to_owned()])]),
    }
}

#[tokio::test]
async fn our_agent_registers_at_a_published_proxy_and_decides() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reverse.sock");
    let config = ReverseConnectionConfig {
        require_auth: true,
        auth_tokens: HashSet::from(["the right token".to_owned()]),
        ..ReverseConnectionConfig::default()
    };
    let listener = ReverseConnectionListener::bind_uds(&path, config)
        .await
        .unwrap();
    let proxy = DialOptions {
        proxy: DialTarget::UnixSocket(path),
        agent_id: "gate-1".to_owned(),
        token: Some("the right token".to_owned()),
    };
    let dialling = server::dial(
        Arc::new(Gate),
        proxy,
        ServeOptions::default(),
        std::future::pending(),
    );
    let agent = tokio::spawn(dialling);
    let pool = AgentPool::new();
    let registered = tokio::time::timeout(WITHIN, listener.accept_one(&pool)).await;
    assert_eq!(registered.unwrap().unwrap(), "gate-1");
    for (path, blocked) in [("/hello", false), ("/admin", true), ("/", false)] {
        let event = event(path);
        let answer = pool.send_request_headers("gate-1", path, &event);
        let answer = tokio::time::timeout(WITHIN, answer).await.unwrap().unwrap();
        match answer.decision {
            Decision::Allow => assert!(!blocked, "{path} was allowed"),
            Decision::Block { status, .. } => assert_eq!((status, blocked), (403, true), "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    agent.abort();
}
