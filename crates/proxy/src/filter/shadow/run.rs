//! A request on its way to one shadow agent: what is copied, and what there is no room for.

use super::{
    Shadow,
    copies::{Frame, Hold, Message, Over},
    tally::Dropped,
    task::{self, Task, Told},
};
use crate::{
    exchange::{memory::Held, pipe::End},
    filter::Direction,
    request::Begun,
};
use bytes::Bytes;
use portcullis_agent_manager::{Completed, Conversation, Phase, Record};
use portcullis_agent_protocol::WebSocketFrame;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{
    mpsc::{UnboundedSender, unbounded_channel},
    oneshot,
};

/// What a piece of a body takes beside its bytes.
const PIECE_BYTES: usize = 256;

/// How much later than the time of its last question a task ends, so that one without an answer is still a timeout.
const SLACK: Duration = Duration::from_millis(500);

/// What leads to a task.
struct Line {
    messages: UnboundedSender<Message>,
    /// Nothing is ever sent: its end is that of the request, which the task sees before it has come to the last message.
    _request: oneshot::Sender<()>,
}

/// A request on its way to one shadow agent.
#[derive(Default)]
pub(super) struct Run {
    /// To the task, once there is one.
    line: Mutex<Option<Line>>,
    pub(super) told: Arc<Told>,
}

impl Run {
    /// Room for a head; without it the agent is shown no more of this request.
    pub(super) fn hold(&self, shadow: &Shadow, bytes: usize, begun: &Begun) -> Option<Hold> {
        let Ok(slot) = shadow.slots.clone().try_acquire_owned() else {
            self.lose(shadow, Dropped::Calls);
            return None;
        };
        let held = self.held(shadow, bytes, begun)?;
        Some(Hold {
            _slot: slot,
            _held: held,
        })
    }

    fn held(&self, shadow: &Shadow, bytes: usize, begun: &Begun) -> Option<Held> {
        let mut held = Held::new(&begun.snapshot().copies);
        if held.add(bytes).is_err() {
            self.lose(shadow, Dropped::Memory);
            return None;
        }
        Some(held)
    }

    pub(super) fn send_piece(
        &self,
        shadow: &Arc<Shadow>,
        direction: Direction,
        data: Bytes,
        end: Option<End>,
        begun: &Begun,
    ) {
        if !self.told.goes_on() {
            return;
        }
        if let Some(held) = self.held(shadow, data.len() + PIECE_BYTES, begun) {
            self.send(shadow, Message::Piece(direction, data, end, held), begun);
        }
    }

    pub(super) fn send_frame(
        &self,
        shadow: &Arc<Shadow>,
        frame: &WebSocketFrame<'_>,
        begun: &Begun,
    ) {
        if let Some(held) = self.held(shadow, frame.data.len() + PIECE_BYTES, begun) {
            self.send(shadow, Message::Frame(Frame::of(frame), held), begun);
        }
    }

    /// Hands it to the task, which begins with the first message. It never waits: what may be in the queue is bounded by
    /// slots and memory.
    pub(super) fn send(&self, shadow: &Arc<Shadow>, message: Message, begun: &Begun) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let line = line.get_or_insert_with(|| {
            let (messages, receiver) = unbounded_channel();
            let (request, over) = oneshot::channel();
            let budget = budget(shadow.used.timeout, shadow.inspect.phases());
            let task = Task {
                serving: begun.serving.clone(),
                shadow: shadow.clone(),
                correlation_id: begun.identity.correlation_id().to_owned(),
                request_id: begun.identity.request_id().to_owned(),
                conversation: Conversation::with_budget(budget).aside(shadow.yields),
                told: self.told.clone(),
            };
            let end = async move {
                let _ = over.await;
                tokio::time::sleep(budget + SLACK).await;
            };
            tokio::spawn(task::run(task, receiver, end));
            Line {
                messages,
                _request: request,
            }
        });
        // The task is gone only when its worker ends.
        let _ = line.messages.send(message);
    }

    /// Tells the task that the request is over. Returns what the agent has to be told at once, because there is no task.
    pub(super) fn over(
        &self,
        shadow: &Shadow,
        records: &[Record],
        completed: Option<Arc<Completed>>,
    ) -> Option<Arc<Completed>> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = line.take() else {
            return completed;
        };
        let enforced = Phase::ALL.map(|phase| (phase, shadow.enforced(records, phase)));
        let over = Over {
            enforced: enforced.to_vec(),
            completed,
        };
        let _ = line.messages.send(Message::Over(over));
        None
    }

    pub(super) fn lose(&self, shadow: &Shadow, why: Dropped) {
        if self.told.lose() {
            shadow.tally.dropped(why);
        }
    }
}

/// What the agent may take of a request together, as it is by default for one that is enforced alone; and how long it is
/// asked on when the request is over.
fn budget(timeout: Duration, phases: u32) -> Duration {
    const MOST: Duration = Duration::from_secs(10);
    timeout.saturating_mul(phases).min(MOST.max(timeout))
}
