//! A service of gRPC on tonic, with all kinds of calls, that says back what it is told.

use bytes::{Buf, BufMut, Bytes};
use futures::{StreamExt, stream};
use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
    thread,
};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, BoxStream, Service},
    metadata::{KeyAndValueRef, MetadataMap, MetadataValue},
    server,
    transport::{Server, server::TcpIncoming},
};

/// Messages that are plain text: no proxy looks into them, and nothing has to be generated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let text = String::from_utf8(bytes.into());
        text.map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// At this word the service refuses to go on.
pub(crate) const NO: &str = "no";

/// All metadata of client and service begins like this.
pub(crate) const PREFIX: &str = "parrot-";

pub(crate) const BLOB: &[u8] = &[0, 0xff, b',', 7];

/// A service that says back what it is told, word by word where it can, and the metadata with it.
#[derive(Debug, Clone)]
pub(crate) struct Parrot;

impl Parrot {
    /// Serves until the tests are over.
    pub(crate) fn start() -> SocketAddr {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let serving = Server::builder().serve_with_incoming(Self, incoming);
            runtime.block_on(serving).unwrap();
        });
        address
    }

    fn unary(request: Request<String>) -> BoxFuture<Response<String>, Status> {
        Box::pin(async move {
            if request.get_ref() == NO {
                return Err(refusal());
            }
            Ok(answer(&request.metadata().clone(), request.into_inner()))
        })
    }

    fn server_streaming(
        request: Request<String>,
    ) -> BoxFuture<Response<BoxStream<String>>, Status> {
        Box::pin(async move {
            let metadata = request.metadata().clone();
            let words: Vec<String> = request.get_ref().split(' ').map(str::to_owned).collect();
            let end = counted(words.len());
            let words = stream::iter(words).map(|word| match word.as_str() {
                NO => Err(refusal()),
                _ => Ok(word),
            });
            let answers: BoxStream<String> =
                Box::pin(words.chain(stream::once(async { Err(end) })));
            Ok(answer(&metadata, answers))
        })
    }

    fn client_streaming(
        request: Request<Streaming<String>>,
    ) -> BoxFuture<Response<String>, Status> {
        Box::pin(async move {
            let metadata = request.metadata().clone();
            let mut words = request.into_inner();
            let mut all = Vec::new();
            while let Some(word) = words.message().await? {
                if word == NO {
                    return Err(refusal());
                }
                all.push(word);
            }
            Ok(answer(&metadata, all.join(" ")))
        })
    }

    fn bidirectional(
        request: Request<Streaming<String>>,
    ) -> BoxFuture<Response<BoxStream<String>>, Status> {
        Box::pin(async move {
            let metadata = request.metadata().clone();
            let state = Some((request.into_inner(), 0));
            let answers: BoxStream<String> = Box::pin(stream::unfold(state, |state| async {
                let (mut words, count) = state?;
                Some(match words.message().await {
                    Ok(Some(word)) if word == NO => (Err(refusal()), None),
                    Ok(Some(word)) => (Ok(word), Some((words, count + 1))),
                    Ok(None) => (Err(counted(count)), None),
                    Err(status) => (Err(status), None),
                })
            }));
            Ok(answer(&metadata, answers))
        })
    }
}

/// With the metadata of the request.
fn answer<T>(asked: &MetadataMap, message: T) -> Response<T> {
    let mut response = Response::new(message);
    let metadata = response.metadata_mut();
    for one in asked.iter() {
        match one {
            KeyAndValueRef::Ascii(name, value) if name.as_str().starts_with(PREFIX) => {
                metadata.insert(name, value.clone());
            }
            KeyAndValueRef::Binary(name, value) if name.as_str().starts_with(PREFIX) => {
                metadata.insert_bin(name, value.clone());
            }
            KeyAndValueRef::Ascii(..) | KeyAndValueRef::Binary(..) => {}
        }
    }
    response
}

/// The end of a call that went well, with metadata in its trailers.
fn counted(count: usize) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("parrot-count", count.into());
    Status::with_metadata(Code::Ok, "", metadata)
}

/// Everything that a status can have.
pub(crate) fn refusal() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("parrot-why", MetadataValue::from_static("tired"));
    metadata.insert_bin("parrot-why-bin", MetadataValue::from_bytes(BLOB));
    let details = Bytes::from_static(b"\x08\x09\x12\x04none");
    let message = "not now: 100 % ünder way\n";
    Status::with_details_and_metadata(Code::FailedPrecondition, message, details, metadata)
}

impl Service<http::Request<Body>> for Parrot {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = server::Grpc::new(Text);
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                "/test.Parrot/Unary" => grpc.unary(Method(Self::unary), request).await,
                "/test.Parrot/ServerStreaming" => {
                    let method = Method(Self::server_streaming);
                    grpc.server_streaming(method, request).await
                }
                "/test.Parrot/ClientStreaming" => {
                    let method = Method(Self::client_streaming);
                    grpc.client_streaming(method, request).await
                }
                "/test.Parrot/Bidirectional" => {
                    grpc.streaming(Method(Self::bidirectional), request).await
                }
                _ => Status::unimplemented(path).into_http(),
            })
        })
    }
}

/// A function in the form in which tonic takes methods.
struct Method<F>(F);

impl<F, M, R> Service<Request<M>> for Method<F>
where
    F: FnMut(Request<M>) -> BoxFuture<Response<R>, Status>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = BoxFuture<Response<R>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Self::Future {
        (self.0)(request)
    }
}
