//! One question for many: who asks first asks for all who come while there is no answer.

use std::{
    collections::{HashMap, hash_map::RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::watch;

/// What has become of a question, for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is a verdict for all.
    Kept,
    /// The answer was for whoever asked, alone.
    Alone,
    /// There is no answer, which is the agent's fault.
    Failed,
}

/// The questions that are being asked, by their keys.
pub(super) struct Flights {
    by_key: HashMap<Box<[u8]>, Asked, RandomState>,
    most: usize,
}

/// A question that has no answer yet.
struct Asked {
    /// Of the [`Leader`].
    number: u64,
    ended: watch::Receiver<Option<End>>,
}

/// A place among those who wait for a question of another.
pub(super) struct Flight(watch::Receiver<Option<End>>);

/// Whoever asks, and [leaves](Flights::leave) when that is over. When it is dropped without an end, the others know that there
/// is no answer.
pub(super) struct Leader {
    number: u64,
    ended: watch::Sender<Option<End>>,
}

pub(super) enum Entered {
    Lead(Leader),
    Join(Flight),
    /// There are too many questions for others to wait for this one.
    Alone,
}

impl Flights {
    /// At most so many questions at once are waited for.
    pub(super) fn new(most: usize) -> Self {
        Self {
            by_key: HashMap::with_hasher(RandomState::new()),
            most,
        }
    }

    pub(super) fn enter(&mut self, key: &[u8]) -> Entered {
        /// Tells the questions of the process apart.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if let Some(asked) = self.by_key.get(key) {
            return Entered::Join(Flight(asked.ended.clone()));
        }
        if self.by_key.len() >= self.most {
            return Entered::Alone;
        }
        let number = NUMBER.fetch_add(1, Relaxed);
        let (sender, ended) = watch::channel(None);
        self.by_key.insert(key.into(), Asked { number, ended });
        Entered::Lead(Leader {
            number,
            ended: sender,
        })
    }

    /// Nobody joins this question any more.
    pub(super) fn leave(&mut self, key: &[u8], leader: &Leader) {
        // Another may have taken its place.
        let same = |asked: &Asked| asked.number == leader.number;
        if self.by_key.get(key).is_some_and(same) {
            self.by_key.remove(key);
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_key.clear();
    }
}

impl Flight {
    /// Waits for the end; `None` when there is no answer. The caller bounds the wait.
    pub(super) async fn end(&mut self) -> Option<End> {
        let ended = self.0.wait_for(Option::is_some).await;
        ended.ok().and_then(|end| *end)
    }
}

impl Leader {
    /// Whether anybody waits, once it has left.
    pub(super) fn is_waited_for(&self) -> bool {
        self.ended.receiver_count() > 0
    }

    pub(super) fn end(self, end: End) {
        self.ended.send_replace(Some(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn lead(flights: &mut Flights, key: &[u8]) -> Leader {
        match flights.enter(key) {
            Entered::Lead(leader) => leader,
            Entered::Join(_) | Entered::Alone => panic!("somebody else asks"),
        }
    }

    fn join(flights: &mut Flights, key: &[u8]) -> Flight {
        match flights.enter(key) {
            Entered::Join(flight) => flight,
            Entered::Lead(_) | Entered::Alone => panic!("nobody asks"),
        }
    }

    #[test]
    fn others_wait_for_the_first() {
        let mut flights = Flights::new(10);
        let leader = lead(&mut flights, b"a");
        let mut first = join(&mut flights, b"a");
        let mut second = join(&mut flights, b"a");
        let other = lead(&mut flights, b"b");
        assert!(first.end().now_or_never().is_none());
        flights.leave(b"a", &leader);
        assert!(leader.is_waited_for());
        leader.end(End::Kept);
        for flight in [&mut first, &mut second] {
            assert_eq!(flight.end().now_or_never(), Some(Some(End::Kept)));
        }
        flights.leave(b"b", &other);
        assert!(!other.is_waited_for());
    }

    #[test]
    fn one_that_is_given_up_ends_for_all_and_makes_room() {
        let mut flights = Flights::new(10);
        let leader = lead(&mut flights, b"a");
        let mut waiting = join(&mut flights, b"a");
        flights.leave(b"a", &leader);
        drop(leader);
        assert_eq!(waiting.end().now_or_never(), Some(None));
        let next = lead(&mut flights, b"a");
        let mut waiting = join(&mut flights, b"a");
        next.end(End::Alone);
        assert_eq!(waiting.end().now_or_never(), Some(Some(End::Alone)));
    }

    #[test]
    fn there_are_not_more_than_the_bound() {
        let mut flights = Flights::new(1);
        let leader = lead(&mut flights, b"a");
        assert!(matches!(flights.enter(b"b"), Entered::Alone));
        assert!(matches!(flights.enter(b"a"), Entered::Join(_)));
        flights.leave(b"a", &leader);
        lead(&mut flights, b"b");
    }

    #[test]
    fn one_that_was_forgotten_does_not_end_its_successor() {
        let mut flights = Flights::new(10);
        let old = lead(&mut flights, b"a");
        flights.clear();
        let new = lead(&mut flights, b"a");
        flights.leave(b"a", &old);
        assert!(matches!(flights.enter(b"a"), Entered::Join(_)));
        flights.leave(b"a", &new);
        drop(lead(&mut flights, b"a"));
    }
}
