//! The agent `echo`: it allows everything, in every phase, and leaves its name
//! in a header of the request and of the response, which shows that it was
//! asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use portcullis_agent_protocol::server::{Agent, AgentError};
use portcullis_agent_protocol::{Capabilities, Decision, EventKind, RequestHeaders};
use serde::Deserialize;
use serde_json::Value;

const HEADER: &str = "x-agent-echo";

/// The agent.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// Milliseconds; 0: no verdict holds for another request.
    hold_for: AtomicU64,
}

/// What the agent can be configured with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    /// How long a verdict holds, in milliseconds.
    #[serde(default)]
    hold_for_ms: u64,
}

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

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let config = Option::<Config>::deserialize(config).map_err(|error| error.to_string())?;
        let hold_for = config.unwrap_or_default().hold_for_ms;
        self.hold_for.store(hold_for, Relaxed);
        Ok(())
    }

    async fn request_headers(&self, _event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let hold_for = Duration::from_millis(self.hold_for.load(Relaxed));
        Ok(Decision::allow()
            .set_request_header(HEADER, self.name())
            .set_response_header(HEADER, self.name())
            .hold_for(hold_for))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn it_takes_its_configuration_and_no_other() {
        let echo = Echo::default();
        let milliseconds = || echo.hold_for.load(Relaxed);
        assert_eq!(echo.configure(&json!({"hold-for-ms": 5})).await, Ok(()));
        assert_eq!(milliseconds(), 5);
        for wrong in [
            json!({"hold-for": 5}),
            json!({"hold-for-ms": "5s"}),
            json!(5),
        ] {
            assert!(echo.configure(&wrong).await.is_err(), "{wrong}");
            assert_eq!(milliseconds(), 5);
        }
        for none in [json!({}), Value::Null] {
            assert_eq!(echo.configure(&none).await, Ok(()));
            assert_eq!(milliseconds(), 0);
        }
    }
}
