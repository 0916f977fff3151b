//! What a call has come to, seen by whoever ends it.

use crate::failure::{Failure, FailureReason};
use portcullis_agent_protocol::{Decision, MoreTime};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

/// How far a call has come; decides what the end of its time means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Permit,
    Connection,
    /// There is a connection, and the agent wants no events on it for now.
    Paused,
    /// There are connections, and all of them have as many unanswered events as they may have.
    Room,
    Answer,
    /// The same, of an agent whose answers carry no event's number.
    LegacyAnswer,
}

/// The stage of a call, seen by whoever ends it.
#[derive(Debug)]
pub(super) struct Progress {
    stage: AtomicU8,
    /// See [`Called::is_current`](super::Called::is_current).
    is_current: AtomicBool,
    /// Where the agent may ask for more time.
    more_time: OnceLock<MoreTime>,
    /// All events of the request belong together at the agent.
    is_bound: AtomicBool,
}

impl Progress {
    pub(super) const fn new() -> Self {
        Self {
            stage: AtomicU8::new(Stage::Permit as u8),
            is_current: AtomicBool::new(false),
            more_time: OnceLock::new(),
            is_bound: AtomicBool::new(false),
        }
    }

    pub(super) fn note_bound(&self) {
        self.is_bound.store(true, Relaxed);
    }

    /// Whether the agent cannot be asked about this request any more: its late answer could be taken for another, or it has
    /// lost what it knew of the request.
    pub(super) fn gives_up(&self, result: Option<&Result<Decision, Failure>>) -> bool {
        let is_bound = self.is_bound.load(Relaxed);
        match result {
            Some(Ok(_)) => false,
            Some(Err(failure)) => {
                let reasons = [FailureReason::Unreachable, FailureReason::ProtocolError];
                is_bound && reasons.contains(&failure.reason)
            }
            None => is_bound || self.stage() == Stage::LegacyAnswer,
        }
    }

    pub(super) fn note_more_time(&self, more_time: Option<&MoreTime>) {
        if let Some(more_time) = more_time {
            // Agents that may ask for it are asked once in a call.
            let _ = self.more_time.set(more_time.clone());
        }
    }

    /// Until when the answer may take, when the agent has asked for more time.
    pub(super) fn granted(&self) -> Option<Instant> {
        self.more_time.get()?.until()
    }

    pub(super) fn reach(&self, stage: Stage) {
        self.stage.store(stage as u8, Relaxed);
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Relaxed) {
            0 => Stage::Permit,
            1 => Stage::Connection,
            2 => Stage::Paused,
            3 => Stage::Room,
            4 => Stage::Answer,
            _ => Stage::LegacyAnswer,
        }
    }

    pub(super) fn note_current(&self, is_current: bool) {
        self.is_current.store(is_current, Relaxed);
    }

    pub(super) fn is_current(&self) -> bool {
        self.is_current.load(Relaxed)
    }

    /// Whether the agent has the event.
    pub(super) fn is_answering(&self) -> bool {
        matches!(self.stage(), Stage::Answer | Stage::LegacyAnswer)
    }
}
