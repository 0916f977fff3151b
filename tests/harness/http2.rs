//! A client of HTTP/2 with prior knowledge.

use super::{DEADLINE, tls::Connector};
use bytes::Bytes;
use http::{Request, Response};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// Sends requests at the same time on one connection. The answers are in the order of the requests.
pub(crate) fn exchange(
    address: SocketAddr,
    requests: Vec<Request<Bytes>>,
) -> Vec<Result<Response<Bytes>, h2::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let all = runtime.block_on(async { timeout(DEADLINE, exchange_all(address, requests)).await });
    all.expect("answers within the deadline")
}

/// The same over TLS, where both settle on HTTP/2.
pub(crate) fn exchange_over_tls(
    address: SocketAddr,
    connector: &Connector,
    requests: Vec<Request<Bytes>>,
) -> Vec<Result<Response<Bytes>, h2::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = connector.offering(&["h2"]).config;
    let all = runtime.block_on(async {
        timeout(DEADLINE, async {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("test").unwrap();
            let connector = tokio_rustls::TlsConnector::from(config);
            let stream = connector.connect(name, socket).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            exchange_on(stream, requests).await
        })
        .await
    });
    all.expect("answers within the deadline")
}

/// An extension of responses: what came behind the body.
#[derive(Debug, Clone)]
pub(crate) struct Trailers(pub(crate) http::HeaderMap);

/// Whether an answer ended with its head. It is among the extensions of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadersAlone(pub(crate) bool);

/// Sends a request and takes it back when this has returned. The connection stays until then.
pub(crate) fn abandon(address: SocketAddr, request: Request<Bytes>, sent: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (client, driver) = runtime.block_on(async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        (client, tokio::spawn(connection))
    });
    let (head, _) = request.into_parts();
    let mut sender = runtime.block_on(async {
        let mut client = client.ready().await.unwrap();
        let (_response, sender) = client
            .send_request(Request::from_parts(head, ()), true)
            .unwrap();
        sender
    });
    sent();
    sender.send_reset(h2::Reason::CANCEL);
    // The connection has to live until the reset is on the wire, and ends by itself when nobody uses it.
    drop(sender);
    let _ = runtime.block_on(async { timeout(DEADLINE, driver).await });
}

/// A request without a body.
pub(crate) fn get(path: &str) -> Request<Bytes> {
    request("GET", path, Bytes::new())
}

/// A request for the host `test`.
pub(crate) fn request(method: &str, path: &str, body: Bytes) -> Request<Bytes> {
    let uri = http::Uri::builder()
        .scheme("http")
        .authority("test")
        .path_and_query(path)
        .build()
        .unwrap();
    let builder = Request::builder().method(method).uri(uri);
    builder.version(http::Version::HTTP_2).body(body).unwrap()
}

async fn exchange_all(
    address: SocketAddr,
    requests: Vec<Request<Bytes>>,
) -> Vec<Result<Response<Bytes>, h2::Error>> {
    let stream = TcpStream::connect(address).await.unwrap();
    exchange_on(stream, requests).await
}

async fn exchange_on(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    requests: Vec<Request<Bytes>>,
) -> Vec<Result<Response<Bytes>, h2::Error>> {
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let exchanges = requests
        .into_iter()
        .map(|request| exchange_one(client.clone(), request));
    let answers = futures_in_order(exchanges).await;
    driver.abort();
    answers
}

/// Runs futures at the same time and gathers what they yield.
async fn futures_in_order<T: Send + 'static>(
    futures: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

async fn exchange_one(
    client: h2::client::SendRequest<Bytes>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, h2::Error> {
    let mut client = client.ready().await?;
    let (head, body) = request.into_parts();
    let ends = body.is_empty();
    let (response, mut sender) = client.send_request(Request::from_parts(head, ()), ends)?;
    if !ends {
        // The answer may come before the body was taken; then it is the answer that counts.
        let _ = send(&mut sender, body, true).await;
    }
    let (mut head, mut stream) = response.await?.into_parts();
    head.extensions.insert(HeadersAlone(stream.is_end_stream()));
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    if let Some(fields) = stream.trailers().await? {
        head.extensions.insert(Trailers(fields));
    }
    Ok(Response::from_parts(head, body.into()))
}

/// Sends a body, as fast as the peer permits it, and its end if nothing follows.
pub(super) async fn send(
    sender: &mut h2::SendStream<Bytes>,
    mut body: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    if body.is_empty() && ends {
        return sender.send_data(body, true);
    }
    while !body.is_empty() {
        sender.reserve_capacity(body.len());
        let granted = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
        let Some(granted) = granted else { break };
        let chunk = body.split_to(granted?.min(body.len()));
        sender.send_data(chunk, ends && body.is_empty())?;
    }
    Ok(())
}

/// A connection that is kept, for one request after the other.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    client: h2::client::SendRequest<Bytes>,
}

impl Client {
    /// # Errors
    /// Nobody listens, or whoever does hangs up at once.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(async {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| error.to_string())?;
            // What it permits is small, and the other side waits for it.
            stream.set_nodelay(true).unwrap();
            let shaken = h2::client::handshake(stream).await;
            let (client, connection) = shaken.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            Ok::<_, String>(client)
        })?;
        Ok(Self { runtime, client })
    }

    /// # Errors
    /// There is no complete answer.
    pub(crate) fn get(&self, path: &str) -> Result<Response<Bytes>, h2::Error> {
        self.ask(get(path))
    }

    /// The same for any request.
    ///
    /// # Errors
    /// There is no complete answer.
    pub(crate) fn ask(&self, request: Request<Bytes>) -> Result<Response<Bytes>, h2::Error> {
        let asked = exchange_one(self.client.clone(), request);
        let answered = async { timeout(DEADLINE, asked).await };
        self.runtime
            .block_on(answered)
            .expect("an answer or an end within the deadline")
    }
}

/// Sends a request whose body does not end, and waits for the status of the answer to it.
pub(crate) fn stalled(address: SocketAddr, request: Request<Bytes>) -> u16 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = request.into_parts();
        let mut client = client.ready().await.unwrap();
        let (response, mut sender) = client
            .send_request(Request::from_parts(head, ()), false)
            .unwrap();
        sender.send_data(body, false).unwrap();
        let response = timeout(DEADLINE, response).await.unwrap();
        response.unwrap().status().as_u16()
    })
}
