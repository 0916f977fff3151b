//! HTTP/2, with prior knowledge or over TLS: several streams at once on each connection, every one of which checks its answers.

use super::{
    Options,
    client::{Expected, Failure},
    tls,
};
use crate::error::BenchError;
use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderName, HeaderValue, Request, Uri, Version, header::CONTENT_LENGTH};
use std::{cell::RefCell, future::poll_fn, net::SocketAddr, rc::Rc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
};
use tokio_rustls::TlsConnector;

/// How many requests are under way at once on a connection. With the 32 connections of the driver they need no more
/// connections to the origin than Pingora keeps (128), so that none has to be made anew.
pub(super) const STREAMS: usize = 4;

/// The way to send requests on a connection; empty until somebody has opened it.
type Opened = OnceCell<SendRequest<Bytes>>;

/// A connection that is opened when it is needed, and shared by its streams.
pub(super) struct Link {
    target: SocketAddr,
    tls: Option<TlsConnector>,
    opened: RefCell<Rc<Opened>>,
}

impl Link {
    pub(super) fn new(target: SocketAddr, tls: Option<TlsConnector>) -> Rc<Self> {
        Rc::new(Self {
            target,
            tls,
            opened: RefCell::default(),
        })
    }

    /// Waits until the connection can take one more request. One that the server has closed politely is replaced.
    async fn ready(&self) -> Result<SendRequest<Bytes>, Failure> {
        loop {
            let opened = Rc::clone(&self.opened.borrow());
            let opening = || open(self.target, self.tls.as_ref());
            let sender = opened.get_or_try_init(opening).await?.clone();
            match sender.ready().await {
                Ok(sender) => return Ok(sender),
                Err(error) => {
                    self.forget(&opened);
                    if !(error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)) {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// The next request opens a new connection, unless another stream has seen to that.
    fn forget(&self, opened: &Rc<Opened>) {
        let mut current = self.opened.borrow_mut();
        if Rc::ptr_eq(&current, opened) {
            *current = Rc::default();
        }
    }
}

async fn open(
    target: SocketAddr,
    tls: Option<&TlsConnector>,
) -> Result<SendRequest<Bytes>, Failure> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    match tls {
        None => speak(stream).await,
        Some(tls) => speak(tls.connect(tls::server_name(), stream).await?).await,
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<Bytes>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = h2::client::handshake(stream).await?;
    // What goes wrong with the connection, its streams learn.
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// What every stream sends.
#[derive(Debug, Clone)]
pub(super) struct Message {
    head: Request<()>,
    body: Bytes,
}

impl Message {
    /// # Errors
    /// The options make no request.
    pub(super) fn of(options: &Options) -> Result<Self, BenchError> {
        let wrong = |what: &str| BenchError::Usage(format!("load: {what}"));
        let scheme = match options.ca {
            None => "http",
            Some(_) => "https",
        };
        let uri = format!("{scheme}://{}{}", options.target, options.path);
        let uri: Uri = uri.parse().map_err(|_| wrong("--path is no path"))?;
        let mut head = Request::builder()
            .method(options.method.as_str())
            .uri(uri)
            .version(Version::HTTP_2)
            .body(())
            .map_err(|_| wrong("--method is no method"))?;
        for line in &options.headers {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value.trim());
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(wrong(&format!("`{line}` is no header line")));
            };
            head.headers_mut().append(name, value);
        }
        if options.body_bytes > 0 {
            head.headers_mut()
                .insert(CONTENT_LENGTH, options.body_bytes.into());
        }
        Ok(Self {
            head,
            body: vec![b'x'; options.body_bytes].into(),
        })
    }
}

/// One of the streams of a connection, one request after the other.
pub(super) struct Client {
    link: Rc<Link>,
    message: Message,
    expected: Expected,
}

impl Client {
    pub(super) fn new(link: Rc<Link>, message: Message, expected: Expected) -> Self {
        Self {
            link,
            message,
            expected,
        }
    }

    /// Sends the request and reads the answer, whose status it gives.
    pub(super) async fn exchange(&self) -> Result<u16, Failure> {
        let mut sender = self.link.ready().await?;
        let Message { head, body } = self.message.clone();
        let (response, stream) = sender.send_request(head, body.is_empty())?;
        if !body.is_empty() {
            send(stream, body).await?;
        }
        self.answer(response).await
    }

    async fn answer(&self, response: ResponseFuture) -> Result<u16, Failure> {
        let (head, mut body) = response.await?.into_parts();
        let mut seen = 0;
        while let Some(piece) = body.data().await {
            let piece = piece?;
            seen += piece.len();
            body.flow_control().release_capacity(piece.len())?;
        }
        let status = head.status.as_u16();
        self.expected.check(status, seen)?;
        Ok(status)
    }
}

/// Sends a body as fast as the other side takes it.
async fn send(mut stream: SendStream<Bytes>, mut body: Bytes) -> Result<(), Failure> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let granted = poll_fn(|context| stream.poll_capacity(context)).await;
        let granted = granted.ok_or(Failure::Closed)??;
        let piece = body.split_to(granted.min(body.len()));
        stream.send_data(piece, body.is_empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{LoadReport, measure, tests::options},
        *,
    };
    use crate::roles::current_thread_runtime;
    use http::Response;
    use tokio::{net::TcpListener, task::LocalSet};

    /// What an origin does.
    #[derive(Debug, Clone, Copy)]
    struct Origin {
        status: u16,
        body: &'static str,
        /// Answers when so many requests have come on a connection, and then all of them.
        at_once: usize,
        /// Closes a connection politely after so many requests.
        closes_after: usize,
    }

    const GOOD: Origin = Origin {
        status: 200,
        body: "abc",
        at_once: 1,
        closes_after: usize::MAX,
    };

    impl Origin {
        async fn serve(self, stream: TcpStream) -> Result<(), h2::Error> {
            let mut connection = h2::server::handshake(stream).await?;
            let mut waiting = Vec::new();
            let mut seen = 0;
            while let Some(accepted) = connection.accept().await {
                waiting.push(accepted?);
                seen += 1;
                if waiting.len() == self.at_once {
                    for (request, respond) in waiting.drain(..) {
                        tokio::task::spawn_local(self.answer(request.into_body(), respond));
                    }
                }
                if seen == self.closes_after {
                    connection.graceful_shutdown();
                }
            }
            Ok(())
        }

        async fn answer(
            self,
            mut body: h2::RecvStream,
            mut respond: h2::server::SendResponse<Bytes>,
        ) -> Result<(), h2::Error> {
            while let Some(piece) = body.data().await {
                body.flow_control().release_capacity(piece?.len())?;
            }
            let mut head = Response::new(());
            *head.status_mut() = self.status.try_into().unwrap();
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(self.body.into(), true)
        }
    }

    fn measured(origin: Origin, more: &str) -> Result<LoadReport, BenchError> {
        let runtime = current_thread_runtime().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = listener.local_addr().unwrap();
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(origin.serve(stream));
                }
            });
            let line = format!("load --http2 --target {target} --warmup 0 --expect-bytes 3 {more}");
            measure(&options(&line)).await
        })
    }

    #[test]
    fn right_answers_are_counted() {
        let four = Origin {
            at_once: STREAMS,
            ..GOOD
        };
        let leaving = Origin {
            closes_after: 7,
            ..GOOD
        };
        for (origin, more) in [
            (GOOD, ""),
            (GOOD, " --rate 5000"),
            (GOOD, " --method POST --body-bytes 200000"),
            (four, ""),
            (leaving, ""),
        ] {
            let line = format!("--connections 2 --requests 50{more}");
            let report = measured(origin, &line).unwrap();
            assert_eq!(
                (report.requests, report.errors, report.first_error),
                (50, 0, None),
                "{origin:?}{more}"
            );
            assert_eq!(report.statuses[&200], 50);
            assert!(report.latency.p50_us > 0.0);
        }
    }

    #[test]
    fn wrong_answers_are_errors() {
        let wrong = Origin {
            status: 403,
            ..GOOD
        };
        let short = Origin { body: "ab", ..GOOD };
        for (origin, expected) in [(wrong, "status 403"), (short, "2 bytes")] {
            let error = measured(origin, "--requests 5").unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let report = measured(wrong, "--requests 5 --any-status").unwrap();
        assert_eq!((report.statuses[&403], report.errors), (5, 0));
    }

    #[test]
    fn requests_as_they_are_sent() {
        let line = "load --target 127.0.0.1:80 --path /a?b --header x:y --body-bytes 3";
        let Message { head, body } = Message::of(&options(line)).unwrap();
        assert_eq!(head.uri(), "http://127.0.0.1:80/a?b");
        assert_eq!(head.headers()["x"], "y");
        assert_eq!(head.headers()[CONTENT_LENGTH], "3");
        assert_eq!(body, "xxx");
        for (wrong, expected) in [
            ("--header :y", "`:y` is no header line"),
            ("--path a\\b", "--path"),
            ("--method (", "--method"),
        ] {
            let line = format!("load --target 127.0.0.1:80 {wrong}");
            let error = Message::of(&options(&line)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
