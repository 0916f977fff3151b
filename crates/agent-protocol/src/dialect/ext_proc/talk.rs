//! One stream of gRPC, and so the dealings with the agent about one request.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::FutureExt;
use http::uri::PathAndQuery;
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::consume_budget;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::answered::{self, Outcome};
use super::messages::{ProcessingRequest, ProcessingResponse};
use super::options::ExtProcOptions;
use super::progress::Progress;
use super::told::{self, Message};
use crate::dialect::channel;
use crate::dialect::exchanges::MoreTime;
use crate::{CallError, Decision};

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// Messages that may wait to be sent. There is never more than one where answers are waited for.
const QUEUE: usize = 2;
/// The same where nobody waits for answers.
const OBSERVED_QUEUE: usize = 64;
/// How long the agent may take to end a stream that we have ended.
const TO_CLOSE: Duration = Duration::from_secs(1);
/// The same where nobody waits for answers, and it may have much to do yet. Envoy's `deferred_close_timeout`.
const TO_CLOSE_OBSERVED: Duration = Duration::from_secs(5);

/// Counts a request for as long as somebody knows of it.
#[derive(Debug)]
pub(super) struct Counted(Vec<Arc<AtomicUsize>>);

impl Counted {
    /// Counts it everywhere, unless the first has as many as it may have.
    pub(super) fn new(counters: &[&Arc<AtomicUsize>], most: usize) -> Option<Self> {
        let (first, _) = counters.split_first()?;
        if first.load(Relaxed) >= most {
            return None;
        }
        let counters = counters.iter().map(|counter| Arc::clone(counter));
        let counters: Vec<_> = counters.collect();
        for counter in &counters {
            counter.fetch_add(1, Relaxed);
        }
        Some(Self(counters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for counter in &self.0 {
            counter.fetch_sub(1, Relaxed);
        }
    }
}

/// The dealings about one request. The stream ends when this is dropped, whatever is under way on it.
pub(super) struct Talk {
    pub(super) progress: Progress,
    counted: Arc<Counted>,
    /// `None` before the first message.
    stream: Option<Stream>,
}

struct Stream {
    to_agent: mpsc::Sender<ProcessingRequest>,
    from_agent: Streaming<ProcessingResponse>,
}

impl Talk {
    pub(super) fn new(counted: Arc<Counted>) -> Self {
        Self {
            progress: Progress::default(),
            counted,
            stream: None,
        }
    }

    /// Tells the agent about an event, message by message, and waits for the answer to each. `None`: it has closed in order
    /// instead.
    ///
    /// # Errors
    /// There is no answer, or one that is none. The stream is of no use afterwards.
    pub(super) async fn ask(
        &mut self,
        channel: &Channel,
        messages: Vec<Message>,
        options: &ExtProcOptions,
        granted: Option<&MoreTime>,
    ) -> Result<Option<Outcome>, CallError> {
        let mut all: Option<Outcome> = None;
        for message in messages {
            if !self.progress.wants(&message) {
                continue;
            }
            let part = message.part;
            if !self.is_waiting()? {
                return Ok(None);
            }
            self.send(channel, message, options).await?;
            let Some(response) = self.next(options, granted).await? else {
                return Ok(None);
            };
            let outcome = answered::outcome(part, response, options, &mut self.progress)?;
            let is_final = outcome.is_final;
            all = Some(match all {
                Some(before) => before.and(outcome),
                None => outcome,
            });
            if is_final {
                break;
            }
        }
        let nothing = || Outcome::from(Decision::allow());
        Ok(Some(all.unwrap_or_else(nothing)))
    }

    /// Whether the agent is still there, and has said nothing since its last answer. What it says unasked could be taken for
    /// the answer to what it has not seen yet.
    fn is_waiting(&mut self) -> Result<bool, CallError> {
        let Some(stream) = &mut self.stream else {
            return Ok(true);
        };
        match stream.from_agent.message().now_or_never() {
            None => Ok(true),
            Some(Ok(None)) => Ok(false),
            Some(Ok(Some(_))) => Err(answered::malformed("one that nobody has asked for").into()),
            Some(Err(status)) => Err(failed(&status)),
        }
    }

    async fn send(
        &mut self,
        channel: &Channel,
        mut message: Message,
        options: &ExtProcOptions,
    ) -> Result<(), CallError> {
        match &self.stream {
            // That it is closed is seen, with the reason, where the answer is read.
            Some(stream) => drop(stream.to_agent.send(message.request).await),
            None => {
                told::first(&mut message, options);
                let (to_agent, from_us) = mpsc::channel(QUEUE);
                drop(to_agent.send(message.request).await);
                let from_agent = open(channel, from_us).await?;
                self.stream = Some(Stream {
                    to_agent,
                    from_agent,
                });
            }
        }
        Ok(())
    }

    /// The next answer; `None` when the agent has closed in order. What only asks for more time is none.
    async fn next(
        &mut self,
        options: &ExtProcOptions,
        granted: Option<&MoreTime>,
    ) -> Result<Option<ProcessingResponse>, CallError> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            let response = stream
                .from_agent
                .message()
                .await
                .map_err(|it| failed(&it))?;
            let Some(response) = response else {
                return Ok(None);
            };
            let Some(wanted) = response.override_message_timeout else {
                return Ok(Some(response));
            };
            if let (Some(time), Some(granted)) = (answered::granted(&wanted, options), granted) {
                granted.grant(time);
            }
            // Others on this thread have their turn, however many of these come.
            consume_budget().await;
        }
    }

