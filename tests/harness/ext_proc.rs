//! An agent that speaks Envoy's external processing, on tonic, and does as it is told.

use super::eventually;
use futures::{StreamExt, stream};
use portcullis_agent_protocol::ext_proc::messages::{
    Answered, BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeaderValue,
    HeaderValueOption, HeadersResponse, HttpStatus, ImmediateResponse, Mutation, ProcessingRequest,
    ProcessingResponse, Told, TrailersResponse,
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, BoxStream, Service},
    server,
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// What the agent does about a message.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    This(Box<ProcessingResponse>),
    /// One after the other, with this long before each.
    After(Vec<(Duration, ProcessingResponse)>),
    /// It never answers.
    Nothing,
    /// It ends the stream in order.
    Close,
    /// It ends the stream with a status.
    Fail(Code, &'static str),
    /// It resets the stream.
    Reset,
}

type Script = Box<dyn Fn(&ProcessingRequest) -> Say + Send + Sync>;

/// A running agent. It ends, with all its connections, when it is dropped.
pub(crate) struct ExtProcAgent {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

struct Shared {
    script: Script,
    streams: Mutex<Vec<Stream>>,
    open: AtomicUsize,
}

/// A stream as the agent has seen it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    pub(crate) told: Vec<ProcessingRequest>,
    /// The proxy has ended it in order; false while it goes on, and when it was reset.
    pub(crate) half_closed: bool,
}

impl ExtProcAgent {
    pub(crate) fn start(
        script: impl Fn(&ProcessingRequest) -> Say + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            streams: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let mut agent = Self {
            address: ([127, 0, 0, 1], 0).into(),
            shared,
            running: None,
        };
        agent.begin();
        agent
    }

    /// An agent that lets everything pass.
    pub(crate) fn passing() -> Self {
        Self::start(|told| pass(told).into())
    }

    /// Starts where it has run before.
    pub(crate) fn begin(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let address = self.address;
        let listener = runtime.block_on(async { TcpListener::bind(address).await.unwrap() });
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let service = Processor(self.shared.clone());
        let running = thread::spawn(move || {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            runtime.block_on(async {
                tokio::select! {
                    served = Server::builder().serve_with_incoming(service, incoming) => served.unwrap(),
                    _ = stopped => {}
                }
            });
            // With the runtime, all connections end.
        });
        self.running = Some((stop, running));
    }

    /// Ends as if it were killed.
    pub(crate) fn kill(&mut self) {
        if let Some((stop, running)) = self.running.take() {
            let _ = stop.send(());
            running.join().unwrap();
        }
    }

    /// What a proxy is told to reach it, with these settings beside it.
    pub(crate) fn block(&self, settings: &str) -> String {
        format!(
            "grpc \"http://{}\"; dialect \"ext-proc\"; {settings}",
            self.address
        )
    }

    /// All streams that there have been.
    pub(crate) fn streams(&self) -> Vec<Stream> {
        self.shared.streams().clone()
    }

    /// Everything that it was told, whatever the stream.
    pub(crate) fn told(&self) -> Vec<ProcessingRequest> {
        self.streams()
            .into_iter()
            .flat_map(|stream| stream.told)
            .collect()
    }

    /// The names of what it was told on its last stream.
    pub(crate) fn parts(&self) -> Vec<&'static str> {
        let last = self.streams().pop().unwrap_or_default();
        last.told.iter().map(part).collect()
    }

    /// Waits until no stream is open.
    pub(crate) fn wait_quiet(&self) {
        eventually("no stream is open at the agent", || {
            (self.shared.open.load(SeqCst) == 0).then_some(())
        });
    }
}

impl Drop for ExtProcAgent {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap()
    }
}

#[derive(Clone)]
struct Processor(Arc<Shared>);

/// A stream under way; counted as long as this lives.
struct Talk {
    shared: Arc<Shared>,
    number: usize,
    told: Streaming<ProcessingRequest>,
    waiting: VecDeque<(Duration, ProcessingResponse)>,
    is_over: bool,
}

impl Talk {
    fn new(shared: Arc<Shared>, told: Streaming<ProcessingRequest>) -> Self {
        shared.open.fetch_add(1, SeqCst);
        let mut streams = shared.streams();
        streams.push(Stream::default());
        let number = streams.len() - 1;
        drop(streams);
        Self {
            shared,
            number,
            told,
            waiting: VecDeque::new(),
            is_over: false,
        }
    }

    async fn next(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        loop {
            if let Some((pause, answer)) = self.waiting.pop_front() {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                return Some(Ok(answer));
            }
            if self.is_over {
                return None;
            }
            let told = self.told.message().await;
            let Ok(Some(told)) = told else {
                self.shared.streams()[self.number].half_closed = told.is_ok();
                self.is_over = true;
                return None;
            };
            let say = (self.shared.script)(&told);
            self.shared.streams()[self.number].told.push(told);
            match say {
                Say::This(answer) => return Some(Ok(*answer)),
                Say::After(answers) => self.waiting.extend(answers),
                Say::Nothing => {}
                Say::Close => {
                    self.is_over = true;
                    return None;
                }
                Say::Fail(code, message) => {
                    self.is_over = true;
                    return Some(Err(Status::new(code, message)));
                }
                Say::Reset => panic!("an agent that falls over"),
            }
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, SeqCst);
    }
}

