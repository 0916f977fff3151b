//! The table of calls: which events are unanswered, and who waits for them.
//!
//! An event has a slot from the moment it is queued until its answer has been
//! fetched, or, when nobody waits any longer, until its late answer has come.
//! Slots are used again, each time with the next *generation*; slot and
//! generation together are the number that goes over the wire, so the answer
//! to an earlier use of a slot is never taken for that of a later one.
//! Legacy peers know no numbers; for them a map leads from the correlation
//! id to the slot.
//!
//! An event that was cancelled is never answered, unless its answer was under
//! way already. Its slot is free at once, and remembers the generation: an
//! answer to this use or to an earlier one is late, not an error.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};

use crate::codec::EventId;
use crate::error::shown;
use crate::{CallError, CallGuard, Decision, ProtocolError};

/// What a call ends with.
pub(super) type Outcome = Result<Decision, CallError>;

/// Numbers stay below 2^53, so that JSON readers that know only floating
/// point keep them: 20 bits of slot, 33 of generation.
const SLOT_BITS: u32 = 20;
const SLOTS: usize = 1 << SLOT_BITS;
const GENERATIONS: u64 = 1 << 33;

/// A use of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallId {
    slot: u32,
    generation: u64,
}

impl CallId {
    /// The number that goes over the wire; never 0.
    pub(super) fn number(self) -> u64 {
        self.generation << SLOT_BITS | u64::from(self.slot)
    }

    fn from_number(number: u64) -> Self {
        Self {
            slot: (number % SLOTS as u64) as u32,
            generation: number >> SLOT_BITS,
        }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    state: SlotState,
    /// Held while the event is unanswered.
    guard: CallGuard,
    /// Written only for peers that understand Cancel, which says it. Kept
    /// for its memory when the slot is free.
    correlation_id: String,
    /// The generation that was cancelled last; 0 is none.
    cancelled: u64,
}

#[derive(Debug)]
enum SlotState {
    Free,
    Waiting(Option<Waker>),
    /// Nobody waits any longer, and the answer has not come.
    Forgotten,
    Done(Outcome),
}

/// What an ended call leaves to be done after the lock has been released,
/// because it runs code of others.
#[derive(Debug)]
#[must_use = "somebody may wait for it"]
pub(super) struct Ended {
    guard: CallGuard,
    waker: Option<Waker>,
}

impl Ended {
    /// Lets go of the guard, and then wakes who waits: when the answer is
    /// seen, the guard is gone.
    pub(super) fn release(self) {
        drop(self.guard);
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

#[derive(Debug)]
pub(super) struct CallTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_correlation: Option<HashMap<String, u32>>,
    cancellable: bool,
    max_unanswered: usize,
    waiting: usize,
    forgotten: usize,
    late_answers: u64,
}

impl CallTable {
    /// An empty table, for a peer that knows numbers or for one that does
    /// not, and that understands Cancel or does not.
    pub(super) fn new(by_number: bool, cancellable: bool, max_unanswered: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_correlation: (!by_number).then(HashMap::new),
            cancellable,
            max_unanswered,
            waiting: 0,
            forgotten: 0,
            late_answers: 0,
        }
    }

    /// How many calls are being waited for.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many events have not been answered, waited for or not.
    pub(super) fn unanswered(&self) -> usize {
        self.waiting + self.forgotten
    }

    /// How many answers came when nobody waited any longer.
    pub(super) fn late_answers(&self) -> u64 {
        self.late_answers
    }

    /// Makes room for a call that will be waited for. Its guard is given to
    /// it with [`hold`](Self::hold) when its event has been queued.
    pub(super) fn insert(&mut self, correlation_id: &str) -> Result<CallId, CallError> {
        if self.unanswered() >= self.max_unanswered {
            return Err(CallError::OutboundFull);
        }
        let taken = |map: &HashMap<String, u32>| map.contains_key(correlation_id);
        if self.by_correlation.as_ref().is_some_and(taken) {
            return Err(CallError::DuplicateOutstanding);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < SLOTS => {
                self.slots.push(Slot {
                    generation: 0,
                    state: SlotState::Free,
                    guard: CallGuard::none(),
                    correlation_id: String::new(),
                    cancelled: 0,
                });
                (self.slots.len() - 1) as u32
            }
            None => return Err(CallError::OutboundFull),
        };
        if let Some(map) = &mut self.by_correlation {
            map.insert(correlation_id.to_owned(), slot);
        }
        self.waiting += 1;
        let place = &mut self.slots[slot as usize];
        // Generation 0 is left out: its number in slot 0 is the configuration.
        place.generation = (place.generation + 1) % GENERATIONS;
        place.generation = place.generation.max(1);
        place.state = SlotState::Waiting(None);
        if self.cancellable {
            place.correlation_id.clear();
            place.correlation_id.push_str(correlation_id);
        }
        Ok(CallId {
            slot,
            generation: place.generation,
        })
    }

