//! The agent `mock`: it does what it is told on its command line, which is
//! what tests of a proxy and of its configuration need.
//!
//! What an agent of the library cannot do to a connection is done by the
//! [`relay`] that stands before it.

mod relay;

use std::time::Duration;

use async_trait::async_trait;
use portcullis_agent_protocol::server::{Agent, AgentError};
use portcullis_agent_protocol::{
    BodyChunk, Capabilities, Decision, EventKind, HeaderOp, RequestComplete, RequestHeaders,
    ResponseHeaders, Verdict, WebSocketFrame,
};

pub(crate) use self::relay::{Spoils, inner_socket, stand_before};

/// Every phase that an agent can be asked in.
pub(crate) const PHASES: [EventKind; 6] = [
    EventKind::RequestHeaders,
    EventKind::RequestBodyChunk,
    EventKind::ResponseHeaders,
    EventKind::ResponseBodyChunk,
    EventKind::WebSocketFrame,
    EventKind::RequestComplete,
];

/// The agent.
#[derive(Debug, Clone)]
pub(crate) struct Mock {
    /// What it calls itself.
    pub(crate) name: String,
    /// Where it does what follows; in other phases it allows.
    pub(crate) phases: Vec<EventKind>,
    /// What it answers.
    pub(crate) verdict: Verdict,
    /// Changes of the request's head, where they still can be made.
    pub(crate) request_headers: Vec<HeaderOp>,
    /// The same for the response's.
    pub(crate) response_headers: Vec<HeaderOp>,
    /// Every verdict is provisional, that on the last piece of a body too.
    pub(crate) needs_more: bool,
    /// It answers after this time.
    pub(crate) delay: Duration,
    /// It does this instead of answering.
    pub(crate) failure: Option<Failure>,
}

/// What the agent does instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Closes the connection.
    Close,
    /// Never answers.
    Hang,
    /// Sends bytes that are no message.
    Garbage,
    /// Says that it failed.
    Error,
    /// Says "not now".
    Overloaded,
}

impl Mock {
    /// What has to be done to connections, and in which phases.
    pub(super) fn spoils(&self) -> Option<Spoils> {
        let closes = match self.failure? {
            Failure::Close => true,
            Failure::Garbage => false,
            Failure::Hang | Failure::Error | Failure::Overloaded => return None,
        };
        Some(Spoils {
            phases: self.phases.clone(),
            delay: self.delay,
            closes,
        })
    }

    async fn answer(&self, kind: EventKind) -> Result<Decision, AgentError> {
        if !self.phases.contains(&kind) {
            return Ok(Decision::allow());
        }
        tokio::time::sleep(self.delay).await;
        match self.failure {
            Some(Failure::Hang) => std::future::pending().await,
            Some(Failure::Error) => Err(AgentError::new("the mock was told to fail")),
            Some(Failure::Overloaded) => Err(AgentError::overloaded(None)),
            // The relay does these, and lets no such event through.
            Some(Failure::Close | Failure::Garbage) | None => Ok(self.decision(kind)),
        }
    }

    /// The verdict with those of the changes that can be made in this phase.
    fn decision(&self, kind: EventKind) -> Decision {
        let mut decision = Decision::from(self.verdict.clone());
        decision.needs_more = self.needs_more;
        let is_request = matches!(
            kind,
            EventKind::RequestHeaders | EventKind::RequestBodyChunk
        );
        let is_response = matches!(
            kind,
            EventKind::ResponseHeaders | EventKind::ResponseBodyChunk
        );
        if is_request {
            decision.request_headers.clone_from(&self.request_headers);
        }
        if is_request || is_response {
            decision.response_headers.clone_from(&self.response_headers);
        }
        decision
    }
}

#[async_trait]
impl Agent for Mock {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.name(), self.version()).with_events(&PHASES)
    }

    async fn request_headers(&self, _event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        self.answer(EventKind::RequestHeaders).await
    }

    async fn request_body_chunk(&self, _event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        self.answer(EventKind::RequestBodyChunk).await
    }

    async fn response_headers(&self, _event: &ResponseHeaders<'_>) -> Result<Decision, AgentError> {
        self.answer(EventKind::ResponseHeaders).await
    }

    async fn response_body_chunk(&self, _event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        self.answer(EventKind::ResponseBodyChunk).await
    }

    async fn websocket_frame(&self, _event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        self.answer(EventKind::WebSocketFrame).await
    }

    async fn request_complete(&self, _event: &RequestComplete<'_>) {
        // There is nothing to decide, but an answer can be late or missing.
        let _ = self.answer(EventKind::RequestComplete).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mock() -> Mock {
        let operation = |name: &str| HeaderOp::Set {
            name: name.to_owned(),
            value: "1".to_owned(),
        };
        Mock {
            name: "mock".to_owned(),
            phases: PHASES.to_vec(),
            verdict: Verdict::Allow,
            request_headers: vec![operation("x-request")],
            response_headers: vec![operation("x-response")],
            needs_more: false,
            delay: Duration::ZERO,
            failure: None,
        }
    }

    #[tokio::test]
    async fn it_changes_what_can_still_be_changed() {
        let counts = PHASES.map(|kind| {
            let decision = mock().decision(kind);
            (
                decision.request_headers.len(),
                decision.response_headers.len(),
            )
        });
        assert_eq!(counts, [(1, 1), (1, 1), (0, 1), (0, 1), (0, 0), (0, 0)]);
    }

    #[tokio::test]
    async fn it_does_it_in_the_named_phases_alone() {
        let mock = Mock {
            phases: vec![EventKind::ResponseHeaders],
            verdict: Decision::block(403).verdict,
            failure: Some(Failure::Error),
            ..mock()
        };
        assert_eq!(
            mock.answer(EventKind::RequestHeaders).await,
            Ok(Decision::allow())
        );
        assert!(mock.answer(EventKind::ResponseHeaders).await.is_err());
        let mock = Mock {
            failure: None,
            ..mock
        };
        let answer = mock.answer(EventKind::ResponseHeaders).await.unwrap();
        assert_eq!(answer.verdict, mock.verdict);
    }
}
