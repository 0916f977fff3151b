//! A table of buckets with a fixed size, so that clients who make up keys cannot fill the memory.
//!
//! A bucket is one number: the time at which it will be whole again, which governor calls the theoretical arrival time. A key
//! has room in one set of the table, beside a few others. When a new key finds its set full, the bucket that is nearest to
//! being whole goes: most often it *is* whole, and then nothing is lost, since a key that is not known has a whole bucket. So a
//! flood of keys that come once throws each other out, and not the few keys that take too much, which are those that owe most.

use governor::{nanos::Nanos, state::StateStore};
use std::{
    array,
    sync::{Mutex, PoisonError},
};

/// Keys of a set.
const WAYS: usize = 16;
/// Parts with a lock each.
const SHARDS: usize = 64;

/// A key, never 0 where there is one, and its time.
type Entry = [u64; 2];

#[derive(Debug)]
pub(super) struct Table {
    shards: [Mutex<Vec<Entry>>; SHARDS],
    sets_of_shard: usize,
}

impl Table {
    /// Has room for so many keys or some more. Memory is taken as it is used.
    pub(super) fn new(keys: usize) -> Self {
        let sets_of_shard = keys.div_ceil(WAYS * SHARDS).max(1);
        let shard = |_| Mutex::new(vec![[0; 2]; sets_of_shard * WAYS]);
        Self {
            shards: array::from_fn(shard),
            sets_of_shard,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let keys = |shard: &Mutex<Vec<Entry>>| {
            let shard = shard.lock().unwrap();
            shard.iter().filter(|entry| entry[0] != 0).count()
        };
        self.shards.iter().map(keys).sum()
    }
}

impl StateStore for Table {
    /// A hash that nobody else can foresee.
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let number = usize::try_from(*key).unwrap_or(usize::MAX);
        let set = number / SHARDS % self.sets_of_shard;
        let key = (*key).max(1);
        // An entry is changed in one step, so a poisoned lock loses nothing.
        let mut shard = self.shards[number % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entries = &mut shard[set * WAYS..(set + 1) * WAYS];
        if let Some(entry) = entries.iter_mut().find(|entry| entry[0] == key) {
            let (outcome, time) = decide(Some(Nanos::new(entry[1])))?;
            entry[1] = time.as_u64();
            return Ok(outcome);
        }
        let (outcome, time) = decide(None)?;
        // An empty one has the least time of all.
        if let Some(entry) = entries.iter_mut().min_by_key(|entry| entry[1]) {
            *entry = [key, time.as_u64()];
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};

    fn put(table: &Table, key: u64, time: u64) -> Option<u64> {
        let decide = |before: Option<Nanos>| Ok::<_, ()>((before, Nanos::new(time)));
        let before = table.measure_and_replace(&key, decide).unwrap();
        before.map(Nanos::as_u64)
    }

    #[test]
    fn a_key_finds_what_it_has_left() {
        let table = Table::new(1000);
        for key in [0, 1, 63, 64, u64::MAX] {
            assert_eq!(put(&table, key, 5), None, "{key}");
            assert_eq!(put(&table, key, 7), Some(5), "{key}");
        }
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let table = Table::new(1000);
        put(&table, 9, 5);
        let refuse = |before: Option<Nanos>| Err::<((), Nanos), _>(before.map(Nanos::as_u64));
        assert_eq!(table.measure_and_replace(&9, refuse), Err(Some(5)));
        assert_eq!(put(&table, 9, 5), Some(5));
        assert_eq!(table.measure_and_replace(&10, refuse), Err(None));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_room_and_spares_those_that_owe_most() {
        let table = Table::new(1000);
        let hasher = RandomState::new();
        // One that has taken a lot.
        put(&table, 77, 1_000_000);
        for number in 0..100_000_u64 {
            put(&table, hasher.hash_one(number), number);
        }
        assert!(table.len() <= 1024, "{}", table.len());
        assert_eq!(put(&table, 77, 1_000_000), Some(1_000_000));
    }
}
