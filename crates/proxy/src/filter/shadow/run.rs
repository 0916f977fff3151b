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
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What a piece of a body takes beside its bytes.
const PIECE_BYTES: usize = 256;

/// A request on its way to one shadow agent.
#[derive(Default)]
pub(super) struct Run {
    /// To the task, once there is one.
    messages: Mutex<Option<UnboundedSender<Message>>>,
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
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = messages.get_or_insert_with(|| {
            let (sender, receiver) = unbounded_channel();
            let phases = shadow.inspect.phases();
            let task = Task {
                serving: begun.serving.clone(),
                shadow: shadow.clone(),
                correlation_id: begun.identity.correlation_id().to_owned(),
                request_id: begun.identity.request_id().to_owned(),
                conversation: Conversation::with_budget(budget(shadow.used.timeout, phases))
                    .aside(shadow.yields),
                told: self.told.clone(),
            };
            tokio::spawn(task::run(task, receiver));
            sender
        });
        // The task is gone only when its worker ends.
        let _ = messages.send(message);
    }

    /// Tells the task that the request is over. Returns what the agent has to be told at once, because there is no task.
    pub(super) fn over(
        &self,
        shadow: &Shadow,
        records: &[Record],
        completed: Option<Arc<Completed>>,
    ) -> Option<Arc<Completed>> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(messages) = messages.take() else {
            return completed;
        };
        let enforced = Phase::ALL.map(|phase| (phase, shadow.enforced(records, phase)));
        let over = Over {
            enforced: enforced.to_vec(),
            completed,
        };
        let _ = messages.send(Message::Over(over));
        None
    }

    pub(super) fn lose(&self, shadow: &Shadow, why: Dropped) {
        if self.told.lose() {
            shadow.tally.dropped(why);
        }
    }
}

/// What the agent may take of a request together, as it is by default for one that is enforced alone.
fn budget(timeout: Duration, phases: u32) -> Duration {
    const MOST: Duration = Duration::from_secs(10);
    timeout.saturating_mul(phases).min(MOST.max(timeout))
}
