//! The agent `echo`: it allows everything, in every phase, and leaves its name
//! in a header of the request and of the response, which shows that it was
//! asked.

use async_trait::async_trait;
use portcullis_agent_protocol::server::{Agent, AgentError};
use portcullis_agent_protocol::{Capabilities, Decision, EventKind, RequestHeaders};

const HEADER: &str = "x-agent-echo";

/// The agent.
#[derive(Debug)]
pub(super) struct Echo;

#[async_trait]
impl Agent for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.name(), self.version()).with_events(&[
            EventKind::RequestHeaders,
            EventKind::RequestBodyChunk,
            EventKind::ResponseHeaders,
            EventKind::ResponseBodyChunk,
            EventKind::RequestComplete,
        ])
    }

    async fn request_headers(&self, _event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        Ok(Decision::allow()
            .set_request_header(HEADER, self.name())
            .set_response_header(HEADER, self.name()))
    }
}