    /// Gives a call what it holds until it is answered.
    pub(super) fn hold(&mut self, id: CallId, guard: CallGuard) {
        self.slots[id.slot as usize].guard = guard;
    }

    /// Takes a call back whose event was never queued.
    pub(super) fn remove(&mut self, id: CallId, correlation_id: &str) {
        if let Some(map) = &mut self.by_correlation {
            map.remove(correlation_id);
        }
        self.waiting -= 1;
        self.release(id.slot);
    }

    /// Ends a call with what came for it.
    ///
    /// # Errors
    /// When no such event is unanswered.
    pub(super) fn complete(
        &mut self,
        id: EventId,
        outcome: Outcome,
    ) -> Result<Ended, ProtocolError> {
        let Some(slot) = self.find(&id) else {
            if self.was_cancelled(&id) {
                self.late_answers += 1;
                let guard = CallGuard::none();
                return Ok(Ended { guard, waker: None });
            }
            let id = match id {
                EventId::Number(number) => number.to_string(),
                EventId::Correlation(id) => shown(&id),
            };
            return Err(ProtocolError::UnknownEvent { id });
        };
        let place = &mut self.slots[slot as usize];
        let guard = std::mem::take(&mut place.guard);
        if let SlotState::Waiting(waker) = &mut place.state {
            let waker = waker.take();
            place.state = SlotState::Done(outcome);
            self.waiting -= 1;
            return Ok(Ended { guard, waker });
        }
        self.late_answers += 1;
        self.forgotten -= 1;
        self.release(slot);
        Ok(Ended { guard, waker: None })
    }

    /// Fetches what a call ended with.
    pub(super) fn poll(&mut self, id: CallId, cx: &mut Context<'_>) -> Poll<Outcome> {
        let state = &mut self.slots[id.slot as usize].state;
        if let SlotState::Waiting(waker) = state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match self.release(id.slot) {
            SlotState::Done(outcome) => Poll::Ready(outcome),
            // Cannot be while its `PendingAnswer` lives, which owns the slot.
            _ => Poll::Ready(Err(CallError::Closed)),
        }
    }

    /// Whether the answer to a call is outstanding.
    pub(super) fn is_waiting(&self, id: CallId) -> bool {
        matches!(self.slots[id.slot as usize].state, SlotState::Waiting(_))
    }

    /// The correlation id of a call whose answer is outstanding and that the
    /// peer would cancel.
    pub(super) fn cancellable(&self, id: CallId) -> Option<&str> {
        let place = &self.slots[id.slot as usize];
        (self.cancellable && self.is_waiting(id)).then_some(&*place.correlation_id)
    }

    /// Stops waiting for a call.
    pub(super) fn forget(&mut self, id: CallId) {
        if self.is_waiting(id) {
            self.slots[id.slot as usize].state = SlotState::Forgotten;
            self.waiting -= 1;
            self.forgotten += 1;
        } else {
            self.release(id.slot);
        }
    }

    /// Stops waiting for a call whose Cancel has been queued, and gives back
    /// its guard: the peer works on it no longer.
    pub(super) fn cancel(&mut self, id: CallId) -> CallGuard {
        let place = &mut self.slots[id.slot as usize];
        let guard = std::mem::take(&mut place.guard);
        if self.by_correlation.is_some() {
            // The id stays taken: an answer under way could not be told from
            // that to another event with it.
            self.forget(id);
        } else {
            place.cancelled = id.generation;
            self.waiting -= 1;
            self.release(id.slot);
        }
        guard
    }

