//! HTTP/2 in the hands of a test, as gRPC needs it: a call that goes on for as long as the test likes, and an origin that serves
//! such calls.

use super::DEADLINE;
use bytes::Bytes;
use futures::future::BoxFuture;
use h2::{
    RecvStream, SendStream,
    client::{self, ResponseFuture},
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response, request::Parts};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::timeout,
};

/// A call under way, on a connection of its own. It is given up when it is dropped.
pub(crate) struct Call {
    runtime: Runtime,
    sender: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Call {
    /// Sends the head of a request.
    pub(crate) fn begin(address: SocketAddr, request: Request<Bytes>) -> Self {
        // The connection is driven by a thread of its own, whatever the test does meanwhile.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (response, sender) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (client, connection) = client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut client = client.ready().await.unwrap();
            let (head, body) = request.into_parts();
            assert!(body.is_empty(), "the body is sent piece by piece");
            client
                .send_request(Request::from_parts(head, ()), false)
                .unwrap()
        });
        Self {
            runtime,
            sender,
            response: Some(response),
            body: None,
        }
    }

    /// A call of gRPC.
    pub(crate) fn to(address: SocketAddr, path: &str) -> Self {
        Self::begin(address, call(path))
    }

    /// Sends a piece of the body, as far as the other side takes it. Returns whether it took all.
    pub(crate) fn send(&mut self, data: impl Into<Bytes>) -> bool {
        let (sender, data) = (&mut self.sender, data.into());
        let sent = async { timeout(DEADLINE, send(sender, data)).await };
        self.runtime.block_on(sent).expect("room").is_ok()
    }

    /// Ends the body.
    pub(crate) fn finish(&mut self) -> &mut Self {
        // The other side may not want it any longer.
        let _ = self.sender.send_data(Bytes::new(), true);
        self
    }

    /// The head of the answer.
    pub(crate) fn head(&mut self) -> Result<Response<()>, h2::Error> {
        let response = self.response.take().unwrap();
        let (head, body) = within(&self.runtime, response)?.into_parts();
        self.body = Some(body);
        Ok(Response::from_parts(head, ()))
    }

    /// The next piece of the answer's body.
    pub(crate) fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let body = self.body.as_mut().unwrap();
        let piece = within(&self.runtime, body.data())?;
        Some(piece.inspect(|piece| {
            let _ = body.flow_control().release_capacity(piece.len());
        }))
    }

    /// All that is left of the body.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>, h2::Error> {
        let mut rest = Vec::new();
        while let Some(piece) = self.data() {
            rest.extend_from_slice(&piece?);
        }
        Ok(rest)
    }

    /// What follows the body.
    pub(crate) fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        let body = self.body.as_mut().unwrap();
        within(&self.runtime, body.trailers())
    }

    /// Gives the call up; the connection stays.
    pub(crate) fn reset(&mut self) {
        self.sender.send_reset(h2::Reason::CANCEL);
    }
}

/// The head of a call of gRPC.
pub(crate) fn call(path: &str) -> Request<Bytes> {
    let mut request = super::http2::request("POST", path, Bytes::new());
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// A message in the frame of gRPC.
pub(crate) fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

/// Headers, for use as trailers.
pub(crate) fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        })
        .collect()
}

fn within<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    let bounded = async { timeout(DEADLINE, future).await };
    runtime.block_on(bounded).expect("within the deadline")
}

async fn send(sender: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        sender.reserve_capacity(data.len());
        let granted = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
        let Some(granted) = granted else {
            return Err(h2::Reason::CANCEL.into());
        };
        sender.send_data(data.split_to(granted?.min(data.len())), false)?;
    }
    Ok(())
}

/// An origin of HTTP/2 with prior knowledge. It serves until the tests are over.
pub(crate) struct CallServer {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

/// A call as its server has it.
pub(crate) struct Served {
    pub(crate) head: Parts,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
}

impl CallServer {
    /// Serves every call like this.
    pub(crate) fn serving(
        serve: impl Fn(Served) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let (serve, counted) = (Arc::new(serve), calls.clone());
        thread::spawn(move || {
            runtime.block_on(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (serve, counted) = (serve.clone(), counted.clone());
                    tokio::spawn(async move {
                        let Ok(mut connection) = server::handshake(stream).await else {
                            return;
                        };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            counted.fetch_add(1, SeqCst);
                            let (head, body) = request.into_parts();
                            tokio::spawn(serve(Served {
                                head,
                                body,
                                respond,
                                stream: None,
                            }));
                        }
                    });
                }
            });
        });
        Self { address, calls }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many calls have come.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

impl Served {
    /// The next piece of the request's body; `None` at its end, an error when it breaks off.
    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let piece = self.body.data().await?;
        Some(piece.inspect(|piece| {
            let _ = self.body.flow_control().release_capacity(piece.len());
        }))
    }

    /// Sends a head that other parts follow.
    pub(crate) fn answer(&mut self, headers: &[(&'static str, &str)]) {
        let mut head = Response::new(());
        *head.headers_mut() = fields(headers);
        self.stream = Some(self.respond.send_response(head, false).unwrap());
    }

    /// Sends a piece of the answer. Returns whether the other side has taken it.
    pub(crate) async fn send(&mut self, data: impl Into<Bytes>) -> bool {
        let data = data.into();
        match &mut self.stream {
            Some(stream) => send(stream, data).await.is_ok(),
            None => false,
        }
    }

    /// Ends the answer.
    pub(crate) fn end(&mut self) {
        let stream = self.stream.as_mut().unwrap();
        stream.send_data(Bytes::new(), true).unwrap();
    }

    /// Ends the answer with trailers.
    pub(crate) fn end_with(&mut self, trailers: &[(&'static str, &str)]) {
        let stream = self.stream.as_mut().unwrap();
        stream.send_trailers(fields(trailers)).unwrap();
    }

    /// Breaks the call off.
    pub(crate) fn reset(&mut self) {
        self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
    }

    /// Waits until the other side gives the call up.
    pub(crate) async fn given_up(&mut self) {
        // Either way it is over.
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}
