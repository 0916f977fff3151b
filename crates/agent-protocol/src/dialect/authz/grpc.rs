//! Envoy's external authorization over gRPC, `envoy.service.auth.v3`, of which we are the client.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::answered;
use super::check;
use super::deferred::Deferred;
use super::messages::{CheckRequest, CheckResponse, Metadata};
use crate::dialect::channel::{self, GrpcEndpoint, reasons};
use crate::dialect::exchanges::{Dialect, Exchange};
use crate::error::shown;
use crate::{CallError, Capabilities, ConnectError, ConnectOptions, Decision, Event};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Any answer to it is a sign of life.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// How a service is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthzGrpcOptions {
    /// Told with every question.
    pub context: BTreeMap<String, String>,
    /// The service is shown the bodies of requests.
    pub with_body: bool,
    /// A body is always sent as bytes, also when it is a text.
    pub body_as_bytes: bool,
}

/// A connection to a service of this dialect.
#[derive(Debug)]
pub(crate) struct ExtAuthzGrpc {
    channel: Channel,
    options: ExtAuthzGrpcOptions,
    deferred: Deferred<CheckRequest>,
}

impl ExtAuthzGrpc {
    /// # Errors
    /// Nobody answers there within the time that a handshake may take.
    pub(crate) async fn connect(
        endpoint: &GrpcEndpoint,
        options: &ExtAuthzGrpcOptions,
        connect: &ConnectOptions,
    ) -> Result<(Self, Capabilities), ConnectError> {
        let limit = connect.handshake_timeout;
        let connecting = async {
            let channel = channel::connect(endpoint, limit).await?;
            // That somebody listens does not mean that it speaks gRPC.
            let alive = sign_of_life(channel.clone()).await;
            alive.map_err(|error| ConnectError::Unreachable(std::io::Error::other(error)))?;
            Ok::<_, ConnectError>(channel)
        };
        let channel = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| ConnectError::Timeout)??;
        let dialect = Self {
            channel,
            options: options.clone(),
            deferred: Deferred::new(),
        };
        let capabilities = super::capabilities("ext-authz", options.with_body);
        Ok((dialect, capabilities))
    }

    fn check(&self, question: CheckRequest, left: Option<Duration>) -> Exchange<Decision> {
        let channel = self.channel.clone();
        Box::pin(async move {
            let started = Instant::now();
            let mut request = Request::new(question);
            if let Some(left) = left {
                request.set_timeout(left);
            }
            match call::<_, CheckResponse>(channel, request, CHECK).await {
                Ok(answer) => answered::decision(answer),
                Err(_) if left.is_some_and(|left| started.elapsed() >= left) => {
                    // Whoever waits ends the wait at this moment, and knows better whose time is up.
                    std::future::pending().await
                }
                Err(status) => meaning(&status),
            }
        })
    }
}

async fn call<Q, A>(channel: Channel, request: Request<Q>, path: &'static str) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = channel::client(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client.unary(request, path, codec).await?;
    Ok(answer.into_inner())
}

/// What it means that a call ended with a status. What the service says has no cause; what the connection says has.
fn meaning(status: &Status) -> Result<Decision, CallError> {
    if let Some(cause) = status.source() {
        return Err(match is_of_stream(cause) {
            true => CallError::Lost,
            false => CallError::Closed,
        });
    }
    let said = || {
        let message = status.message();
        let text = format!("gRPC status {}: {message}", status.code() as i32);
        shown(&text)
    };
    match status.code() {
        Code::PermissionDenied => Ok(answered::refused(403, status.message())),
        Code::Unauthenticated => Ok(answered::refused(401, status.message())),
        Code::Unavailable | Code::Cancelled => Err(CallError::Unavailable(said())),
        _ => Err(CallError::Agent(said())),
    }
}

/// Whether an error ends this call alone, and not the connection.
fn is_of_stream(cause: &(dyn Error + 'static)) -> bool {
    let mut next = Some(cause);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset();
        }
        next = error.source();
    }
    false
}

async fn sign_of_life(channel: Channel) -> Result<(), CallError> {
    match call::<_, Metadata>(channel, Request::new(Metadata {}), HEALTH).await {
        Ok(_) => Ok(()),
        Err(status) => match status.source() {
            Some(cause) if !is_of_stream(cause) => {
                tracing::debug!(why = reasons(cause), "no sign of life");
                Err(CallError::Closed)
            }
            _ => Ok(()),
        },
    }
}

impl Dialect for ExtAuthzGrpc {
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision> {
        let ready = |decision| Box::pin(std::future::ready(decision));
        match event {
            Event::RequestHeaders(head) => {
                let question = check::request(head, &self.options.context);
                match self.deferred.keep(head.metadata.correlation_id, question) {
                    Some(question) => self.check(question, head.budget_left),
                    None => ready(Ok(Decision::allow().provisional())),
                }
            }
            Event::RequestBodyChunk(piece) => match self.deferred.add(piece) {
                Ok(Some((mut question, shown))) => {
                    check::add_body(&mut question, shown, self.options.body_as_bytes);
                    self.check(question, piece.budget_left)
                }
                Ok(None) => ready(Ok(Decision::allow().provisional())),
                Err(error) => ready(Err(error)),
            },
            _ => ready(Err(CallError::Agent(
                "it is asked about requests alone".to_owned(),
            ))),
        }
    }

    fn ping(&self) -> Exchange<()> {
        Box::pin(sign_of_life(self.channel.clone()))
    }

    fn binds_requests(&self) -> bool {
        self.options.with_body
    }

    fn body_follows(&self, correlation_id: &str) {
        if self.options.with_body {
            self.deferred.announce(correlation_id);
        }
    }

    fn forget(&self, correlation_id: &str) {
        self.deferred.forget(correlation_id);
    }
}

#[cfg(test)]
pub(super) fn meant(status: &Status) -> Result<Decision, CallError> {
    meaning(status)
}