    /// Ends all calls with this error.
    pub(super) fn fail_all(&mut self, error: &CallError) -> Vec<Ended> {
        let mut ended = Vec::with_capacity(self.unanswered());
        for index in 0..self.slots.len() {
            let place = &mut self.slots[index];
            let waker = match &mut place.state {
                SlotState::Waiting(waker) => waker.take(),
                SlotState::Forgotten => None,
                SlotState::Free | SlotState::Done(_) => continue,
            };
            let guard = std::mem::take(&mut place.guard);
            ended.push(Ended { guard, waker });
            match place.state {
                SlotState::Waiting(_) => place.state = SlotState::Done(Err(error.clone())),
                _ => drop(self.release(index as u32)),
            }
        }
        (self.waiting, self.forgotten) = (0, 0);
        if let Some(map) = &mut self.by_correlation {
            map.clear();
        }
        ended
    }

    // Only a slot with an unanswered event counts as found.
    fn find(&mut self, id: &EventId) -> Option<u32> {
        let slot = match (id, &mut self.by_correlation) {
            (EventId::Correlation(id), Some(map)) => map.remove(id)?,
            (EventId::Number(number), None) => {
                let id = CallId::from_number(*number);
                let generation = self.slots.get(id.slot as usize)?.generation;
                (generation == id.generation).then_some(id.slot)?
            }
            _ => return None,
        };
        let state = &self.slots[slot as usize].state;
        matches!(state, SlotState::Waiting(_) | SlotState::Forgotten).then_some(slot)
    }

    // Whether the answer comes after the event was cancelled. The slot may
    // have been used and cancelled again since.
    fn was_cancelled(&self, id: &EventId) -> bool {
        let EventId::Number(number) = id else {
            return false;
        };
        let id = CallId::from_number(*number);
        let place = self.slots.get(id.slot as usize);
        place.is_some_and(|place| (1..=place.cancelled).contains(&id.generation))
    }

