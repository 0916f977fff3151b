//! An agent as a fork's library makes it, over gRPC in the fork's package.
//!
//! `/block` is blocked, everything else goes on with a header that says what was seen.

use async_trait::async_trait;
use grapsus_agent_protocol::{
    AgentResponse, Decision, EventType, HeaderOp, RequestHeadersEvent,
    v2::{AgentCapabilities, AgentHandlerV2, GrpcAgentServerV2},
};

struct PublishedFork;

#[async_trait]
impl AgentHandlerV2 for PublishedFork {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::new("fork", "Published fork", "1.0.0")
            .with_event(EventType::RequestHeaders)
    }

    async fn on_request_headers(&self, event: RequestHeadersEvent) -> AgentResponse {
        if event.uri == "/block" {
            return AgentResponse {
                decision: Decision::Block {
                    status: 403,
                    body: Some("blocked by a fork\n".to_owned()),
                    headers: None,
                },
                ..AgentResponse::default_allow()
            };
        }
        AgentResponse::default_allow().add_request_header(HeaderOp::Set {
            name: "x-published-fork".to_owned(),
            value: format!("{} {}", event.method, event.uri),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let address = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("usage: published-fork ADDRESS");
    let server = GrpcAgentServerV2::new("fork", Box::new(PublishedFork));
    if let Err(error) = server.run(address).await {
        eprintln!("published-fork: {error}");
        std::process::exit(1);
    }
}
