//! The client's side of an exchange: reads the request's body, writes the response, and notices when the client goes away.

use super::{forward::Passage, gathered::Gathered, head, upload::Received};
use crate::{filter, reply, request::Request, trace};
use bytes::Bytes;
use futures::FutureExt;
use pingora::{
    Error,
    ErrorType::{HTTPStatus, ReadTimedout},
    Result,
    http::ResponseHeader,
    protocols::http::{HttpTask, ServerSession},
    proxy::Session,
};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What is there already is put together up to this size: a client may send a body byte by byte, and each piece is a question
/// to every agent.
const LARGE: usize = 256 << 10;

/// Bytes per second that a client has to send while its body is held: whoever is slower takes up memory that others need.
const LEAST_RATE: u64 = 500;

/// Parts of the response that may wait for the client.
pub(super) const RESPONSE_QUEUE: usize = 4;

/// Reads the body of a request.
pub(super) struct Reader {
    received: u64,
    limit: u64,
    /// Agents see what it reads.
    gathers: bool,
    /// How long the client may be silent, where Pingora does not see to it: over HTTP/2 it has no limit.
    idle: Option<Duration>,
    pub(super) ended: bool,
}

impl Reader {
    pub(super) const fn new(limit: u64, gathers: bool, ended: bool) -> Self {
        Self {
            received: 0,
            limit,
            gathers,
            idle: None,
            ended,
        }
    }

    /// The same reader, and the client may be silent for so long.
    pub(super) fn within(self, idle: Option<Duration>) -> Self {
        Self { idle, ..self }
    }

    /// The next piece of a body that is held until it is complete.
    ///
    /// # Errors
    /// The same as when it is read otherwise, and the client has used up its patience.
    pub(super) async fn read_held(
        &mut self,
        session: &mut ServerSession,
        patience: &mut Patience,
    ) -> Result<Received> {
        let began = Instant::now();
        let received = self.read(session).await?;
        if !patience.after(began.elapsed(), received.data.len()) && !received.ends {
            let slow = Error::explain(ReadTimedout, "the body comes too slowly");
            return Err(slow.into_down());
        }
        Ok(received)
    }

    /// The next piece and whether it is the last one. May be dropped and called again; then nothing is lost.
    ///
    /// # Errors
    /// The client has gone, is too slow, or sends more than it may.
    pub(super) async fn read(&mut self, session: &mut ServerSession) -> Result<Received> {
        let reading = session.read_body_or_idle(false);
        let first = match self.idle {
            None => reading.await,
            Some(idle) => match pingora_timeout::timeout(idle, reading).await {
                Ok(first) => first,
                Err(_) => Error::e_explain(ReadTimedout, "the body stalls"),
            },
        };
        let Some(first) = first.map_err(Error::into_down)? else {
            self.ended = true;
            return Ok(Received {
                data: Bytes::new(),
                ends: true,
            });
        };
        let data = self.gather(session, first)?;
        self.received += data.len() as u64;
        if self.received > self.limit {
            return Error::e_explain(HTTPStatus(413), "the body is larger than it may be");
        }
        self.ended = self.ended || session.is_body_done();
        Ok(Received {
            data,
            ends: self.ended,
        })
    }

    /// Adds what is there already to a small piece.
    fn gather(&mut self, session: &mut ServerSession, first: Bytes) -> Result<Bytes> {
        if !self.gathers {
            return Ok(first);
        }
        let room = 4 * first.len().clamp(LARGE / 64, LARGE / 4);
        let mut gathered = Gathered::new(first);
        while !session.is_body_done() {
            match session.read_body_or_idle(false).now_or_never() {
                None => break,
                Some(Ok(Some(more))) => {
                    gathered.push(more, room);
                    if gathered.len() >= LARGE {
                        break;
                    }
                }
                Some(Ok(None)) => {
                    self.ended = true;
                    break;
                }
                Some(Err(error)) => return Err(error.into_down()),
            }
        }
        Ok(gathered.into_bytes())
    }
}

/// How long a client may still be waited for whose body is held. Waiting uses it up and bytes give it back, never more than
/// there was: what has come fast is no reason to wait for the rest for ever.
pub(super) struct Patience {
    most: Duration,
    left: Duration,
}

impl Patience {
    pub(super) const fn new(most: Duration) -> Self {
        Self { most, left: most }
    }

    /// Whether there is some left when so many bytes have come after this time.
    fn after(&mut self, waited: Duration, bytes: usize) -> bool {
        let Some(left) = self.left.checked_sub(waited) else {
            return false;
        };
        let earned = Duration::from_millis((bytes as u64).saturating_mul(1000) / LEAST_RATE);
        self.left = self.most.min(left.saturating_add(earned));
        true
    }
}

/// How the client's side ends.
pub(super) enum Ended {
    /// The response is through.
    Complete,
    /// No more of the response comes; whoever makes it knows why.
    Cut,
    Failed(Box<Error>),
}

