//! An agent of version 1 as its authors' library makes it: nothing of what it speaks is ours.
//!
//! `/block` is blocked, `/redirect` redirected, everything else goes on with a header that says what was seen. Cats in the
//! bodies of requests become tigers, bodies of responses say otherwise how large they were, and sockets that talk of dogs are
//! closed.

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use portcullis_interop::judge::{Judge, Judged};
use sentinel_agent_protocol::{
    AgentHandler, AgentResponse, AgentServer, BodyMutation, ConfigureEvent, Decision, HeaderOp,
    RequestBodyChunkEvent, RequestHeadersEvent, ResponseBodyChunkEvent, ResponseHeadersEvent,
    WebSocketFrameEvent,
};
use std::collections::HashMap;

#[derive(Default)]
struct OldAgent(Judge);

#[async_trait]
impl AgentHandler for OldAgent {
    async fn on_configure(&self, event: ConfigureEvent) -> AgentResponse {
        match self.0.learn(&event.config) {
            true => AgentResponse::default_allow(),
            false => AgentResponse::block(500, Some("a greeting is missing".to_owned())),
        }
    }

    async fn on_request_headers(&self, event: RequestHeadersEvent) -> AgentResponse {
        let client = &event.metadata.client_ip;
        match self.0.judge(&event.method, &event.uri, client) {
            Judged::Block => AgentResponse {
                decision: Decision::Block {
                    status: 403,
                    body: Some("blocked by an old agent\n".to_owned()),
                    headers: Some(HashMap::from([("x-why".to_owned(), "interop".to_owned())])),
                },
                ..AgentResponse::default_allow()
            },
            Judged::Redirect { to, status } => AgentResponse::redirect(to, status),
            Judged::Pass { seen } => AgentResponse::default_allow()
                .add_request_header(HeaderOp::Set {
                    name: "x-old-agent".to_owned(),
                    value: seen,
                })
                .add_response_header(HeaderOp::Set {
                    name: "x-old-answer".to_owned(),
                    value: event.metadata.route_id.unwrap_or_default(),
                }),
        }
    }

    async fn on_request_body_chunk(&self, event: RequestBodyChunkEvent) -> AgentResponse {
        AgentResponse {
            request_body_mutation: changed(&event.data, event.chunk_index, "cat", "tiger"),
            ..AgentResponse::default_allow()
        }
    }

    async fn on_response_headers(&self, event: ResponseHeadersEvent) -> AgentResponse {
        AgentResponse::default_allow().add_response_header(HeaderOp::Set {
            name: "x-old-status".to_owned(),
            value: event.status.to_string(),
        })
    }

    async fn on_response_body_chunk(&self, event: ResponseBodyChunkEvent) -> AgentResponse {
        AgentResponse {
            response_body_mutation: changed(&event.data, event.chunk_index, "body_bytes", "size"),
            ..AgentResponse::default_allow()
        }
    }

    async fn on_websocket_frame(&self, event: WebSocketFrameEvent) -> AgentResponse {
        match decoded(&event.data).contains("dog") {
            true => AgentResponse::websocket_close(1008, "no dogs".to_owned()),
            false => AgentResponse::websocket_allow(),
        }
    }
}

fn decoded(data: &str) -> String {
    let bytes = STANDARD.decode(data).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn changed(data: &str, chunk_index: u32, from: &str, to: &str) -> Option<BodyMutation> {
    let text = decoded(data);
    let replaced = text.replace(from, to);
    (text != replaced).then(|| BodyMutation::replace(chunk_index, STANDARD.encode(replaced)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let socket = std::env::args()
        .nth(1)
        .expect("usage: published-v1-agent SOCKET");
    let server = AgentServer::new("old", socket, Box::<OldAgent>::default());
    server.run().await.expect("the agent serves");
}