impl Service<Request<Streaming<ProcessingRequest>>> for Processor {
    type Response = Response<BoxStream<ProcessingResponse>>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let mut talk = Talk::new(shared, request.into_inner());
            // Like servers whose answer begins with the first message, and fails as a whole when there is none.
            let first = match talk.next().await {
                Some(Err(status)) => return Err(status),
                first => first,
            };
            let rest = stream::unfold(talk, |mut talk| async {
                let answer = talk.next().await?;
                Some((answer, talk))
            });
            let all = stream::iter(first).chain(rest);
            let answers: BoxStream<ProcessingResponse> = Box::pin(all);
            Ok(Response::new(answers))
        })
    }
}

impl Service<http::Request<Body>> for Processor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                PROCESS => {
                    let codec = ProstCodec::default();
                    server::Grpc::new(codec).streaming(service, request).await
                }
                _ => Status::unimplemented(path).into_http(),
            })
        })
    }
}

impl From<ProcessingResponse> for Say {
    fn from(answer: ProcessingResponse) -> Self {
        Self::This(Box::new(answer))
    }
}

/// The name of what a message is about.
pub(crate) fn part(told: &ProcessingRequest) -> &'static str {
    match &told.request {
        Some(Told::RequestHeaders(_)) => "request_headers",
        Some(Told::RequestBody(_)) => "request_body",
        Some(Told::RequestTrailers(_)) => "request_trailers",
        Some(Told::ResponseHeaders(_)) => "response_headers",
        Some(Told::ResponseBody(_)) => "response_body",
        Some(Told::ResponseTrailers(_)) => "response_trailers",
        None => "nothing",
    }
}

/// A header of the message, as text.
pub(crate) fn header(told: &ProcessingRequest, name: &str) -> Option<String> {
    let map = match &told.request {
        Some(Told::RequestHeaders(head) | Told::ResponseHeaders(head)) => head.headers.as_ref(),
        Some(Told::RequestTrailers(it) | Told::ResponseTrailers(it)) => it.trailers.as_ref(),
        _ => None,
    };
    let found = map?.headers.iter().find(|line| line.key == name)?;
    Some(match found.raw_value.is_empty() {
        true => found.value.clone(),
        false => String::from_utf8_lossy(&found.raw_value).into_owned(),
    })
}

/// The body in the message.
pub(crate) fn body(told: &ProcessingRequest) -> Option<&[u8]> {
    match &told.request {
        Some(Told::RequestBody(body) | Told::ResponseBody(body)) => Some(&body.body),
        _ => None,
    }
}

/// The answer to a message with this in it.
pub(crate) fn answer(told: &ProcessingRequest, common: CommonResponse) -> ProcessingResponse {
    let response = Some(common);
    let answered = match &told.request {
        Some(Told::RequestHeaders(_)) => Answered::RequestHeaders(HeadersResponse { response }),
        Some(Told::ResponseHeaders(_)) => Answered::ResponseHeaders(HeadersResponse { response }),
        Some(Told::RequestBody(_)) => Answered::RequestBody(BodyResponse { response }),
        Some(Told::ResponseBody(_)) => Answered::ResponseBody(BodyResponse { response }),
        Some(Told::RequestTrailers(_)) => Answered::RequestTrailers(TrailersResponse::default()),
        Some(Told::ResponseTrailers(_)) | None => {
            Answered::ResponseTrailers(TrailersResponse::default())
        }
    };
    ProcessingResponse {
        response: Some(answered),
        ..ProcessingResponse::default()
    }
}

/// It may pass.
pub(crate) fn pass(told: &ProcessingRequest) -> ProcessingResponse {
    answer(told, CommonResponse::default())
}

/// A header as most agents set it.
pub(crate) fn set(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec().into(),
        }),
        append: None,
        append_action: 0,
    }
}

/// Changes of headers.
pub(crate) fn setting(headers: Vec<HeaderValueOption>) -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: headers,
            remove_headers: Vec::new(),
        }),
        ..CommonResponse::default()
    }
}

/// Another body.
pub(crate) fn replacing(body: &str) -> CommonResponse {
    CommonResponse {
        body_mutation: Some(BodyMutation {
            mutation: Some(Mutation::Body(body.as_bytes().to_vec().into())),
        }),
        ..CommonResponse::default()
    }
}

/// What the client gets instead.
pub(crate) fn immediate(status: i32, body: &str) -> ImmediateResponse {
    ImmediateResponse {
        status: Some(HttpStatus { code: status }),
        body: body.as_bytes().to_vec().into(),
        ..ImmediateResponse::default()
    }
}

impl From<ImmediateResponse> for Say {
    fn from(immediate: ImmediateResponse) -> Self {
        ProcessingResponse {
            response: Some(Answered::Immediate(immediate)),
            ..ProcessingResponse::default()
        }
        .into()
    }
}
