//! An origin of HTTP/2 with prior knowledge that records what it is asked, and answers as it is told.

use super::http2::send;
use bytes::Bytes;
use http::{HeaderMap, Response, request};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// A running origin. It ends when it is dropped, and its connections with it.
pub(crate) struct Http2Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    _running: oneshot::Sender<()>,
}

struct Shared {
    script: Script,
    recorded: Mutex<Vec<Http2Recorded>>,
    connections: AtomicUsize,
}

type Script = Box<dyn Fn(&Http2Recorded) -> Http2Answer + Send + Sync>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Http2Recorded {
    pub(crate) head: request::Parts,
    pub(crate) body: Vec<u8>,
    /// Whether its end came, in contrast to a reset of the stream or an end of the connection.
    pub(crate) complete: bool,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Http2Recorded {
    /// Path and query.
    pub(crate) fn target(&self) -> String {
        self.head.uri.path_and_query().unwrap().to_string()
    }

    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let value = self.head.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }
}

/// What the origin answers to a request, when all of it is there.
#[derive(Debug)]
pub(crate) struct Http2Answer {
    head: Response<()>,
    body: Bytes,
    trailers: Option<HeaderMap>,
    is_cut: bool,
}

impl Http2Answer {
    /// A complete answer, whose length is in its head only if it is among the headers.
    pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let mut head = Response::builder().status(status);
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        Self {
            head: head.body(()).unwrap(),
            body: body.into(),
            trailers: None,
            is_cut: false,
        }
    }

    /// It ends with these fields.
    pub(crate) fn with_trailers(mut self, fields: &[(&'static str, &str)]) -> Self {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        self.trailers = Some(fields.collect());
        self
    }

    /// The stream is reset where the end would be.
    pub(crate) fn cut(mut self) -> Self {
        self.is_cut = true;
        self
    }
}

impl Http2Origin {
    /// Answers as the script says.
    pub(crate) fn answering(
        script: impl Fn(&Http2Recorded) -> Http2Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            recorded: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let (running, ended) = oneshot::channel::<()>();
        let serving = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = ended => {}
                    () = accept(&serving, listener) => {}
                }
            });
        });
        Self {
            address,
            shared,
            _running: running,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Http2Recorded> {
        std::mem::take(&mut self.shared.recorded.lock().unwrap())
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }
}

async fn accept(shared: &Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, SeqCst);
        tokio::spawn(converse(shared.clone(), stream));
    }
}

async fn converse(shared: Arc<Shared>, stream: TcpStream) {
    /// Large bodies do not wait for every permission to go on.
    const WINDOW: u32 = 1 << 20;
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let Ok(mut connection) = builder.handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve(shared.clone(), request, respond));
    }
}

async fn serve(
    shared: Arc<Shared>,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let (head, mut stream) = request.into_parts();
    let mut request = Http2Recorded {
        head,
        body: Vec::new(),
        complete: false,
        trailers: None,
    };
    let received = receive(&mut stream, &mut request).await;
    request.complete = received.is_ok();
    let answer = (shared.script)(&request);
    shared.recorded.lock().unwrap().push(request);
    if received.is_ok() {
        // That nobody waits for it any longer is no concern of the origin.
        let _ = say(&mut respond, answer).await;
    }
}

async fn receive(
    stream: &mut h2::RecvStream,
    request: &mut Http2Recorded,
) -> Result<(), h2::Error> {
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        request.body.extend_from_slice(&piece);
    }
    request.trailers = stream.trailers().await?;
    Ok(())
}

async fn say(
    respond: &mut h2::server::SendResponse<Bytes>,
    answer: Http2Answer,
) -> Result<(), h2::Error> {
    let goes_on = answer.trailers.is_some() || answer.is_cut;
    let ends_at_once = answer.body.is_empty() && !goes_on;
    let mut stream = respond.send_response(answer.head, ends_at_once)?;
    if !ends_at_once {
        send(&mut stream, answer.body, !goes_on).await?;
    }
    if answer.is_cut {
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
    } else if let Some(trailers) = answer.trailers {
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
