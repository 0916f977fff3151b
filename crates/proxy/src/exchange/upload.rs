//! The request's body on its way: from the client through its agents to the inner pass.

use super::{
    pipe::{Agents, End, Pieces, Pipe},
    tunnel::Upload,
};
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
    switched: Option<oneshot::Sender<Upload>>,
) -> Reply {
    let is_open = match start.is_empty {
        true => true,
        false => send(&inner, start.pieces, start.ends).await,
    };
    if let Some(pipe) = &mut pipe
        && !start.ends
    {
        // A whole body is kept for another attempt.
        pipe.let_go();
    }
    if !start.ends && is_open {
        // Requests without a body shall not be larger for this.
        let rest = Box::pin(pass_rest((pipe, copying), &mut client, &inner)).await;
        if let Err(reply) = rest {
            return reply;
        }
    }
    // Nobody waits when the response is there already.
    let _ = sent.send(());
    if let Some(switched) = switched {
        // Whoever carries the frames takes over. Nobody does when the upstream does not switch and its response is through.
        let _handed_back = switched.send(Upload { client, inner });
        return pending().await;
    }
    // Only behind an upgrade something comes that is no body.
    while let Some(Received { data, ends }) = client.recv().await {
        if inner.send(HttpTask::Body(Some(data), ends)).await.is_err() {
            break;
        }
    }
    let _inner = inner;
    pending().await
}

/// Passes on what is still to come from the client, as long as the inner pass takes it.
///
/// # Errors
/// An agent stops it.
async fn pass_rest<A: Agents>(
    (mut pipe, copying): (Option<&mut Pipe<'_, A>>, Option<&A>),
    client: &mut mpsc::Receiver<Received>,
    inner: &mpsc::Sender<HttpTask>,
) -> Result<(), Reply> {
    loop {
        let Some(Received { data, ends }) = client.recv().await else {
            // Whoever reads from the client decides what that means.
            return pending().await;
        };
        let passed = match &mut pipe {
            Some(pipe) => pipe.push(data, ends.then(End::default)).await?,
            None => {
                let pieces: Pieces = std::iter::once(data).collect();
                if let Some(copying) = copying {
                    copying.copy(0, &pieces, ends.then(End::default).as_ref());
                }
                pieces
            }
        };
        if !send(inner, passed, ends).await || ends {
            return Ok(());
        }
    }
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
