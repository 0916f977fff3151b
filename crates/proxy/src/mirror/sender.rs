//! Sends copies, beside the requests that they are copies of: on the thread that serves no requests, a bounded number at a time,
//! from a bounded queue.

use super::{Job, Outcome};
use crate::upstream::{UpstreamRun, connect};
use bytes::{Bytes, BytesMut};
use http::{Version, header, uri::Uri};
use pingora::{
    Error,
    ErrorType::{InternalError, InvalidHTTPHeader, ReadTimedout, TLSHandshakeFailure},
    OrErr, Result,
    connectors::{ConnectorOptions, http::Connector},
    http::RequestHeader,
    protocols::http::client::HttpSession,
    upstreams::peer::{HttpPeer, Peer},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};

/// Copies that wait.
const QUEUE: usize = 1024;
/// Copies under way.
const MOST_AT_ONCE: usize = 64;
/// Of an answer that is thrown away; a longer one ends the connection.
const MOST_ANSWER_BYTES: usize = 1 << 20;
/// A connection that nobody uses is kept for so long.
const KEPT: Duration = Duration::from_secs(60);
/// The longest that one copy takes, whatever the upstream's own waits are.
const LONGEST: Duration = Duration::from_secs(60);

/// The queue.
#[derive(Debug, Clone)]
pub(crate) struct Sender(mpsc::Sender<Job>);

/// There is no room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Sender {
    /// Starts to send, in the runtime that calls it, until the last of these is gone. The file has the authorities that are
    /// believed where an upstream names none.
    pub(crate) fn start(authorities: &str) -> Self {
        let (sender, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(jobs, authorities.to_owned()));
        Self(sender)
    }

    /// # Errors
    /// See [`Full`].
    pub(crate) fn send(&self, job: Job) -> Result<(), Full> {
        self.0.try_send(job).map_err(|_| Full)
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

async fn send_all(mut jobs: mpsc::Receiver<Job>, authorities: String) {
    // It reads the authorities, and most configurations copy nothing.
    let mut connector = None;
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    while let Some(job) = jobs.recv().await {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let connector = connector.get_or_insert_with(|| {
            let settings = connect::settings(&authorities);
            let options = ConnectorOptions::from_server_conf(&settings);
            Arc::new(Connector::new(Some(options)))
        });
        let connector = connector.clone();
        tokio::spawn(async move {
            let sent = tokio::time::timeout(LONGEST, send(&connector, &job)).await;
            let sent = sent.unwrap_or_else(|_| Error::e_explain(ReadTimedout, "it takes too long"));
            let outcome = match sent {
                Ok(()) => Outcome::Answered,
                Err(error) => {
                    let upstream = job.mirror.upstream.id.as_str();
                    tracing::debug!(upstream, %error, "a copy of a request got no answer");
                    Outcome::Failed
                }
            };
            job.mirror.metrics.count(outcome);
            drop(place);
        });
    }
}

async fn send(connector: &Connector, job: &Job) -> Result<()> {
    // The upstream's own waits hold.
    let timeouts = job.mirror.upstream.timeouts;
    let upstream = &job.mirror.upstream;
    // It counts as a request of its target until it is over.
    let run = UpstreamRun::between(job.copy.ends);
    let (_attempt, peer) = upstream.pick(timeouts, false, Instant::now(), &run)?;
    let (mut session, _) = connector.get_http_session(&*peer).await?;
    session.set_read_timeout(Some(timeouts.response_header));
    session.set_write_timeout(Some(timeouts.idle));
    let body = joined(&job.copy.body);
    let mut head = Box::new(job.copy.head.clone());
    if let HttpSession::H2(session) = &mut session {
        for_http2(&mut head, peer.tls())?;
        // The end of a request without a body is in its head.
        session.write_request_header(head, body.is_empty())?;
        if !body.is_empty() {
            session.write_request_body(body, true).await?;
        }
    } else if upstream.is_http2() {
        // It would be another protocol than what is configured.
        return Error::e_explain(TLSHandshakeFailure, "the target does not agree to HTTP/2");
    } else {
        head.set_version(Version::HTTP_11);
        session.write_request_header(head).await?;
        if !body.is_empty() {
            session.write_request_body(body, true).await?;
        }
        session.finish_request_body().await?;
    }
    throw_away(connector, session, &peer).await
}

/// Reads the answer, so that the connection can be used again.
async fn throw_away(
    connector: &Connector,
    mut session: HttpSession,
    peer: &HttpPeer,
) -> Result<()> {
    session.read_response_header().await?;
    while is_informational(&session) {
        session.read_response_header().await?;
    }
    let mut read = 0;
    while let Some(piece) = session.read_response_body().await? {
        read += piece.len();
        if read > MOST_ANSWER_BYTES {
            session.shutdown().await;
            return Ok(());
        }
    }
    connector
        .release_http_session(session, peer, Some(KEPT))
        .await;
    Ok(())
}

fn is_informational(session: &HttpSession) -> bool {
    let head = session.response_header();
    head.is_some_and(|head| head.status.is_informational() && head.status != 101)
}

fn joined(pieces: &[Bytes]) -> Bytes {
    if let [one] = pieces {
        return one.clone();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

/// HTTP/2 names the host outside of the header fields.
fn for_http2(head: &mut RequestHeader, is_secure: bool) -> Result<()> {
    let host = head
        .headers
        .get(header::HOST)
        .map(|host| host.as_bytes().to_vec());
    let Some(host) = host else {
        return Error::e_explain(InvalidHTTPHeader, "a request without a host");
    };
    let target = head.raw_path().to_vec();
    let uri = Uri::builder()
        .scheme(if is_secure { "https" } else { "http" })
        .authority(host)
        .path_and_query(target)
        .build()
        .or_err(InternalError, "a target that is no URI")?;
    head.set_uri(uri);
    head.remove_header(&header::HOST);
    head.set_version(Version::HTTP_2);
    Ok(())
}