    fn release(&mut self, slot: u32) -> SlotState {
        self.free.push(slot);
        std::mem::replace(&mut self.slots[slot as usize].state, SlotState::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(id: CallId) -> EventId {
        EventId::Number(id.number())
    }

    fn correlation(id: &str) -> EventId {
        EventId::Correlation(id.to_owned())
    }

    fn poll(table: &mut CallTable, id: CallId) -> Poll<Outcome> {
        table.poll(id, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_number_names_one_use_of_a_slot() {
        let mut table = CallTable::new(true, false, 10);
        let first = table.insert("c").unwrap();
        assert!(poll(&mut table, first).is_pending());
        assert!(table.complete(number(first), Ok(Decision::allow())).is_ok());
        let again = table.complete(number(first), Ok(Decision::allow()));
        assert!(again.is_err(), "a second answer is not an answer");
        assert_eq!(poll(&mut table, first), Poll::Ready(Ok(Decision::allow())));
        let second = table.insert("c").unwrap();
        assert_eq!(first.slot, second.slot);
        assert!(
            table
                .complete(number(first), Ok(Decision::block(403)))
                .is_err()
        );
        assert!(poll(&mut table, second).is_pending());
        assert_eq!(
            (table.waiting(), table.unanswered(), table.late_answers()),
            (1, 1, 0)
        );
    }

    #[test]
    fn numbers_fit_into_floating_point_and_are_never_zero() {
        let largest = CallId {
            slot: SLOTS as u32 - 1,
            generation: GENERATIONS - 1,
        };
        assert_eq!(largest.number(), (1 << 53) - 1);
        assert_eq!(CallId::from_number(largest.number()), largest);
        let mut table = CallTable::new(true, false, 10);
        assert_eq!(table.insert("c").unwrap().number(), 1 << SLOT_BITS);
        table.slots[0].generation = GENERATIONS - 1;
        drop(table.fail_all(&CallError::Closed));
        table.release(0);
        assert_eq!(table.insert("c").unwrap().number(), 1 << SLOT_BITS);
    }

    #[test]
    fn d12_a_late_answer_is_counted_and_given_to_nobody() {
        for by_number in [true, false] {
            let mut table = CallTable::new(by_number, false, 10);
            let late = table.insert("late").unwrap();
            let other = table.insert("other").unwrap();
            assert!(table.is_waiting(late));
            table.forget(late);
            assert_eq!((table.waiting(), table.unanswered()), (1, 2));
            let id = if by_number {
                number(late)
            } else {
                correlation("late")
            };
            let ended = table.complete(id, Ok(Decision::block(403))).unwrap();
            assert!(ended.waker.is_none());
            assert!(poll(&mut table, other).is_pending());
            assert_eq!((table.unanswered(), table.late_answers()), (1, 1));
            let third = table.insert("late").unwrap();
            assert_eq!(third.slot, late.slot);
            assert!(poll(&mut table, third).is_pending());
        }
    }

    #[test]
    fn a_legacy_id_is_outstanding_once() {
        let mut table = CallTable::new(false, false, 10);
        let first = table.insert("c").unwrap();
        assert_eq!(table.insert("c"), Err(CallError::DuplicateOutstanding));
        table.remove(first, "c");
        let second = table.insert("c").unwrap();
        assert!(
            table
                .complete(correlation("d"), Ok(Decision::allow()))
                .is_err()
        );
        assert!(
            table
                .complete(number(second), Ok(Decision::allow()))
                .is_err()
        );
        assert!(
            table
                .complete(correlation("c"), Ok(Decision::allow()))
                .is_ok()
        );
        assert!(
            table
                .complete(correlation("c"), Ok(Decision::allow()))
                .is_err()
        );
        assert_eq!(poll(&mut table, second), Poll::Ready(Ok(Decision::allow())));
    }

    #[test]
    fn unanswered_events_are_bounded() {
        let mut table = CallTable::new(true, false, 2);
        let first = table.insert("1").unwrap();
        table.forget(first);
        assert!(table.insert("2").is_ok());
        assert_eq!(table.insert("3"), Err(CallError::OutboundFull));
        let ended = table.complete(number(first), Ok(Decision::allow()));
        ended.unwrap().release();
        assert!(table.insert("3").is_ok());
    }

    #[test]
    fn an_answer_that_crosses_a_cancel_is_late() {
        let mut table = CallTable::new(true, true, 10);
        let mut cancelled = Vec::new();
        for generation in 1..=3 {
            let call = table.insert("c").unwrap();
            assert_eq!((call.slot, call.generation), (0, generation));
            assert_eq!(table.cancellable(call), Some("c"));
            drop(table.cancel(call));
            assert_eq!((table.waiting(), table.unanswered()), (0, 0));
            cancelled.push(call);
        }
        let answered = table.insert("d").unwrap();
        let allow = || Ok(Decision::allow());
        for (count, call) in cancelled.iter().enumerate() {
            assert!(table.complete(number(*call), allow()).is_ok());
            assert_eq!(table.late_answers(), count as u64 + 1);
            assert!(poll(&mut table, answered).is_pending());
        }
        assert!(table.complete(number(answered), allow()).is_ok());
        assert_eq!(table.cancellable(answered), None);
        // What was not cancelled is as strict as ever.
        assert!(table.complete(number(answered), allow()).is_err());
        for never in [0, 1, 5 << SLOT_BITS, 1 << SLOT_BITS | 1, u64::MAX] {
            let id = EventId::Number(never);
            assert!(table.complete(id, allow()).is_err(), "{never}");
        }
        assert_eq!(table.late_answers(), 3);
    }

    #[test]
    fn a_legacy_id_stays_taken_after_a_cancel() {
        let mut table = CallTable::new(false, true, 10);
        let call = table.insert("c").unwrap();
        drop(table.cancel(call));
        assert_eq!((table.waiting(), table.unanswered()), (0, 1));
        assert_eq!(table.insert("c"), Err(CallError::DuplicateOutstanding));
        let late = table.complete(correlation("c"), Ok(Decision::allow()));
        assert!(late.unwrap().waker.is_none());
        assert_eq!((table.unanswered(), table.late_answers()), (0, 1));
        assert!(table.insert("c").is_ok());
    }

    #[test]
    fn failing_all_leaves_nothing_unanswered() {
        let mut table = CallTable::new(false, false, 10);
        let [waiting, forgotten, done] = ["1", "2", "3"].map(|id| table.insert(id).unwrap());
        table.forget(forgotten);
        let ended = table.complete(correlation("3"), Ok(Decision::allow()));
        ended.unwrap().release();
        assert_eq!(table.fail_all(&CallError::Closed).len(), 2);
        assert_eq!((table.waiting(), table.unanswered()), (0, 0));
        assert_eq!(
            poll(&mut table, waiting),
            Poll::Ready(Err(CallError::Closed))
        );
        table.forget(done);
        assert_eq!(table.free.len(), 3);
    }
}
