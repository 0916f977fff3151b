//! Opening a connection: dialling, the handshake, the configuration.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::outbox::Outbox;
use super::shared::Shared;
use super::{ConnectOptions, Connection, ConnectionDriver, configure, driver};
use crate::codec::frame::{self, MessageType};
use crate::codec::handshake::{self, Agreement, HandshakeRequest};
use crate::codec::registration::RegistrationReply;
use crate::codec::{BadMessage, EventId};
use crate::error::shown;
use crate::transport::{Frames, Inbound, Outbound, Socket};
use crate::{CallError, ConfigureError, ConnectError, Extensions, ProtocolError};

/// Opens a connection, however long it takes.
pub(super) async fn open(
    path: &Path,
    options: &ConnectOptions,
) -> Result<(Connection, ConnectionDriver), ConnectError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(ConnectError::Unreachable)?;
    let mut opening = Opening::new(stream.into(), options);
    opening
        .send(MessageType::HandshakeRequest, &greeting(options))
        .await?;
    let (kind, payload) = opening.receive().await?;
    if kind != MessageType::HandshakeResponse {
        return Err(ProtocolError::UnexpectedMessage(kind).into());
    }
    let (capabilities, extensions) = match handshake::decode_response(&payload, options.extensions)?
    {
        Agreement::Accepted(capabilities, extensions) => (capabilities, extensions),
        Agreement::Refused(reason) => {
            let reason = configure::shortened(reason);
            return Err(ConnectError::Refused { reason });
        }
    };
    let outbound = Outbox::Frames(Frames::default());
    let shared = Arc::new(Shared::new(capabilities, extensions, options, outbound));
    accepted_configuration(&mut opening, &shared).await?;
    let driver = ConnectionDriver::new(Arc::clone(&shared), opening.stream, opening.inbound);
    Ok((Connection::new(shared), driver))
}

/// The first message of a connection.
pub(crate) fn greeting(options: &ConnectOptions) -> HandshakeRequest<'_> {
    HandshakeRequest {
        supported_versions: vec![handshake::PROTOCOL_VERSION],
        proxy_id: Cow::Borrowed(&options.proxy_id),
        proxy_version: Cow::Borrowed(&options.proxy_version),
        config: match options.config.as_deref() {
            Some(config) => Cow::Borrowed(config),
            None => Cow::Owned(Value::Null),
        },
        supported_encodings: vec![Cow::Borrowed(handshake::JSON)],
        extensions: options
            .extensions
            .names()
            .into_iter()
            .map(Cow::Borrowed)
            .collect(),
    }
}

/// Has the configuration accepted when there is one.
pub(super) async fn accepted_configuration(
    opening: &mut Opening<'_>,
    shared: &Shared,
) -> Result<(), ConnectError> {
    if let Some(config) = &opening.options.config {
        opening.configure(config, shared).await?;
        shared.note_heard();
    }
    Ok(())
}

/// A connection on which there are no events yet.
pub(super) struct Opening<'a> {
    stream: Socket,
    inbound: Inbound,
    options: &'a ConnectOptions,
}

impl<'a> Opening<'a> {
    pub(super) fn new(stream: Socket, options: &'a ConnectOptions) -> Self {
        Self::resumed(stream, Inbound::default(), options)
    }

    /// One of which this has been read already.
    pub(super) fn resumed(stream: Socket, inbound: Inbound, options: &'a ConnectOptions) -> Self {
        Self {
            stream,
            inbound,
            options,
        }
    }

    pub(super) fn into_parts(self) -> (Socket, Inbound) {
        (self.stream, self.inbound)
    }

    /// Answers a registration.
    pub(super) async fn send_reply(
        &mut self,
        reply: &RegistrationReply,
    ) -> Result<(), ConnectError> {
        self.send(MessageType::HandshakeResponse, reply).await
    }

    async fn send(
        &mut self,
        kind: MessageType,
        message: &(impl Serialize + Sync),
    ) -> Result<(), ConnectError> {
        let mut outbound = Outbound::default();
        let mut encoded = Ok(());
        let limit = self.options.limits.max_frame_bytes;
        let framed = frame::append(&mut outbound.frames.bytes, kind, limit, |out| {
            encoded = handshake::encode(out, message);
        });
        let unsendable = |error| ConnectError::Unreachable(io::Error::other(error));
        encoded.map_err(|error| unsendable(error.to_string()))?;
        framed.map_err(|bytes| unsendable(format!("a {kind:?} of {bytes} bytes is too large")))?;
        outbound
            .flush(&mut self.stream)
            .await
            .map_err(ConnectError::Unreachable)
    }

    pub(super) async fn receive(&mut self) -> Result<(MessageType, Bytes), ConnectError> {
        loop {
            let limit = self.options.limits.max_frame_bytes;
            if let Some(frame) = frame::take(&mut self.inbound.bytes, limit)? {
                return Ok(frame);
            }
            self.inbound
                .read(&mut self.stream)
                .await
                .map_err(ConnectError::Unreachable)?;
        }
    }

    // Sends the configuration and waits until it is accepted.
    async fn configure(&mut self, config: &Value, shared: &Shared) -> Result<(), ConnectError> {
        let correlation_id = configure::correlation_id(&self.options.agent_name);
        let by_number = shared.extensions.event_id;
        let number = by_number.then_some(handshake::CONFIGURE_EVENT_ID);
        let message = configure::message(config, None, &correlation_id, number);
        self.send(MessageType::Configure, &message).await?;
        loop {
            let (kind, payload) = self.receive().await?;
            if kind == MessageType::AgentResponse {
                let expected = match by_number {
                    true => EventId::Number(handshake::CONFIGURE_EVENT_ID),
                    false => EventId::Correlation(correlation_id),
                };
                return acknowledged(&payload, shared.extensions, &expected);
            }
            shared.on_message(kind, &payload)?;
        }
    }
}

fn acknowledged(
    payload: &[u8],
    extensions: Extensions,
    expected: &EventId,
) -> Result<(), ConnectError> {
    let decoded = driver::decode_answer(payload, extensions);
    let (id, answer) = decoded.map_err(|BadMessage { error, .. }| error)?;
    if id != *expected {
        return Err(ProtocolError::UnknownEvent {
            id: shown(&format!("{id:?}")),
        }
        .into());
    }
    configure::outcome(answer.map_err(CallError::from)).map_err(|error| {
        ConnectError::ConfigurationRefused {
            reason: match error {
                ConfigureError::Refused { reason } => reason,
                // It cannot take it now, which is no more use.
                ConfigureError::Call(error) => error.to_string(),
            },
        }
    })
}
