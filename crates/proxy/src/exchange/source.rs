//! Where the response of an exchange comes from: an inner pass to the upstream, or a file.

use crate::files::FileAnswer;
use pingora::{
    protocols::http::{HttpTask, subrequest::server::SubrequestHandle},
    proxy::PreparedSubrequest,
};
use tokio::sync::{mpsc, oneshot};

/// Parts of a file that may wait for agents.
const QUEUE: usize = 2;

/// See the module.
pub(super) enum Source {
    Upstream(PreparedSubrequest),
    File(Box<FileSource>),
}

/// A file, and the other ends of the channels.
pub(super) struct FileSource {
    answer: FileAnswer,
    out: mpsc::Sender<HttpTask>,
    /// Nobody reads the request's body; it is open so that whoever sends it can.
    body: mpsc::Receiver<HttpTask>,
}

impl Source {
    /// A source that takes the place of an inner pass.
    pub(super) fn of_file(answer: FileAnswer) -> (Self, SubrequestHandle) {
        let (tx, body) = mpsc::channel(QUEUE);
        let (out, rx) = mpsc::channel(QUEUE);
        // Neither is ever said.
        let (_, subreq_wants_body) = oneshot::channel();
        let (_, subreq_proxy_error) = oneshot::channel();
        let handle = SubrequestHandle {
            tx,
            rx,
            subreq_wants_body,
            subreq_proxy_error,
        };
        (
            Self::File(Box::new(FileSource { answer, out, body })),
            handle,
        )
    }

    /// Makes the response.
    pub(super) async fn run(self) {
        match self {
            Self::Upstream(prepared) => prepared.run().await,
            Self::File(mut file) => file.run().await,
        }
    }
}

impl FileSource {
    async fn run(&mut self) {
        let Self { answer, out, body } = self;
        let drained = async { while body.recv().await.is_some() {} };
        tokio::select! {
            () = send(answer, out) => {}
            // The request is over before its response.
            () = drained => {}
        }
    }
}

/// Sends a whole response, or as much as somebody takes.
async fn send(answer: &mut FileAnswer, out: &mpsc::Sender<HttpTask>) {
    let head = Box::new(answer.head.clone());
    if out.send(HttpTask::Header(head, false)).await.is_err() {
        return;
    }
    while let Some(body) = &mut answer.body {
        let task = match body.next().await {
            Ok(Some(piece)) => HttpTask::Body(Some(piece), false),
            Ok(None) => break,
            Err(error) => {
                let _ = out.send(HttpTask::Failed(error)).await;
                return;
            }
        };
        if out.send(task).await.is_err() {
            return;
        }
    }
    // Whoever is gone wants no end.
    let _ = out.send(HttpTask::Done).await;
}
