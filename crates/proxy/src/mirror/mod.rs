//! Copies of requests for an upstream whose answers nobody waits for.
//!
//! A request that is copied goes its way as every other. What the upstream gets of it is noted as it passes, without a copy of
//! the bytes; when all of it has passed, the copy is queued ([`sender`]), and when there is no room for it, it is dropped. No agent
//! is asked about it, since agents have seen the request.

pub(crate) mod sender;

use crate::{
    exchange::memory::{BufferMemory, Held},
    hop,
    request::Request,
    telemetry::metrics::MirrorMetrics,
    upstream::{Ends, Upstream},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use portcullis_config::Share;
use sender::Sender;
use std::sync::Arc;

/// Tells those who get copies that a request is one, and of which route. Clients cannot say so themselves.
pub(crate) const MARK: HeaderName = HeaderName::from_static("x-portcullis-mirror");

/// What a route copies.
pub(crate) struct Mirror {
    pub(crate) upstream: Arc<Upstream>,
    percent: Share,
    max_body: usize,
    mark: HeaderValue,
    metrics: MirrorMetrics,
    sender: Sender,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// It got an answer, which was thrown away.
    Answered,
    /// It got none.
    Failed,
    /// The body is larger than it may be.
    TooLarge,
    /// There was no room for it.
    Dropped,
    /// The request itself did not come to its end.
    Incomplete,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Answered,
        Self::Failed,
        Self::TooLarge,
        Self::Dropped,
        Self::Incomplete,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TooLarge => "too_large",
            Self::Dropped => "dropped",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Mirror {
    /// # Errors
    /// The route has a name that no header can hold.
    pub(crate) fn new(
        config: &portcullis_config::Mirror,
        route: &str,
        upstream: Arc<Upstream>,
        metrics: MirrorMetrics,
        sender: Sender,
    ) -> Result<Self, String> {
        let mark = HeaderValue::from_str(route).map_err(|_| format!("route {route}"))?;
        Ok(Self {
            upstream,
            percent: config.percent,
            max_body: usize::try_from(config.max_body.bytes()).unwrap_or(usize::MAX),
            mark,
            metrics,
            sender,
        })
    }

    fn takes(&self) -> bool {
        let percent = self.percent.hundredths();
        percent >= Share::WHOLE || rand::random_range(0..Share::WHOLE) < percent
    }
}

/// A request that is being copied. Dropped before its end it is counted as such.
pub(crate) struct Copying {
    mirror: Arc<Mirror>,
    /// The copy so far; `None` when it was given up or sent.
    copy: Option<Copied>,
    /// What counts when it is dropped.
    outcome: Option<Outcome>,
}

/// Whether the request is copied, and the copy of what it has so far.
pub(crate) fn begin(head: &RequestHeader, request: &Request) -> Option<Box<Copying>> {
    let mirror = request.route.as_ref()?.mirror.as_ref()?;
    let begun = request.begun.as_ref()?;
    // What follows an upgrade is no request.
    if request.switches || !mirror.takes() {
        return None;
    }
    let memory = &begun.snapshot().copies;
    let copying = Copying::new(mirror.clone(), head, begun.ends(), memory);
    Some(Box::new(copying))
}

/// A piece of the body passes to the upstream; behind the last one, all of the request has.
pub(crate) fn passes(copying: &mut Option<Box<Copying>>, piece: Option<&Bytes>, ends: bool) {
    if let (Some(copying), Some(piece)) = (copying.as_mut(), piece) {
        copying.add(piece);
    }
    if ends {
        end(copying);
    }
}

/// All of the request has passed.
pub(crate) fn end(copying: &mut Option<Box<Copying>>) {
    if let Some(copying) = copying.take() {
        copying.end();
    }
}

/// What the upstream gets of a request.
struct Copied {
    head: RequestHeader,
    body: Vec<Bytes>,
    length: usize,
    /// Of the client's connection, for upstreams that are told them.
    ends: Ends,
    held: Held,
}

impl Copying {
    fn new(
        mirror: Arc<Mirror>,
        head: &RequestHeader,
        ends: Ends,
        memory: &Arc<BufferMemory>,
    ) -> Self {
        let fields = head.headers.iter();
        let size: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let mut held = Held::new(memory);
        let has_room = held.add(size + head.raw_path().len()).is_ok();
        Self {
            mirror,
            copy: has_room.then(|| Copied {
                head: head.clone(),
                body: Vec::new(),
                length: 0,
                ends,
                held,
            }),
            outcome: Some(if has_room {
                Outcome::Incomplete
            } else {
                Outcome::Dropped
            }),
        }
    }

    /// A piece of the body passes.
    fn add(&mut self, piece: &Bytes) {
        let Some(copy) = &mut self.copy else { return };
        copy.length += piece.len();
        let trouble = if copy.length > self.mirror.max_body {
            Outcome::TooLarge
        } else if copy.held.add(piece.len()).is_err() {
            Outcome::Dropped
        } else {
            copy.body.push(piece.clone());
            return;
        };
        self.outcome = Some(trouble);
        self.copy = None;
    }

    /// Its head is this one, after agents have seen the body.
    pub(crate) fn of(mut self: Box<Self>, head: &RequestHeader) -> Box<Self> {
        if let Some(copy) = &mut self.copy {
            copy.head = head.clone();
        }
        self
    }

    /// The request goes to its upstream once more, from its start.
    pub(crate) fn start_again(&mut self) {
        if let Some(copy) = &mut self.copy {
            copy.body.clear();
            // It is less than before, for which there is always room.
            let _ = copy.held.set(copy.held.bytes() - copy.length);
            copy.length = 0;
        }
    }

    fn end(mut self: Box<Self>) {
        let Some(mut copy) = self.copy.take() else {
            return;
        };
        copy.mark(&self.mirror.mark);
        let mirror = self.mirror.clone();
        self.outcome = match self.mirror.sender.send(Job { mirror, copy }) {
            Ok(()) => None,
            Err(sender::Full) => Some(Outcome::Dropped),
        };
    }
}

impl Copied {
    /// Makes the head that of a copy, with a body whose length is known now.
    fn mark(&mut self, mark: &HeaderValue) {
        let head = &mut self.head;
        let is_framed = head.headers.contains_key(header::CONTENT_LENGTH)
            || head.headers.contains_key(header::TRANSFER_ENCODING)
            || self.length > 0;
        hop::clean_request(head);
        head.remove_header(&header::EXPECT);
        // There is room: more was there before.
        if is_framed {
            let _ = head.insert_header(header::CONTENT_LENGTH, self.length);
        }
        let _ = head.insert_header(MARK, mark.clone());
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.mirror.metrics.count(outcome);
        }
    }
}

/// A copy that is on its way. Its memory is given back with it.
pub(crate) struct Job {
    mirror: Arc<Mirror>,
    copy: Copied,
}
