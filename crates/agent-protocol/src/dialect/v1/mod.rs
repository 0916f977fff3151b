//! Version 1 of the protocol, for old agents: over a Unix socket, one question
//! at a time; over HTTP, each question a request of its own.

mod http;
mod socket;
mod unix;

use std::io;

pub(crate) use http::HttpAgent;
pub(crate) use unix::UnixAgent;

use super::v2::configuration_outcome;
use crate::codec::v1;
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

/// The question that hands over the configuration, if there is one.
fn configuration(options: &ConnectOptions) -> Result<Option<Vec<u8>>, ConnectError> {
    let Some(config) = &options.config else {
        return Ok(None);
    };
    let mut question = Vec::new();
    v1::encode_configure(&mut question, &options.agent_name, config).map_err(unsendable)?;
    match question.len() {
        bytes if bytes > v1::MAX_MESSAGE_BYTES => Err(unsendable(too_large(bytes))),
        _ => Ok(Some(question)),
    }
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

fn too_large(bytes: usize) -> CallError {
    CallError::EventTooLarge {
        bytes,
        limit: v1::MAX_MESSAGE_BYTES,
    }
}
