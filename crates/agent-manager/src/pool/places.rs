//! The places for connections to one replica: who is there, and who has to come. A pure book; what it says is done by others.
//!
//! There are as many places as there may be connections, and each holds one at most. A connection keeps its place until it is
//! closed: also while it is made, while it is in use, and while it takes its leave and others wait for its last answers. So
//! there are never more than there may be, whatever happens.
//!
//! ```text
//!               needed                    made                  no longer open
//!   asleep ───────────────► connecting ─────────► up ─────────────────────────────► leaving
//!     ▲                      │   ▲                │ idle, and more than `min` are up   │
//!     │                failed│   │ the next try   └──────────────────────────────────► │
//!     │                      ▼   │                                                     │ closed
//!     └───────────────────── down ◄───────────── (connecting, if it is needed) ◄───────┘
//!        not needed
//! ```

use super::{line::Line, member::Member};
use smallvec::SmallVec;
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// The place of one connection.
pub(super) enum Place<L: Line> {
    /// Nobody needs it yet, or any longer.
    Asleep,
    /// An attempt is running, or comes soon; a caller may wait for its end.
    Connecting,
    Up(Arc<Member<L>>),
    /// It takes no new events and is not yet closed.
    Leaving,
    /// The last attempt failed, the next one has not begun.
    Down(String),
}

/// The places for one replica.
pub(super) struct Places<L: Line> {
    min: usize,
    places: Vec<Place<L>>,
    /// Connections that were made, and those of them that take no events any longer.
    pub(super) created: u64,
    pub(super) closed: u64,
    /// Calls that took one of the latter at once.
    pub(super) at_once: u64,
}

impl<L: Line> Places<L> {
    /// At least one place; `min` of them are always needed.
    pub(super) fn new(min: usize, max: usize) -> Self {
        let min = min.max(1);
        Self {
            min,
            places: (0..max.max(min)).map(|_| Place::Asleep).collect(),
            created: 0,
            closed: 0,
            at_once: 0,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place<L>> {
        self.places.iter()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Arc<Member<L>>> {
        self.iter().filter_map(|place| match place {
            Place::Up(member) => Some(member),
            _ => None,
        })
    }

    pub(super) fn set(&mut self, index: usize, place: Place<L>) {
        self.places[index] = place;
    }

    /// Connections that are up, of agents that can be asked everything.
    pub(super) fn fit(&self) -> usize {
        self.members().filter(|member| member.is_fit).count()
    }

    /// Wakes as many places as are missing. They are connecting now, and the caller has to see to that.
    pub(super) fn missing(&mut self) -> SmallVec<[usize; 4]> {
        let mut missing = self.min.saturating_sub(self.present(None));
        let mut woken = SmallVec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            if missing > 0 && matches!(place, Place::Asleep) {
                *place = Place::Connecting;
                woken.push(index);
                missing -= 1;
            }
        }
        woken
    }

    /// Wakes one more place because the others are crowded. It is connecting now, and the caller has to see to that. There is
    /// no second attempt beside one that is not decided or has just failed.
    pub(super) fn grow(&mut self) -> Option<usize> {
        let undecided = |place: &Place<L>| matches!(place, Place::Connecting | Place::Down(_));
        if self.places.iter().any(undecided) {
            return None;
        }
        let index = self
            .places
            .iter()
            .position(|place| matches!(place, Place::Asleep))?;
        self.places[index] = Place::Connecting;
        Some(index)
    }

    /// What a place whose attempt failed or whose connection is closed becomes: connecting, if it is needed, which is said.
    pub(super) fn again(&mut self, index: usize) -> bool {
        let needed = self.present(Some(index)) < self.min;
        self.places[index] = match needed {
            true => Place::Connecting,
            false => Place::Asleep,
        };
        needed
    }

    /// Lets a connection go that nobody uses, unless it is one of those that are always needed. Says whether it did.
    pub(super) fn dismiss(&mut self, index: usize) -> bool {
        let is_up = matches!(self.places[index], Place::Up(_));
        let open = self.members().filter(|it| it.is_fit && it.line.is_open());
        let spare = open.count() > self.min;
        let goes = is_up && spare;
        if goes {
            self.end(index, Place::Leaving);
        }
        goes
    }

    /// The connection of a place takes no new events any longer, and the place becomes this.
    pub(super) fn end(&mut self, index: usize, becomes: Place<L>) {
        let place = std::mem::replace(&mut self.places[index], becomes);
        if let Place::Up(member) = place {
            self.closed += 1;
            // Nobody finds it any more, so nothing is added to this later.
            self.at_once += member.at_once.load(Relaxed);
        }
    }

    /// Those that take calls or soon will, `but` for one.
    fn present(&self, but: Option<usize>) -> usize {
        let all = self.places.iter().enumerate();
        all.filter(|(index, place)| {
            let present = matches!(place, Place::Connecting | Place::Up(_) | Place::Down(_));
            present && Some(*index) != but
        })
        .count()
    }
}
