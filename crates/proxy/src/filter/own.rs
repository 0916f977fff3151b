//! Steps of a chain in which the proxy asks nobody.

use super::{
    Compiler, Flow,
    addresses::AddressFilter,
    headers::{self, Edit, Remembered},
    limit::{ConcurrencyLimit, RateLimit},
    refusal::Refusal,
};
use crate::{reply::Reply, request::Request};
use http::header;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_config::{Compress, Enforcement, OwnFilter};
use std::sync::Arc;

/// One step.
#[derive(Debug)]
pub(crate) enum Own {
    RequestHeaders(Vec<Edit>),
    ResponseHeaders {
        edits: Vec<Edit>,
        /// Some of the values have headers of the request in them.
        reads_request: bool,
    },
    RateLimit(RateLimit),
    ConcurrencyLimit(ConcurrencyLimit),
    Addresses(AddressFilter),
    BodyLimit(BodyLimit),
    /// Done where responses are written.
    Compress(Arc<Compress>),
}

impl Own {
    /// # Errors
    /// A name that is no header name.
    pub(super) fn compile(
        compiler: &mut Compiler<'_>,
        route: &str,
        filter: &OwnFilter,
    ) -> Result<Self, String> {
        let metrics = compiler.metrics;
        let refusal = |mode| Refusal::of(filter, mode, route, metrics);
        Ok(match filter {
            OwnFilter::RequestHeaders(edits) => Self::RequestHeaders(headers::compile(edits)?),
            OwnFilter::ResponseHeaders(edits) => {
                let edits = headers::compile(edits)?;
                let reads_request = headers::read_headers(&edits);
                Self::ResponseHeaders {
                    edits,
                    reads_request,
                }
            }
            OwnFilter::RateLimit(line, limit) => {
                let (limits, previous) = (&mut compiler.limits, compiler.previous);
                Self::RateLimit(limits.rate(line, limit, previous, refusal(limit.mode))?)
            }
            OwnFilter::ConcurrencyLimit(line, limit) => {
                let (limits, previous) = (&mut compiler.limits, compiler.previous);
                let step = limits.concurrency(line, limit, previous, refusal(limit.mode))?;
                Self::ConcurrencyLimit(step)
            }
            OwnFilter::Addresses(list) => {
                Self::Addresses(AddressFilter::new(list, refusal(list.mode)))
            }
            OwnFilter::BodyLimit(limit) => Self::BodyLimit(BodyLimit {
                most: limit.bytes(),
                refusal: refusal(Enforcement::Enforce),
            }),
            OwnFilter::Compress(compress) => Self::Compress(Arc::new(compress.clone())),
        })
    }

    /// The step on the way in.
    ///
    /// # Errors
    /// A change that the request's head does not take.
    pub(super) fn on_request(
        &self,
        position: usize,
        head: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<Flow> {
        match self {
            Self::RequestHeaders(edits) => {
                headers::edit_request(edits, head, request)?;
                let keeps_verdicts = request.route.as_ref().map(|route| route.keeps_verdicts);
                if keeps_verdicts == Some(true) {
                    request.changed.edited(edits);
                }
                Ok(Flow::Continue)
            }
            Self::ResponseHeaders {
                edits,
                reads_request: true,
            } => {
                Remembered::fill(edits, position, head, request);
                Ok(Flow::Continue)
            }
            Self::ResponseHeaders { .. } | Self::Compress(_) => Ok(Flow::Continue),
            Self::RateLimit(limit) => Ok(limit.on_request(position, head, request)),
            Self::ConcurrencyLimit(limit) => Ok(limit.on_request(head, request)),
            Self::Addresses(addresses) => Ok(addresses.on_request(request)),
            Self::BodyLimit(limit) => Ok(limit.on_request(head, request)),
        }
    }

    /// The step on the way out.
    ///
    /// # Errors
    /// A change that the response's head does not take.
    pub(super) fn on_response(
        &self,
        position: usize,
        head: &mut ResponseHeader,
        request: &Request,
    ) -> Result<()> {
        match self {
            Self::ResponseHeaders { edits, .. } => {
                headers::edit_response(edits, position, head, request)
            }
            Self::RateLimit(limit) => limit.on_response(position, head, request),
            Self::RequestHeaders(_)
            | Self::ConcurrencyLimit(_)
            | Self::Addresses(_)
            | Self::BodyLimit(_)
            | Self::Compress(_) => Ok(()),
        }
    }
}

/// `body-limit`.
#[derive(Debug, Clone)]
pub(crate) struct BodyLimit {
    /// Bytes of a request's body.
    pub(crate) most: u64,
    refusal: Refusal,
}

impl BodyLimit {
    /// A body whose length is known is refused before anybody sees it. One that is counted as it comes is
    /// [limited](crate::snapshot::Route::body_limit) where it passes.
    fn on_request(&self, head: &RequestHeader, request: &mut Request) -> Flow {
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
        if length.is_some_and(|length| length > self.most) {
            self.is_exceeded(request);
            return Flow::Reply(Reply::status(413));
        }
        Flow::Continue
    }

    /// The body is larger, and the request is refused for it.
    pub(crate) fn is_exceeded(&self, request: &mut Request) {
        self.refusal.refuse(request, "request_body_too_large");
    }
}

/// The least of the chain's limits of bodies.
pub(super) fn body_limit(filters: &[super::Filter]) -> Option<BodyLimit> {
    let limits = filters.iter().filter_map(|filter| match filter {
        super::Filter::Own(Own::BodyLimit(limit)) => Some(limit),
        _ => None,
    });
    limits.min_by_key(|limit| limit.most).cloned()
}

/// How the chain compresses.
pub(super) fn compression(filters: &[super::Filter]) -> Option<Arc<Compress>> {
    filters.iter().find_map(|filter| match filter {
        super::Filter::Own(Own::Compress(compress)) => Some(compress.clone()),
        _ => None,
    })
}
