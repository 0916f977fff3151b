//! Version 1 of the protocol, for old agents: over a Unix socket, one question
//! at a time; over HTTP, each question a request of its own.

mod socket;
mod unix;

use std::io;

pub(crate) use unix::UnixAgent;

use super::v2_uds::configuration_outcome;
use crate::{
    CallError, Capabilities, ConfigureError, ConnectError, ConnectOptions, Decision, EventKind,
};

/// Nothing is announced in this version. An agent gets what the configuration
/// says that it inspects, and has to answer all of it.
fn capabilities(options: &ConnectOptions) -> Capabilities {
    Capabilities {
        agent_id: options.agent_name.clone(),
        ..Capabilities::default()
    }
    .with_events(&[
        EventKind::RequestHeaders,
        EventKind::RequestBodyChunk,
        EventKind::ResponseHeaders,
        EventKind::ResponseBodyChunk,
        EventKind::RequestComplete,
        EventKind::WebSocketFrame,
        EventKind::GuardrailInspect,
    ])
}

/// What an answer to the configuration means for the connection.
fn configured(answer: Result<Decision, CallError>) -> Result<(), ConnectError> {
    match configuration_outcome(answer) {
        Ok(()) => Ok(()),
        Err(ConfigureError::Refused { reason }) => {
            Err(ConnectError::ConfigurationRefused { reason })
        }
        Err(ConfigureError::Call(CallError::Protocol(error))) => Err(error.into()),
        Err(ConfigureError::Call(error)) => Err(unsendable(error)),
    }
}

fn unsendable(error: impl ToString) -> ConnectError {
    ConnectError::Unreachable(io::Error::other(error.to_string()))
}
