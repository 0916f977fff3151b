//! `compress`: responses with a content coding that the client takes.
//!
//! Whatever writes to the client, the upstream's response or an answer of our own, goes through Pingora's modules last. So
//! that is where bodies are compressed: agents have seen them plain by then. A request whose route compresses and whose client
//! takes it is given the module; nobody else pays for it. Pingora's own module is not used: it takes the first coding that the
//! client names whatever its weight, has its own list of types, and holds back what was not flushed, which stalls event streams.

mod decide;
mod encoder;

use crate::{accept_encoding, request::Request};
use async_trait::async_trait;
use bytes::Bytes;
use encoder::{Encoder, Slot};
use http::{HeaderMap, Version};
use pingora::{
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
    };
    let modules = &mut session.downstream_modules_ctx;
    *modules = MODULES.build_ctx();
    if let Some(compressor) = modules.get_mut::<Compressor>() {
        compressor.state = State::Armed(armed);
    }
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
    Running(Box<Encoder>),
}

struct Armed {
    compress: Arc<Compress>,
    /// None: the client takes none of them, which is to be said to caches all the same.
    algorithm: Option<Algorithm>,
    is_head: bool,
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
        decide::describe(head, algorithm)?;
        self.state = State::Running(Box::new(encoder));
        Ok(())
    }

    fn response_body_filter(&mut self, body: &mut Option<Bytes>, ends: bool) -> Result<()> {
        let State::Running(encoder) = &mut self.state else {
            return Ok(());
        };
        let piece = body.take().unwrap_or_default();
        if !piece.is_empty() || ends {
            *body = Some(encoder.push(&piece, ends)?);
        }
        if ends {
            self.state = State::Idle;
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

impl Compressor {
    /// What is still to be said when the body is over without having said so. It takes the place of trailers, which are
    /// no part of HTTP's meaning of a message whose body was changed (RFC 9110 section 6.5.1).
    fn end(&mut self) -> Result<Option<Bytes>> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Running(mut encoder) => encoder.push(&[], true).map(Some),
            State::Idle | State::Armed(_) => Ok(None),
        }
    }
}
