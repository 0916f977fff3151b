//! The guarded call: one question to one agent, bounded in time, that always ends in a verdict or a named failure.

use crate::{
    failure::{Failure, FailureReason},
    link::Link,
    operations,
};
use portcullis_agent_protocol::{
    CallError, CallGuard, Connection, Decision, EventKind, RequestHeaders,
};
use std::time::Duration;

/// Asks the agent at the other end of `link` about the head of a request.
///
/// # Errors
/// The failure that stands instead of a verdict.
pub(crate) async fn call(
    link: &Link,
    event: &RequestHeaders<'_>,
    timeout: Duration,
) -> Result<Decision, Failure> {
    let _asked = link.agent.asked();
    // One timer for the whole call: for the connection, if it is being made, and for the answer.
    let asked = async {
        let connection = match link.try_connection() {
            Some(connection) => connection?,
            None => link.connection().await?,
        };
        ask(&connection, event).await
    };
    let decision = match tokio::time::timeout(timeout, asked).await {
        Ok(answer) => answer?,
        // Without a connection there is nobody who could have answered.
        Err(_) if link.try_connection().is_none() => {
            return Err(Failure::new(
                FailureReason::Unreachable,
                format!("no connection within {timeout:?}"),
            ));
        }
        Err(_) => {
            return Err(Failure::new(
                FailureReason::Timeout,
                format!("no answer within {timeout:?}"),
            ));
        }
    };
    operations::validate(&decision)
        .map_err(|problem| Failure::new(FailureReason::ProtocolError, problem))?;
    Ok(decision)
}

async fn ask(connection: &Connection, event: &RequestHeaders<'_>) -> Result<Decision, Failure> {
    if !connection
        .capabilities()
        .supports(EventKind::RequestHeaders)
    {
        return Err(Failure::new(
            FailureReason::Unavailable,
            "the agent does not take request headers",
        ));
    }
    connection
        .request_headers(event, CallGuard::none())
        .map_err(failure)?
        .await
        .map_err(failure)
}

fn failure(error: CallError) -> Failure {
    let reason = match &error {
        CallError::Closed => FailureReason::Unreachable,
        CallError::OutboundFull => FailureReason::Saturated,
        CallError::DuplicateOutstanding
        | CallError::EventTooLarge { .. }
        | CallError::Protocol(_)
        | CallError::Agent(_) => FailureReason::ProtocolError,
    };
    Failure::new(reason, error.to_string())
}
