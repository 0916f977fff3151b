//! An agent as Envoy knows them: one that authorizes requests, or one that processes them. Both say yes and change nothing.

use crate::error::BenchError;
use futures::{Stream, StreamExt};
use prost::{Message, Oneof};
use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, StreamingService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// Of `envoy.service.auth.v3.Authorization`.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Of `envoy.service.ext_proc.v3.ExternalProcessor`.
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Where to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves both until it is killed.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let runtime = super::current_thread_runtime()?;
    runtime.block_on(async {
        Server::builder()
            .serve(options.listen, Agent)
            .await
            .map_err(|error| BenchError::Usage(format!("serve {}: {error}", options.listen)))
    })
}

/// What is not looked at.
#[derive(Clone, PartialEq, Message)]
struct Ignored {}

/// `CheckResponse` whose status is OK.
#[derive(Clone, PartialEq, Message)]
struct Checked {
    #[prost(message, tag = "1")]
    status: Option<Ignored>,
    #[prost(message, tag = "3")]
    ok: Option<Ignored>,
}

/// `ProcessingRequest`: which of its messages it is.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6, 7")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "2")]
    RequestHeaders(Ignored),
    #[prost(message, tag = "3")]
    ResponseHeaders(Ignored),
    #[prost(message, tag = "4")]
    RequestBody(Ignored),
    #[prost(message, tag = "5")]
    ResponseBody(Ignored),
    #[prost(message, tag = "6")]
    RequestTrailers(Ignored),
    #[prost(message, tag = "7")]
    ResponseTrailers(Ignored),
}

/// `ProcessingResponse` that goes on; its numbers are one less.
#[derive(Clone, PartialEq, Message)]
struct Answered {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<Answer>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Answer {
    #[prost(message, tag = "1")]
    RequestHeaders(Ignored),
    #[prost(message, tag = "2")]
    ResponseHeaders(Ignored),
    #[prost(message, tag = "3")]
    RequestBody(Ignored),
    #[prost(message, tag = "4")]
    ResponseBody(Ignored),
    #[prost(message, tag = "5")]
    RequestTrailers(Ignored),
    #[prost(message, tag = "6")]
    ResponseTrailers(Ignored),
}

impl Answered {
    fn to(asked: &Asked) -> Self {
        let nothing = Ignored {};
        Self {
            kind: asked.kind.as_ref().map(|kind| match kind {
                Kind::RequestHeaders(_) => Answer::RequestHeaders(nothing),
                Kind::ResponseHeaders(_) => Answer::ResponseHeaders(nothing),
                Kind::RequestBody(_) => Answer::RequestBody(nothing),
                Kind::ResponseBody(_) => Answer::ResponseBody(nothing),
                Kind::RequestTrailers(_) => Answer::RequestTrailers(nothing),
                Kind::ResponseTrailers(_) => Answer::ResponseTrailers(nothing),
            }),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Agent;

type Answers = Pin<Box<dyn Stream<Item = Result<Answered, Status>> + Send>>;

impl UnaryService<Ignored> for Agent {
    type Response = Checked;
    type Future = Ready<Result<Response<Checked>, Status>>;

    fn call(&mut self, _request: Request<Ignored>) -> Self::Future {
        ready(Ok(Response::new(Checked {
            status: Some(Ignored {}),
            ok: Some(Ignored {}),
        })))
    }
}

impl StreamingService<Asked> for Agent {
    type Response = Answered;
    type ResponseStream = Answers;
    type Future = Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Asked>>) -> Self::Future {
        let answers = request
            .into_inner()
            .map(|asked| asked.map(|asked| Answered::to(&asked)));
        ready(Ok(Response::new(Box::pin(answers))))
    }
}

impl Service<http::Request<Body>> for Agent {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                CHECK => {
                    let mut grpc = Grpc::new(ProstCodec::<Checked, Ignored>::default());
                    grpc.unary(Self, request).await
                }
                PROCESS => {
                    let mut grpc = Grpc::new(ProstCodec::<Answered, Asked>::default());
                    grpc.streaming(Self, request).await
                }
                path => Status::unimplemented(path.to_owned()).into_http(),
            })
        })
    }
}
