//! `compress`: responses with a content coding that the client takes.
//!
//! Whatever writes to the client, the upstream's response or an answer of our own, goes through Pingora's modules last. So
//! that is where bodies are compressed: agents have seen them plain by then. A request whose route compresses and whose client
//! takes it is given the module; nobody else pays for it. Pingora's own module is not used: it takes the first coding that the
//! client names whatever its weight, has its own list of types, and holds back what was not flushed, which stalls event streams.

mod decide;
mod encoder;

use crate::{accept_encoding, exchange, request::Request};
use async_trait::async_trait;
use bytes::Bytes;
use encoder::{Encoder, Slot};
use http::{HeaderMap, Version, header};
use pingora::{
    Error,
    ErrorType::InternalError,
    Result,
    http::ResponseHeader,
    modules::http::{HttpModule, HttpModuleBuilder, HttpModules, Module},
    proxy::Session,
};
use portcullis_config::{Algorithm, Compress};
use std::{
    any::Any,
    sync::{Arc, LazyLock},
};

/// Sees to it that the answer to this request is compressed, if its route and its client like that.
pub(crate) fn prepare(session: &mut Session, request: &Request) {
    let compress = request
        .route
        .as_deref()
        .and_then(|route| route.compress.as_ref());
    let Some(compress) = compress else { return };
    let head = session.req_header();
    // What is made as it goes has no length, and HTTP/1.0 knows no chunks. Behind an upgrade there is no response.
    if head.version < Version::HTTP_11 || request.switches {
        return;
    }
    let ours = compress.algorithms.iter().copied();
    let liked = accept_encoding::liked(&head.headers, ours, Algorithm::name);
    let armed = Armed {
        algorithm: liked.first().copied(),
        compress: compress.clone(),
        is_head: head.method == http::Method::HEAD,
        names_weakly: names_weakly(&head.headers),
    };
    let modules = &mut session.downstream_modules_ctx;
    *modules = MODULES.build_ctx();
    if let Some(compressor) = modules.get_mut::<Compressor>() {
        compressor.state = State::Armed(armed);
    }
}

/// Whether the answer may be compressed and its client waits for trailers, for which only an exchange has room.
pub(crate) fn keeps_trailers(session: &Session) -> bool {
    let compressor = session.downstream_modules_ctx.get::<Compressor>();
    let may_compress = compressor.is_some_and(
        |compressor| matches!(&compressor.state, State::Armed(armed) if armed.algorithm.is_some()),
    );
    may_compress && exchange::takes_trailers(session.req_header(), session.is_http2())
}

/// Whether the answer may be compressed.
pub(crate) fn is_prepared(session: &Session) -> bool {
    let compressor = session.downstream_modules_ctx.get::<Compressor>();
    compressor.is_some()
}

/// The next piece is the last one of a body that is compressed. Returns whether there is such a body.
pub(crate) fn end_with_next(session: &mut Session) -> bool {
    match session.downstream_modules_ctx.get_mut::<Compressor>() {
        Some(Compressor {
            state: State::Running(running),
        }) => {
            running.left = Some(0);
            true
        }
        _ => false,
    }
}

/// Whether a client says that it has something which is as good as what it asks for, and not the same byte by byte.
fn names_weakly(headers: &HeaderMap) -> bool {
    let mut tags = headers.get_all(header::IF_NONE_MATCH).iter();
    tags.any(|tags| tags.as_bytes().windows(2).any(|pair| pair == b"W/"))
}

/// The one module that there is.
static MODULES: LazyLock<HttpModules> = LazyLock::new(|| {
    let mut modules = HttpModules::new();
    modules.add_module(Box::new(Builder));
    modules
});

struct Builder;

impl HttpModuleBuilder for Builder {
    fn init(&self) -> Module {
        Box::new(Compressor { state: State::Idle })
    }
}

/// The way of one response.
struct Compressor {
    state: State,
}

enum State {
    /// What comes passes as it is.
    Idle,
    /// A head has to come.
    Armed(Armed),
    /// The body is compressed.
    Running(Running),
    /// All of the body was compressed, which it said before it was over.
    Ended,
}

struct Running {
    encoder: Box<Encoder>,
    /// How much of the body is to come, where that is known. Trailers can only go out behind an end that was known before them.
    left: Option<u64>,
}

struct Armed {
    compress: Arc<Compress>,
    /// None: the client takes none of them, which is to be said to caches all the same.
    algorithm: Option<Algorithm>,
    is_head: bool,
    /// What the client has is what was compressed once.
    names_weakly: bool,
}

#[async_trait]
impl HttpModule for Compressor {
    async fn response_header_filter(
        &mut self,
        head: &mut ResponseHeader,
        ends: bool,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != 101 {
            return Ok(());
        }
        let State::Armed(armed) = std::mem::replace(&mut self.state, State::Idle) else {
            return Ok(());
        };
        if head.status == 304 {
            return decide::confirm(head, armed.names_weakly);
        }
        if !decide::is_eligible(head, &armed.compress) {
            return Ok(());
        }
        decide::vary(head)?;
        let Some(algorithm) = armed.algorithm else {
            return Ok(());
        };
        if ends || armed.is_head {
            return Ok(());
        }
        // As many as there may be are at it: this one goes as it is.
        let Some(slot) = Slot::take() else {
            return Ok(());
        };
        let Some(encoder) = Encoder::new(algorithm, armed.compress.levels, slot) else {
            return Ok(());
        };
        let left = decide::length(&head.headers);
        decide::describe(head, algorithm)?;
        let encoder = Box::new(encoder);
        self.state = State::Running(Running { encoder, left });
        Ok(())
    }

    fn response_body_filter(&mut self, body: &mut Option<Bytes>, ends: bool) -> Result<()> {
        let piece = body.as_deref().unwrap_or_default();
        let running = match &mut self.state {
            State::Running(running) => running,
            State::Ended if !piece.is_empty() => {
                return Error::e_explain(InternalError, "a body that is longer than it has said");
            }
            State::Idle | State::Armed(_) | State::Ended => return Ok(()),
        };
        let ends = ends || running.is_last(piece);
        if !piece.is_empty() || ends {
            *body = Some(running.encoder.push(piece, ends)?);
        }
        if ends {
            self.state = State::Ended;
        }
        Ok(())
    }

    fn response_trailer_filter(
        &mut self,
        _trailers: &mut Option<Box<HeaderMap>>,
    ) -> Result<Option<Bytes>> {
        self.end()
    }

    fn response_done_filter(&mut self) -> Result<Option<Bytes>> {
        self.end()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Running {
    /// Whether nothing comes behind this piece, by what the head has said.
    fn is_last(&mut self, piece: &[u8]) -> bool {
        let Some(left) = &mut self.left else {
            return false;
        };
        *left = left.saturating_sub(piece.len() as u64);
        *left == 0
    }
}

impl Compressor {
    /// What is still to be said when the body is over without having said so. It takes the place of trailers, as Pingora has it:
    /// clients that wait for them are answered by an exchange.
    fn end(&mut self) -> Result<Option<Bytes>> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(mut running) => running.encoder.push(&[], true).map(Some),
            State::Idle | State::Armed(_) | State::Ended => Ok(None),
        }
    }
}
