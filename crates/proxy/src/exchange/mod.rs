//! An inspected exchange: a request whose bodies, or whose response, pass through agents on their way.
//!
//! Pingora's own way to the upstream runs as an inner pass ([`forward`]) in the same task, fed and emptied by us: [`client`]
//! reads and writes the client's side, [`upload`] and [`download`] are the two directions, and [`pipe`] is the way of one body
//! through the agents that see it, step by step ([`stage`]). Nothing is spawned, so that everything ends together.

mod client;
pub(crate) mod coding;
mod deadline;
mod download;
mod forward;
mod gathered;
mod head;
pub(crate) mod memory;
pub(crate) mod pipe;
pub(crate) mod plan;
pub(crate) mod sockets;
mod source;
mod stage;
pub(crate) mod tunnel;
mod upload;

use crate::{
    files::FileAnswer,
    filter::{self, Direction, Flow, Inspectors},
    mirror::{self, Copying},
    reply,
    request::{Begun, Request},
    snapshot::{Action, Route},
    upstream::{self, UpstreamRun},
    watch,
    websocket::extension,
};
use client::{Ended, Patience, RESPONSE_QUEUE, Reader};
use coding::Coding;
use deadline::Deadline;
use download::{Download, Halt, Ways};
pub(crate) use forward::Forwarder;
use forward::Passage;
use head::Length;
pub(crate) use head::{forget_digests, takes_trailers, weaken};
use http::{HeaderMap, header};
use pingora::{
    Error,
    ErrorType::{ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, WriteError},
    Result,
    http::RequestHeader,
    protocols::http::subrequest::server::SubrequestHandle,
    proxy::Session,
};
use pipe::{Agents, Body, End, Form, Pieces, Pipe, Released};
use source::Source;
use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tunnel::Upload;
use upload::Start;

/// What a request's body goes through, or who copies it as it passes.
type Through<'a, 's, 'p> = (
    Option<&'a mut Pipe<'s, Inspectors<'p>>>,
    Option<&'a Inspectors<'p>>,
);

/// Whether agents want to see more of the request than its head, or there is a limit that Pingora does not keep: that of the
/// whole exchange or of one attempt, and over HTTP/2, where it waits for a body for as long as the client likes, that between two pieces.
/// Or trailers are to be kept behind a compressed body, for which it has no room.
pub(crate) fn is_due(request: &Request, is_http2: bool, keeps_trailers: bool) -> bool {
    request.route.as_deref().is_some_and(|route| {
        let frames = request.switches && !route.plan.frames.is_empty();
        let shadows = request.shadows.as_ref();
        let sees_more = || {
            let inspects = request.plan(route).inspects(request.has_body);
            inspects || shadows.is_some_and(|shadows| shadows.see_more(request.has_body))
        };
        let gives_up_early = route.gives_up_early() && !request.switches;
        let has_limits =
            is_http2 && request.has_body || route.timeouts.total.is_some() || gives_up_early;
        let is_answered = matches!(route.action, Action::Static(_));
        is_answered && (frames || sees_more())
            || route.upstream().is_some_and(|upstream| {
                let has_trailers = keeps_trailers && upstream.is_http2();
                frames || has_limits || has_trailers || sees_more()
            })
    })
}

/// Carries out the exchange. Returns a reply when nothing has gone to the client yet and something else than the upstream's
/// response shall.
///
/// # Errors
/// The exchange cannot come to its end; what has gone to the client is never complete.
pub(crate) async fn run(
    session: &mut Session,
    request: &mut Request,
    forwarder: &Forwarder,
    file: Option<Box<FileAnswer>>,
) -> Result<Flow> {
    let copying = request.copying.take();
    let Request {
        begun: Some(begun),
        route: Some(route),
        ..
    } = &*request
    else {
        return Ok(Flow::Continue);
    };
    let mut exchange = Exchange {
        request,
        begun,
        route,
        forwarder,
        file,
        copying,
        upstream: UpstreamRun::between(begun.ends()),
        deadline: Deadline::new(begun.started, route.timeouts.total),
    };
    let headers = &session.req_header().headers;
    upstream::consider(route, headers, begun, &mut exchange.upstream);
    let outcome = exchange.carry_out(session).await;
    request.upstream = exchange.upstream;
    match outcome {
        Ok(()) => Ok(Flow::Continue),
        Err(Halt::Stopped(reply)) if reply::answered(session).is_none() => {
            if !session.is_body_done() {
                // What is left of the body would have to be read before the next request.
                session.set_keepalive(None);
            }
            Ok(Flow::Reply(reply))
        }
        // It must not look as if it were complete.
        Err(Halt::Stopped(reply)) => {
            Error::e_explain(HTTPStatus(reply.status), "stopped on its way to the client")
        }
        Err(Halt::Failed(error)) => Err(error),
        Err(Halt::Lost) => {
            Err(Error::explain(ConnectionClosed, "the response is incomplete").into_up())
        }
    }
}

