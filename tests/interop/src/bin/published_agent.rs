//! An agent as its authors' library makes it: it knows nothing of this project.
//!
//! `/block` is blocked, `/redirect` redirected, everything else goes on with a header that says what was seen.

use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use zentinel_agent_protocol::{
    AgentResponse, Decision, EventType, HeaderOp, RequestHeadersEvent,
    v2::{AgentCapabilities, AgentHandlerV2, GrpcAgentServerV2, UdsAgentServerV2},
};

#[derive(Default)]
struct PublishedAgent {
    /// From the configuration that the proxy hands over.
    greeting: Mutex<Option<String>>,
}

#[async_trait]
impl AgentHandlerV2 for PublishedAgent {
    fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::new("published", "Published agent", "1.0.0")
            .with_event(EventType::RequestHeaders)
            .with_event(EventType::Configure)
    }

    async fn on_configure(&self, config: serde_json::Value, _version: Option<String>) -> bool {
        let greeting = config["greeting"].as_str().map(str::to_owned);
        let known = greeting.is_some();
        *self.greeting.lock().unwrap_or_else(PoisonError::into_inner) = greeting;
        known
    }

    async fn on_request_headers(&self, event: RequestHeadersEvent) -> AgentResponse {
        let path = event.uri.split('?').next().unwrap_or_default();
        match path {
            "/block" => AgentResponse {
                decision: Decision::Block {
                    status: 403,
                    body: Some("blocked by a published agent\n".to_owned()),
                    headers: Some(HashMap::from([("x-why".to_owned(), "interop".to_owned())])),
                },
                ..AgentResponse::default_allow()
            },
            "/redirect" => AgentResponse::redirect("https://interop.example/there".to_owned(), 307),
            _ => {
                let greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = format!(
                    "{} {} {} from {}",
                    greeting.as_deref().unwrap_or("unconfigured"),
                    event.method,
                    event.uri,
                    event
                        .headers
                        .get("user-agent")
                        .map_or("", |values| &values[0]),
                );
                AgentResponse::default_allow()
                    .add_request_header(HeaderOp::Set {
                        name: "x-published-agent".to_owned(),
                        value: seen,
                    })
                    .add_response_header(HeaderOp::Set {
                        name: "x-published-answer".to_owned(),
                        value: event.metadata.route_id.unwrap_or_default(),
                    })
            }
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
