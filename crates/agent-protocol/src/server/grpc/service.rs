//! The methods of the service.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming, codegen};

use super::wire::MessageWire;
use crate::Extensions;
use crate::codec::protobuf::messages::{AgentToProxy, FromAgent, ProxyToAgent};
use crate::codec::protobuf::{self, EXTENSIONS};
use crate::dialect::channel::MAX_MESSAGE_BYTES;
use crate::grpc::{MessageCodec, PROCESS_STREAM, SERVICE};
use crate::server::report::Stop;
use crate::server::session::Session;
use crate::server::wire::Payload;
use crate::server::{Agent, ServeOptions, events};

type Reply = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

/// What all streams have in common.
pub(super) struct Service<A: ?Sized>(Arc<Common<A>>);

struct Common<A: ?Sized> {
    options: Arc<ServeOptions>,
    stopping: watch::Receiver<Stop>,
    places: Arc<Semaphore>,
    agent: Arc<A>,
}

impl<A: ?Sized> Clone for Service<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Agent + ?Sized> Service<A> {
    pub(super) fn new(
        agent: Arc<A>,
        options: Arc<ServeOptions>,
        stopping: watch::Receiver<Stop>,
    ) -> Self {
        let places = options.max_connections.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Common {
            agent,
            options,
            stopping,
            places: Arc::new(Semaphore::new(places)),
        }))
    }
}

impl<A: Agent + ?Sized> codegen::Service<http::Request<Body>> for Service<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Reply;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Reply {
        let common = Arc::clone(&self.0);
        match method(request.uri().path()) {
            Some(PROCESS_STREAM) => Box::pin(async move {
                let mut grpc = grpc::<AgentToProxy>();
                Ok(grpc.streaming(ProcessStream(common), request).await)
            }),
            Some("ProcessEvent") => Box::pin(async move {
                let mut grpc = grpc::<AgentToProxy>();
                Ok(grpc.unary(ProcessEvent(common), request).await)
            }),
            // Nothing is said there that is not said on the other stream.
            Some("ControlStream") => Box::pin(async move {
                let mut grpc = grpc::<AgentToProxy>();
                Ok(grpc.streaming(ControlStream, request).await)
            }),
            _ => {
                Box::pin(async { Ok(Status::unimplemented("there is no such method").into_http()) })
            }
        }
    }
}

// The method, of the service in any package.
fn method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, service) = service.rsplit_once('.')?;
    (service == SERVICE).then_some(method)
}

fn grpc<T: Message + Default + 'static>() -> Grpc<MessageCodec<T>> {
    Grpc::new(MessageCodec::default())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

struct ProcessStream<A: ?Sized>(Arc<Common<A>>);

impl<A: Agent + ?Sized> StreamingService<Bytes> for ProcessStream<A> {
    type Response = AgentToProxy;
    type ResponseStream = BoxStream<'static, Result<AgentToProxy, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let common = &self.0;
        let Ok(place) = Arc::clone(&common.places).try_acquire_owned() else {
            tracing::warn!(limit = common.options.max_connections, "too many streams");
            let full = Status::resource_exhausted("there are too many streams");
            return Box::pin(async { Err(full) });
        };
        let (wire, outflow) = MessageWire::new(request.into_inner());
        let session = Session::new(
            Arc::clone(&common.agent),
            wire,
            Arc::clone(&common.options),
            common.stopping.clone(),
        );
        tokio::spawn(session.run().map(|()| drop(place)));
        Box::pin(async { Ok(Response::new(outflow.boxed())) })
    }
}

struct ProcessEvent<A: ?Sized>(Arc<Common<A>>);

impl<A: Agent + ?Sized> UnaryService<Bytes> for ProcessEvent<A> {
    type Response = AgentToProxy;
    type Future = BoxFuture<'static, Result<Response<AgentToProxy>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let agent = Arc::clone(&self.0.agent);
        let allowed = self.0.options.extensions;
        Box::pin(async move {
            let bytes = request.into_inner();
            let size = bytes.len();
            let message = ProxyToAgent::decode(bytes);
            let message = message.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let kind = protobuf::kind(&message);
            let kind = kind.ok_or_else(|| Status::invalid_argument("it is not an event"))?;
            // There was no handshake: who numbers an event knows the rest.
            let extensions = match message.event_id {
                Some(_) => EXTENSIONS.and(allowed),
                None => Extensions::NONE,
            };
            let payload = Payload::Message(Arc::new(message), size);
            let done = match agent.capabilities().supports(kind) {
                true => events::event(agent, kind, payload, extensions).await,
                false => events::unsupported(kind, &payload, extensions),
            };
            let done = done.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let response = protobuf::encode_answer(&done.id, &done.answer, extensions);
            Ok(Response::new(AgentToProxy {
                message: Some(FromAgent::Response(Box::new(response))),
            }))
        })
    }
}

/// Reads what comes, and says nothing.
struct ControlStream;

impl StreamingService<Bytes> for ControlStream {
    type Response = AgentToProxy;
    type ResponseStream = BoxStream<'static, Result<AgentToProxy, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let read = request.into_inner();
        let silent = read.filter_map(async |message| message.err().map(Err));
        Box::pin(async { Ok(Response::new(silent.boxed())) })
    }
}
