//! Opening a connection: dialling, the stream, the handshake, the
//! configuration.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use futures::{StreamExt, stream};
use http::uri::PathAndQuery;
use serde_json::Value;
use tonic::{Code, Request, Status, Streaming};

use super::super::connect::greeting;
use super::super::outbox::{self, Messages, NewConfiguration, Outbox};
use super::super::shared::Shared;
use super::super::{ConnectOptions, Connection, configure};
use super::driver::{GrpcDriver, end, on_message, read};
use super::outflow::Outflow;
use crate::codec::handshake::{self, Agreement};
use crate::codec::protobuf::messages::{FromAgent, FromProxy, Ping, ProxyToAgent};
use crate::codec::{BadMessage, EventId, protobuf};
use crate::dialect::channel::{self, GrpcEndpoint};
use crate::error::shown;
use crate::grpc::{MessageCodec, PROCESS_STREAM, SERVICE, describe};
use crate::transport::now_ms;
use crate::{CallError, ConfigureError, ConnectError, ProtocolError};

/// The number of the ping that follows the first configuration; those of the
/// handles begin with 1.
const CONFIGURED: u64 = 0;

/// Reaches the agent, shakes hands, and has the configuration accepted when
/// there is one; all under one deadline. The driver has to be spawned on the
/// runtime that this was called on.
///
/// # Errors
/// See [`ConnectError`].
pub(crate) async fn connect(
    endpoint: &GrpcEndpoint,
    package: &str,
    options: &ConnectOptions,
) -> Result<(Connection, GrpcDriver), ConnectError> {
    let opening = open(endpoint, package, options);
    match tokio::time::timeout(options.handshake_timeout, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(ConnectError::Timeout),
    }
}

async fn open(
    endpoint: &GrpcEndpoint,
    package: &str,
    options: &ConnectOptions,
) -> Result<(Connection, GrpcDriver), ConnectError> {
    let path = format!("/{package}.{SERVICE}/{PROCESS_STREAM}");
    let path = PathAndQuery::try_from(path).map_err(unusable)?;
    let channel = channel::connect(endpoint, options.handshake_timeout).await?;
    let mut client = channel::client(channel);
    client.ready().await.map_err(unusable)?;
    // First what opens the connection, then what its handles send.
    let (first, firsts) = mpsc::unbounded();
    let (follow, following) = oneshot::channel::<Outflow>();
    let following = stream::once(following).filter_map(async |it| it.ok());
    let outgoing = firsts.chain(following.flatten()).boxed();
    let mut opening = Opening { first, options };
    let offered = options.extensions.and(protobuf::EXTENSIONS);
    let mut greeting = greeting(options);
    greeting.extensions = offered.names().into_iter().map(Into::into).collect();
    opening.send(FromProxy::Handshake(protobuf::encode_handshake_request(
        &greeting,
    )));
    let codec = MessageCodec::<ProxyToAgent>::default();
    let called = client.streaming(Request::new(outgoing), path, codec).await;
    let mut inbound = called.map_err(|status| refused(&status))?.into_inner();
    let response = match read(receive(&mut inbound).await?)? {
        Some(FromAgent::Handshake(response)) => protobuf::decode_handshake_response(response),
        _ => return Err(ProtocolError::malformed("handshake", "another message came").into()),
    };
    let (capabilities, extensions) = match handshake::agree(response, offered)? {
        Agreement::Accepted(capabilities, extensions) => (capabilities, extensions),
        Agreement::Refused(reason) => {
            let reason = configure::shortened(reason);
            return Err(ConnectError::Refused { reason });
        }
    };
    let outbound = Outbox::Messages(Messages::default());
    let shared = Arc::new(Shared::new(capabilities, extensions, options, outbound));
    if let Some(config) = &options.config {
        opening.configure(config, &shared, &mut inbound).await?;
        shared.note_heard();
    }
    let following = follow.send(Outflow(Arc::clone(&shared)));
    following.map_err(|_| unreachable("the connection was lost"))?;
    let driver = GrpcDriver::new(Arc::clone(&shared), inbound, client);
    Ok((Connection::new(shared), driver))
}

