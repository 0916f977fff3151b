//! An agent as its authors' library makes it: nothing of what it speaks is ours.
//!
//! `/block` is blocked, `/redirect` redirected, everything else goes on with a header that says what was seen.

use async_trait::async_trait;
use portcullis_interop::judge::{Judge, Judged};
use std::collections::HashMap;
use zentinel_agent_protocol::{
    AgentResponse, Decision, EventType, HeaderOp, RequestHeadersEvent,
    v2::{AgentCapabilities, AgentHandlerV2, GrpcAgentServerV2, UdsAgentServerV2},
};

#[derive(Default)]
struct PublishedAgent(Judge);

#[async_trait]
impl AgentHandlerV2 for PublishedAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::new("published", "Published agent", "1.0.0")
            .with_event(EventType::RequestHeaders)
            .with_event(EventType::Configure)
    }

    async fn on_configure(&self, config: serde_json::Value, _version: Option<String>) -> bool {
        self.0.learn(&config)
    }

    async fn on_request_headers(&self, event: RequestHeadersEvent) -> AgentResponse {
        let agent = event.headers.get("user-agent");
        let agent = agent.map_or("", |values| &values[0]);
        match self.0.judge(&event.method, &event.uri, agent) {
            Judged::Block => AgentResponse {
                decision: Decision::Block {
                    status: 403,
                    body: Some("blocked by a published agent\n".to_owned()),
                    headers: Some(HashMap::from([("x-why".to_owned(), "interop".to_owned())])),
                },
                ..AgentResponse::default_allow()
            },
            Judged::Redirect { to, status } => AgentResponse::redirect(to, status),
            Judged::Pass { seen } => AgentResponse::default_allow()
                .add_request_header(HeaderOp::Set {
                    name: "x-published-agent".to_owned(),
                    value: seen,
                })
                .add_response_header(HeaderOp::Set {
                    name: "x-published-answer".to_owned(),
                    value: event.metadata.route_id.unwrap_or_default(),
                }),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let place = std::env::args()
        .nth(1)
        .expect("usage: published-agent SOCKET|ADDRESS");
    let agent = Box::<PublishedAgent>::default();
    let ended = match place.parse() {
        Ok(address) => {
            let server = GrpcAgentServerV2::new("published", agent);
            server.run(address).await
        }
        Err(_) => UdsAgentServerV2::new("published", place, agent).run().await,
    };
    if let Err(error) = ended {
        eprintln!("published-agent: {error}");
        std::process::exit(1);
    }
}
