//! The request's body on its way: from the client through its agents to the inner pass.

use super::pipe::{Agents, End, Pieces, Pipe};
use crate::reply::Reply;
use bytes::Bytes;
use pingora::protocols::http::HttpTask;
use std::future::pending;
use tokio::sync::{mpsc, oneshot};

/// What came from the client.
pub(super) struct Received {
    pub(super) data: Bytes,
    pub(super) ends: bool,
}

/// What goes to the upstream first.
pub(super) struct Start {
    pub(super) pieces: Pieces,
    /// Nothing comes behind it.
    pub(super) ends: bool,
    /// There is no body, so nobody waits for its end.
    pub(super) is_empty: bool,
}

/// Passes the body on. Returns when an agent stops it, and never otherwise: its end of the channel to the inner pass must
/// stay open until the response is through. Without a pipe, pieces may be copied as they pass.
pub(super) async fn pass<A: Agents>(
    (mut pipe, copying): (Option<&mut Pipe<'_, A>>, Option<&A>),
    start: Start,
    mut client: mpsc::Receiver<Received>,
    inner: mpsc::Sender<HttpTask>,
    sent: oneshot::Sender<()>,
) -> Reply {
    let mut is_open = match start.is_empty {
        true => true,
        false => send(&inner, start.pieces, start.ends).await,
    };
    if let Some(pipe) = &mut pipe
        && !start.ends
    {
        // A whole body is kept for another attempt.
        pipe.let_go();
    }
    let mut ended = start.ends;
    while !ended && is_open {
        let Some(Received { data, ends }) = client.recv().await else {
            // Whoever reads from the client decides what that means.
            return pending().await;
        };
        ended = ends;
        let passed = match &mut pipe {
            Some(pipe) => match pipe.push(data, ends.then(End::default)).await {
                Ok(passed) => passed,
                Err(reply) => return reply,
            },
            None => {
                let pieces: Pieces = std::iter::once(data).collect();
                if let Some(copying) = copying {
                    copying.copy(0, &pieces, ends.then(End::default).as_ref());
                }
                pieces
            }
        };
        is_open = send(&inner, passed, ends).await;
    }
    // Nobody waits when the response is there already.
    let _ = sent.send(());
    // Only behind an upgrade something comes that is no body.
    while let Some(Received { data, ends }) = client.recv().await {
        if inner.send(HttpTask::Body(Some(data), ends)).await.is_err() {
            break;
        }
    }
    let _inner = inner;
    pending().await
}

/// Whether the inner pass is still there.
async fn send(inner: &mpsc::Sender<HttpTask>, pieces: Pieces, ends: bool) -> bool {
    let last = pieces.len();
    for (number, piece) in pieces.into_iter().enumerate() {
        let is_last = ends && number + 1 == last;
        // An empty piece would be an end of its own.
        if piece.is_empty() && !is_last {
            continue;
        }
        if inner
            .send(HttpTask::Body(Some(piece), is_last))
            .await
            .is_err()
        {
            return false;
        }
    }
    !(ends && last == 0) || inner.send(HttpTask::Body(None, true)).await.is_ok()
}