struct Opening<'a> {
    first: mpsc::UnboundedSender<ProxyToAgent>,
    options: &'a ConnectOptions,
}

impl Opening<'_> {
    // When the stream is gone already, reading from it says so.
    fn send(&mut self, message: FromProxy) {
        let message = ProxyToAgent {
            message: Some(message),
            ..ProxyToAgent::default()
        };
        drop(self.first.unbounded_send(message));
    }

    // Sends the configuration and waits until it is accepted. A published
    // agent does not answer it: it ends the stream when it refuses, and handles
    // what comes behind it otherwise.
    async fn configure(
        &mut self,
        config: &Value,
        shared: &Shared,
        inbound: &mut Streaming<Bytes>,
    ) -> Result<(), ConnectError> {
        let correlation_id = configure::correlation_id(&self.options.agent_name);
        let answers = shared.answers_configure;
        let number = answers.then_some(handshake::CONFIGURE_EVENT_ID);
        let configuration = NewConfiguration {
            config,
            version: None,
            correlation_id: &correlation_id,
            is_initial: true,
        };
        let message = outbox::configuration(configuration, number);
        drop(self.first.unbounded_send(message));
        if !answers {
            self.send(FromProxy::Ping(Ping {
                sequence: CONFIGURED,
                timestamp_ms: now_ms(),
            }));
        }
        loop {
            let message = match inbound.message().await {
                Ok(Some(bytes)) => read(bytes)?,
                Ok(None) if !answers => return Err(not_taken(end(None))),
                Ok(None) => return Err(unreachable(&end(None))),
                Err(status) if !answers => return Err(not_taken(end(Some(&status)))),
                Err(status) => return Err(unreachable(&describe(&status))),
            };
            match message {
                Some(FromAgent::Response(response)) if answers => {
                    let decoded = protobuf::decode_answer(*response, shared.extensions);
                    let (id, answer) = decoded.map_err(|BadMessage { error, .. }| error)?;
                    if id != EventId::Number(handshake::CONFIGURE_EVENT_ID) {
                        let id = shown(&format!("{id:?}"));
                        return Err(ProtocolError::UnknownEvent { id }.into());
                    }
                    return taken(configure::outcome(answer.map_err(CallError::from)));
                }
                Some(FromAgent::Pong(pong)) if !answers && pong.sequence == CONFIGURED => {
                    return Ok(());
                }
                Some(message) => on_message(shared, message)?,
                None => {}
            }
        }
    }
}

fn taken(outcome: Result<(), ConfigureError>) -> Result<(), ConnectError> {
    outcome.map_err(|error| match error {
        ConfigureError::Refused { reason } => not_taken(reason),
        // It cannot take it now, which is no more use.
        ConfigureError::Call(error) => not_taken(error.to_string()),
    })
}

fn not_taken(reason: String) -> ConnectError {
    let reason = configure::shortened(reason);
    ConnectError::ConfigurationRefused { reason }
}

async fn receive(inbound: &mut Streaming<Bytes>) -> Result<Bytes, ConnectError> {
    match inbound.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(unreachable(&end(None))),
        Err(status) => Err(refused(&status)),
    }
}

// Some statuses say that trying again is of no use before something changed.
fn refused(status: &Status) -> ConnectError {
    let reason = configure::shortened(describe(status));
    match status.code() {
        Code::Unimplemented => ConnectError::Refused {
            reason: format!("{reason} (does it have the service in another `package`?)"),
        },
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => {
            ConnectError::Refused { reason }
        }
        _ => unreachable(&reason),
    }
}

fn unreachable(reason: &str) -> ConnectError {
    ConnectError::Unreachable(io::Error::other(reason.to_owned()))
}

fn unusable(error: impl std::error::Error + 'static) -> ConnectError {
    unreachable(&channel::reasons(&error))
}