/// Writes what comes and reads what is wanted, until either has an end.
pub(super) async fn serve(
    session: &mut Session,
    (request, passage): (&Request, &Passage),
    mut reader: Reader,
    uploads: mpsc::Sender<Received>,
    mut tasks: mpsc::Receiver<HttpTask>,
) -> Ended {
    let mut place = None;
    let mut wants_more = true;
    // What comes behind the head of an upgrade is no request.
    let mut listens = !request.switches;
    let mut is_upgraded = false;
    loop {
        let reads = !reader.ended && wants_more;
        tokio::select! {
            biased;
            task = tasks.recv() => match task {
                None => return Ended::Cut,
                Some(task) => match write(session, (request, passage), together(task, &mut tasks)).await {
                    Ok(true) => return Ended::Complete,
                    Ok(false) => {
                        if reply::answered(session).is_some() {
                            // From here on it is the upstream that must not be silent: a conversation may have pauses.
                            reader.idle = None;
                        }
                        if session.was_upgraded() && !is_upgraded {
                            // What was a request is a conversation now; it ends with the connection.
                            is_upgraded = true;
                            session.set_read_timeout(None);
                            // Otherwise a client that reads slowly would be cut off in the middle of large frames.
                            let route = request.route.as_deref();
                            let socket = route.and_then(|route| route.websocket);
                            session.set_write_timeout(socket.map(|socket| socket.idle));
                            reader = Reader::new(u64::MAX, false, false);
                            wants_more = true;
                        }
                    }
                    Err(error) => return Ended::Failed(error.into_down()),
                },
            },
            permit = uploads.reserve(), if reads && place.is_none() => match permit {
                Ok(permit) => place = Some(permit),
                Err(_) => wants_more = false,
            },
            heard = hear(&mut session.downstream_session, &mut reader),
                if reads && place.is_some() || reader.ended && listens => match heard {
                Ok(Some(received)) => if let Some(place) = place.take() {
                    place.send(received);
                },
                Ok(None) => listens = false,
                Err(error) => return Ended::Failed(error),
            },
        }
    }
}

/// What the client sends: more of the body, or `None` when it says something where nothing was to come, which may be its next
/// request.
///
/// # Errors
/// The client has gone, is too slow, or sends more than it may.
async fn hear(session: &mut ServerSession, reader: &mut Reader) -> Result<Option<Received>> {
    if !reader.ended {
        return reader.read(session).await.map(Some);
    }
    let heard = session.read_body_or_idle(true).await;
    heard.map(|_| None).map_err(Error::into_down)
}

/// What is there already goes out in one write.
fn together(first: HttpTask, more: &mut mpsc::Receiver<HttpTask>) -> Vec<HttpTask> {
    let mut tasks = Vec::with_capacity(RESPONSE_QUEUE);
    tasks.push(first);
    while tasks.len() < RESPONSE_QUEUE
        && let Ok(task) = more.try_recv()
    {
        tasks.push(task);
    }
    tasks
}

/// Writes parts of the response; returns whether the last one was among them.
async fn write(
    session: &mut Session,
    (request, passage): (&Request, &Passage),
    mut tasks: Vec<HttpTask>,
) -> Result<bool> {
    for task in &mut tasks {
        let HttpTask::Header(head, _) = task else {
            continue;
        };
        if !head.status.is_informational() {
            frame(session, request, head)?;
        }
        if !head.status.is_informational() || head.status == 101 {
            trace::stamp(request, &passage.upstream(), head)?;
        }
    }
    let is_behind = |last: &mut HttpTask| {
        matches!(last, HttpTask::Trailer(_)) && filter::compress::is_prepared(session)
    };
    let Some(trailers) = tasks.pop_if(is_behind) else {
        return session.write_response_tasks(tasks).await;
    };
    // What is left of a compressed body has to go out before them.
    if !tasks.is_empty() {
        session.write_response_tasks(tasks).await?;
    }
    let tail = HttpTask::Body(Some(Bytes::new()), false);
    let ends = filter::compress::end_with_next(session).then_some(tail);
    let tasks = ends.into_iter().chain([trailers]).collect();
    session.write_response_tasks(tasks).await
}

fn frame(session: &mut Session, request: &Request, head: &mut ResponseHeader) -> Result<()> {
    reply::end_if_leaving(session, request);
    let client = session.req_header().version;
    let ends_connection = head::frame(head, client, &session.req_header().method)?;
    // What is left of the request's body would have to be read before the next request.
    if ends_connection || !session.is_body_done() {
        session.set_keepalive(None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d26_nobody_waits_for_ever_for_a_body_that_dribbles() {
        const SECOND: Duration = Duration::from_secs(1);
        let lasts = |first: usize, each: usize| {
            let mut patience = Patience::new(30 * SECOND);
            assert!(patience.after(SECOND, first));
            (0..10_000)
                .take_while(|_| patience.after(SECOND, each))
                .count()
        };
        // What came at first buys no time for the rest.
        assert_eq!(lasts(1, 1), 29);
        assert_eq!(lasts(100 << 20, 1), 30);
        // Somebody a little too slow lasts longer, and who is fast enough for ever.
        assert_eq!(lasts(1, 250), 57);
        assert_eq!(lasts(1, 500), 10_000);
    }
}