struct Exchange<'a> {
    request: &'a Request,
    begun: &'a Begun,
    route: &'a Arc<Route>,
    forwarder: &'a Forwarder,
    /// What takes the place of the upstream's response.
    file: Option<Box<FileAnswer>>,
    /// Somebody else gets a copy of the request, once.
    copying: Option<Box<Copying>>,
    upstream: UpstreamRun,
    deadline: Deadline,
}

type HandOver = (
    Option<oneshot::Sender<Upload>>,
    Option<oneshot::Receiver<Upload>>,
    HeaderMap,
);

/// The response is through, and the inner pass has this long to leave its connection in order.
const TO_TIDY_UP: Duration = Duration::from_millis(500);
/// A request goes to the upstream at most so often because its connection was lost.
const MOST_ATTEMPTS: u32 = 3;

impl Exchange<'_> {
    async fn carry_out(&mut self, session: &mut Session) -> Result<(), Halt> {
        let (request, begun, route) = (self.request, self.begun, self.route);
        let agents = Inspectors::new(request, begun, &route.filters, Direction::Request)
            .behind(&session.req_header().headers);
        let limit = request.body_limit();
        let steps = &request.plan(route).request;
        let copies = request.has_body && agents.copies();
        let is_seen = copies || !steps.is_empty();
        let idle = begun.connection.listener.timeouts.request_body_idle;
        let idle = session.is_http2().then_some(idle);
        let mut reader = Reader::new(limit, is_seen, !request.has_body).within(idle);
        let mut pipe = None;
        if request.has_body && !steps.is_empty() {
            let body = body_of(session.req_header());
            let memory = begun.buffer_memory();
            pipe = Some(Pipe::new(&agents, steps, &body, memory).map_err(Halt::Stopped)?);
        } else if copies {
            agents.copy_begins(body_of(session.req_header()));
        }
        let copying = (copies && pipe.is_none()).then_some(&agents);
        if request.has_body {
            continue_if_expected(session).await?;
        }
        let mut pieces = Pieces::new();
        if let Some(pipe) = &mut pipe {
            // Few requests wait here, and the others shall not be larger for it.
            let patience = Patience::new(begun.connection.listener.timeouts.request_body_idle);
            let held = Box::pin(hold(session, (&mut reader, patience), pipe, &mut pieces));
            tokio::select! {
                biased;
                held = held => held?,
                error = self.deadline.passed() => return Err(Halt::Failed(error)),
            }
        }
        let changes = agents.take_changes();
        filter::apply(session.req_header_mut(), &changes).map_err(Halt::Failed)?;
        let form = pipe.as_ref().map(Pipe::changes);
        loop {
            let whole = reader.ended;
            let start = Start {
                pieces: match whole {
                    true => pieces.clone(),
                    false => std::mem::take(&mut pieces),
                },
                ends: whole,
                is_empty: !request.has_body,
            };
            let next = Reader::new(u64::MAX, false, true);
            let reader = if whole {
                next
            } else {
                std::mem::replace(&mut reader, next)
            };
            let head = self.inner_head(session, &start, form)?;
            let through = (pipe.as_mut(), copying);
            let passed = self.pass(session, reader, through, start, head).await;
            match passed {
                Err(Halt::Failed(error)) if whole && self.may_repeat(session, &error) => {}
                passed => return passed,
            }
        }
    }

    fn inner_head(
        &self,
        session: &Session,
        start: &Start,
        form: Option<Form>,
    ) -> Result<RequestHeader, Halt> {
        let head = session.req_header();
        let length = match form {
            _ if !self.request.has_body => Length::AsItIs,
            _ if start.ends => Length::Known(start.pieces.iter().map(bytes::Bytes::len).sum()),
            Some(form) => Length::of(form, &start.pieces),
            None => Length::AsItIs,
        };
        // HTTP/2 has no need to say that there is a body.
        let is_framed = head.headers.contains_key(header::CONTENT_LENGTH)
            || head.headers.contains_key(header::TRANSFER_ENCODING);
        let length = match length {
            Length::AsItIs if self.request.has_body && !is_framed => Length::Open,
            length => length,
        };
        let whole = self.request.plan(self.route).whole_responses;
        head::inner_request(head, length, form, whole).map_err(Halt::Failed)
    }

    /// Whether the whole request may go to the upstream once more. Nothing of a response has come, and the body is still here.
    fn may_repeat(&mut self, session: &Session, error: &Error) -> bool {
        if self.route.retry.is_some() {
            let is_idempotent = session.req_header().method.is_idempotent();
            return is_idempotent
                && self.upstream.status.is_none()
                && upstream::is_passed_again(self.route, &mut self.upstream, error);
        }
        let is_idempotent = session.req_header().method.is_idempotent();
        let is_lost = matches!(error.etype(), ConnectionClosed | ReadError | WriteError)
            && *error.esource() == pingora::ErrorSource::Upstream;
        is_lost
            && is_idempotent
            && self.upstream.status.is_none()
            && self.upstream.attempts < MOST_ATTEMPTS
    }

    /// One inner pass, from its start to its end. The body goes through the pipe, or past somebody who copies it.
    async fn pass(
        &mut self,
        session: &mut Session,
        reader: Reader,
        through: Through<'_, '_, '_>,
        start: Start,
        mut head: RequestHeader,
    ) -> Result<(), Halt> {
        let (switched, handed_over, offered) = self.hand_over(&mut head);
        let (passage, source, mut handle) = self.source(session, start.ends, head);
        let (uploads, received) = mpsc::channel(1);
        let (tasks, to_client) = mpsc::channel(RESPONSE_QUEUE);
        let (sent, is_sent) = oneshot::channel();
        let head_seen = AtomicBool::new(false);
        let until_written = Mutex::default();
        let download = self.download(session, offered, (&head_seen, &until_written));
        let ways = Ways {
            inner: handle.rx,
            client: tasks,
            next: None,
            switched: handed_over,
            passage: passage.clone(),
        };
        let outcome = {
            let mut inner = pin!(source.run());
            let mut upload = pin!(upload::pass(
                through, start, received, handle.tx, sent, switched
            ));
            let mut download = pin!(download.pass(ways));
            let mut client = pin!(client::serve(
                session,
                (self.request, &passage),
                reader,
                uploads,
                to_client
            ));
            let limit = self.route.answer_within();
            let mut late = pin!(late(is_sent, &head_seen, limit));
            let mut overdue = pin!(self.deadline.passed());
            let mut is_running = true;
            let mut is_passing = true;
            loop {
                // Who makes something comes before who takes it, so that a part goes all the way in one go.
                tokio::select! {
                    biased;
                    reply = &mut upload => break Err(Halt::Stopped(reply)),
                    () = &mut inner, if is_running => is_running = false,
                    passed = &mut download, if is_passing => match passed {
                        Ok(()) => is_passing = false,
                        Err(halt) => break Err(halt),
                    },
                    ended = &mut client => break match ended {
                        Ended::Complete => {
                            if is_running {
                                // What it still has to do is not the client's concern.
                                let _ = tokio::time::timeout(TO_TIDY_UP, &mut inner).await;
                            }
                            Ok(())
                        }
                        Ended::Cut => Err(Halt::Lost),
                        Ended::Failed(error) => Err(Halt::Failed(error)),
                    },
                    error = &mut late => {
                        upstream::failed(self.route, &mut passage.upstream());
                        break Err(Halt::Failed(error));
                    }
                    error = &mut overdue => break Err(Halt::Failed(error)),
                }
            }
        };
        self.upstream = std::mem::take(&mut *passage.upstream());
        outcome.map_err(|halt| match (halt, handle.subreq_proxy_error.try_recv()) {
            // The inner pass knows better why.
            (Halt::Lost, Ok(error)) => Halt::Failed(error),
            (halt, _) => halt,
        })
    }

    /// Where the response comes from, and the other ends of its channels.
    fn source(
        &mut self,
        session: &Session,
        is_whole: bool,
        head: RequestHeader,
    ) -> (Arc<Passage>, Source, SubrequestHandle) {
        let copying = self.copying.take();
        let mut copying = copying.map(|copying| copying.of(&head));
        if !self.request.has_body {
            mirror::end(&mut copying);
        }
        let passage = self.passage(session, is_whole, head);
        *passage.copying() = copying;
        let (source, handle) = match self.file.take() {
            Some(file) => Source::of_file(*file),
            None => {
                let (prepared, handle) = self.forwarder.prepare(&passage);
                (Source::Upstream(prepared), handle)
            }
        };
        (passage, source, handle)
    }

    fn download<'b>(
        &'b self,
        session: &Session,
        offered: HeaderMap,
        (head_seen, until_written): (&'b AtomicBool, &'b Mutex<Released>),
    ) -> Download<'b> {
        Download {
            request: self.request,
            begun: self.begun,
            route: self.route,
            may_switch: self.request.switches && session.is_upgrade_req(),
            offered,
            head_seen,
            deadline: &self.deadline,
            until_written,
        }
    }

    /// Where agents see frames: the two ends of what hands over the client's side behind an upgrade, and the extensions that
    /// the upstream may still agree on.
    fn hand_over(&self, head: &mut RequestHeader) -> HandOver {
        match self.route.websocket {
            Some(websocket) if self.request.switches && !self.route.plan.frames.is_empty() => {
                let offered = extension::offer(head, websocket.deflate);
                let (hand_over, handed_over) = oneshot::channel();
                (Some(hand_over), Some(handed_over), offered)
            }
            _ => (None, None, HeaderMap::new()),
        }
    }

    fn passage(&mut self, session: &Session, is_whole: bool, head: RequestHeader) -> Arc<Passage> {
        let takes_trailers = takes_trailers(session.req_header(), session.is_http2());
        Passage::new(
            self.route.clone(),
            self.begun.started,
            self.request.switches,
            (takes_trailers, is_whole),
            head,
            std::mem::take(&mut self.upstream),
        )
    }
}

