//! Services that authorize: a proxy before one, and one of Envoy's external authorization over gRPC that answers as it is told, can be
//! killed and started again.

use super::{Origin, Proxy, eventually, proxy::Builder as ProxyBuilder};
use bytes::{Buf, Bytes, BytesMut};
use h2::server::{self, SendResponse};
use http::{HeaderMap, Request, Response, request::Parts};
use portcullis_agent_protocol::authz::messages::{
    Answer, CheckRequest, CheckResponse, DeniedResponse, HeaderValue, HeaderValueOption,
    HttpRequest, HttpStatus, OkResponse, Status,
};
use prost::Message;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};
use tokio::{net::TcpSocket, runtime::Builder, sync::oneshot};

/// A proxy with one worker whose routes ask a service as the agent `auth`, which is reached like this and speaks this dialect.
/// `more` are settings of it.
pub(crate) fn before(way: &str, dialect: &str, origin: &Origin, more: &str) -> ProxyBuilder {
    let routes = r#"
        route "open" { match { path-prefix "/open" }; filters { agent "auth" failure-mode="open" }; upstream "origin" }
        route "fixed" { match { path-prefix "/fixed" }; filters { agent "auth" }; respond 200 "fixed\n" }
        route "free" { match { path-prefix "/free" }; upstream "origin" }
        route "all" { filters { agent "auth" }; upstream "origin" }
    "#;
    let timeout = match more.contains("timeout") {
        true => "",
        false => "timeout \"10s\";",
    };
    let agent = format!("{way}; dialect \"{dialect}\"; {timeout} {more}");
    Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{ {routes} }}"
    ))
    .origin(origin)
    .agent_block("auth", &agent)
}

/// What becomes of a question.
pub(crate) enum Checked {
    Answer(Box<CheckResponse>),
    /// The call ends with this status and without an answer.
    Status(u8, &'static str),
    /// These bytes stand where an answer should.
    Garbage(&'static [u8]),
    /// There is no answer.
    Nothing,
    /// The call is broken off.
    Reset,
}

type Script = dyn Fn(&HttpRequest) -> Checked + Send + Sync;

/// A running service. It ends when it is dropped.
pub(crate) struct AuthzService {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<(CheckRequest, HeaderMap)>>,
}

impl AuthzService {
    /// A service that decides by what it is told of the request.
    pub(crate) fn answering(
        script: impl Fn(&HttpRequest) -> Checked + Send + Sync + 'static,
    ) -> Self {
        let mut service = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            shared: Arc::new(Shared {
                script: Box::new(script),
                asked: Mutex::default(),
            }),
            running: None,
        };
        service.start_again();
        service
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far, with the headers of the calls.
    pub(crate) fn asked(&self) -> Vec<(CheckRequest, HeaderMap)> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What it was told about the request for this path.
    pub(crate) fn told(&self, path: &str) -> HttpRequest {
        eventually("question", || {
            let asked = self.asked().into_iter();
            asked
                .filter_map(|(question, _)| question.attributes?.request?.http)
                .find(|http| http.path == path)
        })
    }

    /// Ends it with all its connections, in the middle of what it does.
    pub(crate) fn kill(&mut self) {
        if let Some((end, thread)) = self.running.take() {
            drop(end);
            thread.join().unwrap();
        }
    }

    /// Starts it at the address that it had.
    pub(crate) fn start_again(&mut self) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(self.address).unwrap();
            socket.listen(128).unwrap()
        };
        self.address = listener.local_addr().unwrap();
        let shared = self.shared.clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let Ok(mut connection) = server::handshake(stream).await else {
                            return;
                        };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(serve(shared.clone(), request, respond));
                        }
                    });
                }
            });
            // The end of the runtime is that of all that it does.
            let _ = runtime.block_on(ended);
        });
        self.running = Some((end, thread));
    }
}

impl Drop for AuthzService {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(
    shared: Arc<Shared>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (Parts { uri, headers, .. }, mut body) = request.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    if uri.path() != "/envoy.service.auth.v3.Authorization/Check" {
        return alone(&mut respond, 12, "");
    }
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(bytes.get_u8(), 0, "no compression");
    assert_eq!(bytes.get_u32() as usize, bytes.len());
    let question = CheckRequest::decode(bytes).unwrap();
    let attributes = question.attributes.clone().unwrap();
    let http = attributes.request.unwrap().http.unwrap();
    shared.asked.lock().unwrap().push((question, headers));
    let message = match (shared.script)(&http) {
        Checked::Answer(answer) => answer.encode_to_vec(),
        Checked::Garbage(bytes) => bytes.to_vec(),
        Checked::Status(code, message) => return alone(&mut respond, code, message),
        Checked::Nothing => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return;
        }
        Checked::Reset => return respond.send_reset(h2::Reason::INTERNAL_ERROR),
    };
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed: Bytes = [&[0][..], &length, &message].concat().into();
    let Ok(mut stream) = respond.send_response(head(), false) else {
        return;
    };
    let _ = stream.send_data(framed, false);
    let _ = stream.send_trailers(super::grpc::fields(&[("grpc-status", "0")]));
}

fn head() -> Response<()> {
    let mut head = Response::new(());
    let value = http::HeaderValue::from_static("application/grpc");
    head.headers_mut().insert("content-type", value);
    head
}

fn alone(respond: &mut SendResponse<Bytes>, code: u8, message: &str) {
    let mut head = head();
    head.headers_mut()
        .insert("grpc-status", u16::from(code).into());
    let message = message.parse().unwrap();
    head.headers_mut().insert("grpc-message", message);
    let _ = respond.send_response(head, true);
}

/// The request may go on, with these headers set.
pub(crate) fn allowed(headers: &[(&str, &str)]) -> OkResponse {
    OkResponse {
        headers: options(headers),
        ..OkResponse::default()
    }
}

/// Header lines that take the place of what is there.
pub(crate) fn options(headers: &[(&str, &str)]) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(&str, &str)| HeaderValueOption {
        header: Some(HeaderValue {
            key: (*name).to_owned(),
            value: (*value).to_owned(),
            raw_value: Bytes::new(),
        }),
        append: None,
        append_action: 0,
    };
    headers.iter().map(option).collect()
}

impl From<OkResponse> for Checked {
    fn from(answer: OkResponse) -> Self {
        answered(0, "", Some(Answer::Ok(answer)))
    }
}

/// The request may not go on; the client gets this.
pub(crate) fn denied(
    status: i32,
    headers: &[(&str, &str)],
    body: &'static str,
    why: &str,
) -> Checked {
    let answer = DeniedResponse {
        status: Some(HttpStatus { code: status }),
        headers: options(headers),
        body: Bytes::from(body),
    };
    answered(7, why, Some(Answer::Denied(answer)))
}

pub(crate) fn answered(code: i32, message: &str, answer: Option<Answer>) -> Checked {
    let status = Status {
        code,
        message: message.to_owned(),
    };
    Checked::Answer(Box::new(CheckResponse {
        status: Some(status),
        answer,
        dynamic_metadata: None,
    }))
}