    /// Ends the stream in order: the agent is told that there is no more, and has a moment to say the same.
    pub(super) fn close(self) {
        let Self {
            stream: Some(stream),
            counted,
            ..
        } = self
        else {
            return;
        };
        let Stream {
            to_agent,
            mut from_agent,
        } = stream;
        drop(to_agent);
        // Outside of a runtime everything ends anyway.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let _counted = counted;
            let the_end = async {
                while let Ok(Some(_)) = from_agent.message().await {
                    consume_budget().await;
                }
            };
            let _ = tokio::time::timeout(TO_CLOSE, the_end).await;
        });
    }
}

/// A stream whose answers nobody waits for. It goes on for a while after this is dropped.
#[derive(Debug)]
pub(super) struct Observed {
    to_agent: mpsc::Sender<ProcessingRequest>,
    _end: oneshot::Sender<()>,
}

impl Observed {
    /// Opens it beside the request.
    pub(super) fn new(channel: &Channel, counted: Arc<Counted>) -> Self {
        let (to_agent, from_us) = mpsc::channel(OBSERVED_QUEUE);
        let (end, ended) = oneshot::channel::<()>();
        let channel = channel.clone();
        tokio::spawn(async move {
            let _counted = counted;
            let all = async {
                let mut from_agent = open(&channel, from_us).await?;
                while from_agent
                    .message()
                    .await
                    .map_err(|it| failed(&it))?
                    .is_some()
                {
                    consume_budget().await;
                }
                Ok::<_, CallError>(())
            };
            let late = async {
                let _dropped = ended.await;
                tokio::time::sleep(TO_CLOSE_OBSERVED).await;
            };
            tokio::select! {
                outcome = all => if let Err(error) = outcome {
                    tracing::debug!(%error, "an agent that only watches cannot be told");
                },
                () = late => {}
            }
        });
        Self {
            to_agent,
            _end: end,
        }
    }

    /// Tells the agent. Whether it keeps up; when it does not, it could no longer make sense of what follows.
    pub(super) fn tell(&self, message: ProcessingRequest) -> bool {
        self.to_agent.try_send(message).is_ok()
    }
}

async fn open(
    channel: &Channel,
    mut from_us: mpsc::Receiver<ProcessingRequest>,
) -> Result<Streaming<ProcessingResponse>, CallError> {
    let outbound = futures::stream::poll_fn(move |context| from_us.poll_recv(context));
    let mut client = channel::client(channel.clone());
    let ready = client.ready().await;
    ready.map_err(|_| CallError::Closed)?;
    let path = PathAndQuery::from_static(PROCESS);
    let opened = client.streaming(Request::new(outbound), path, ProstCodec::default());
    let opened = opened.await.map_err(|status| failed(&status))?;
    Ok(opened.into_inner())
}

/// What it means that a call ended with a status. What the agent says of itself has no cause; what the connection says has.
pub(super) fn failed(status: &Status) -> CallError {
    if let Some(cause) = status.source() {
        return match is_of_stream(cause) {
            true => CallError::Lost,
            false => CallError::Closed,
        };
    }
    let said = format!("gRPC status {}: {}", status.code() as i32, status.message());
    match status.code() {
        Code::Unavailable | Code::Cancelled => CallError::Unavailable(said),
        _ => CallError::Agent(said),
    }
}

/// Whether an error ends this stream alone, and not the connection.
fn is_of_stream(cause: &(dyn Error + 'static)) -> bool {
    let mut next = Some(cause);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset();
        }
        next = error.source();
    }
    false
}
