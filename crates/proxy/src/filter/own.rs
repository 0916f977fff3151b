//! Steps of a chain in which the proxy asks nobody.

use super::{
    Compiler, Flow,
    addresses::AddressFilter,
    headers::{self, Edit, Remembered},
    limit::{ConcurrencyLimit, RateLimit},
};
use crate::{reply::Reply, request::Request};
use http::header;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_config::{Compress, OwnFilter};
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
    /// Bytes of a request's body.
    BodyLimit(u64),
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
                let refused = compiler
                    .metrics
                    .filter_refused(route, "rate-limit", limit.mode);
                let step = compiler
                    .limits
                    .rate(line, limit, compiler.previous, refused)?;
                Self::RateLimit(step)
            }
            OwnFilter::ConcurrencyLimit(line, limit) => {
                let metrics = compiler.metrics;
                let refused = metrics.filter_refused(route, "concurrency-limit", limit.mode);
                let previous = compiler.previous;
                let step = compiler
                    .limits
                    .concurrency(line, limit, previous, refused)?;
                Self::ConcurrencyLimit(step)
            }
            OwnFilter::Addresses(list) => {
                let name = if list.allows { "ip-allow" } else { "ip-deny" };
                let refused = compiler.metrics.filter_refused(route, name, list.mode);
                Self::Addresses(AddressFilter::new(list, name, refused))
            }
            OwnFilter::BodyLimit(limit) => Self::BodyLimit(limit.bytes()),
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
            Self::BodyLimit(limit) => Ok(announced_body(*limit, head, request)),
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

/// A body whose length is known is refused before anybody sees it. One that is counted as it comes is
/// [limited](crate::snapshot::Route::body_limit) where it passes.
fn announced_body(limit: u64, head: &RequestHeader, request: &mut Request) -> Flow {
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
    if length.is_none_or(|length| length <= limit) {
        return Flow::Continue;
    }
    request.reason = Some("request_body_too_large");
    Flow::Reply(Reply::status(413))
}

/// The least of the chain's limits of bodies.
pub(super) fn body_limit(filters: &[super::Filter]) -> Option<u64> {
    let limits = filters.iter().filter_map(|filter| match filter {
        super::Filter::Own(Own::BodyLimit(limit)) => Some(*limit),
        _ => None,
    });
    limits.min()
}

/// How the chain compresses.
pub(super) fn compression(filters: &[super::Filter]) -> Option<Arc<Compress>> {
    filters.iter().find_map(|filter| match filter {
        super::Filter::Own(Own::Compress(compress)) => Some(compress.clone()),
        _ => None,
    })
}