/// Reads the body until every agent that holds it has seen enough.
async fn hold(
    session: &mut Session,
    (reader, mut patience): (&mut Reader, Patience),
    pipe: &mut Pipe<'_, Inspectors<'_>>,
    pieces: &mut Pieces,
) -> Result<(), Halt> {
    while pipe.is_holding() {
        let received = reader
            .read_held(&mut session.downstream_session, &mut patience)
            .await
            .map_err(Halt::Failed)?;
        let ends = received.ends;
        let asked = pipe.push(received.data, ends.then(End::default));
        let passed = if ends {
            tokio::select! {
                biased;
                passed = asked => passed,
                error = watch::gone(&mut session.downstream_session) => return Err(Halt::Failed(error)),
            }
        } else {
            asked.await
        };
        pieces.extend(passed.map_err(Halt::Stopped)?);
    }
    Ok(())
}

/// The upstream has the whole request and says nothing.
async fn late(
    is_sent: oneshot::Receiver<()>,
    head_seen: &AtomicBool,
    limit: Duration,
) -> Box<Error> {
    if is_sent.await.is_ok() {
        // Hardly ever fires: cheap to set is all that counts.
        pingora_timeout::sleep(limit).await;
        if !head_seen.load(Relaxed) {
            return Error::explain(ReadTimedout, "no head of a response").into_up();
        }
    }
    std::future::pending().await
}

/// Clients that wait for it are told that the body may come, since it is we who read it.
async fn continue_if_expected(session: &mut Session) -> Result<(), Halt> {
    let expects = session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !expects || session.req_header().version == http::Version::HTTP_10 {
        return Ok(());
    }
    // Pingora ends a connection on which anything is said before the body is here, and this is no answer to it.
    let keepalive = session.get_keepalive();
    let written = session.downstream_session.write_continue_response().await;
    session.set_keepalive(keepalive);
    written.map_err(|error| Halt::Failed(error.into_down()))
}

fn body_of(head: &RequestHeader) -> Body {
    let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    let length = head::content_length(head.headers.get(header::CONTENT_LENGTH));
    Body {
        coding: Coding::of(&head.headers),
        length: length.filter(|_| !is_chunked),
    }
}
