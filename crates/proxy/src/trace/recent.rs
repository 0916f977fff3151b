//! The requests that can be explained: the last ones, within bounds of number and size, of the whole process.

use portcullis_config::RecentRequests;
use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A proxy before us may give one id to many requests; so many of them are told.
const MOST_FOUND: usize = 16;
/// One request may take so much, in bytes: tags and reasons are in the words of agents. All that are found for an id fit into
/// what `portcullis why` reads.
const MOST_ENTRY: u64 = 256 << 10;

/// Explanations as JSON, the oldest first.
#[derive(Debug)]
pub(crate) struct Recent {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// `None`: nothing is kept.
    limits: Option<RecentRequests>,
    entries: VecDeque<Entry>,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    id: Box<str>,
    /// Shared with who asks for it, so that it is not copied while others wait.
    json: Arc<[u8]>,
}

impl Entry {
    /// What it takes of the memory.
    fn bytes(&self) -> u64 {
        let bytes = size_of::<Self>() + self.id.len() + self.json.len();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Recent {
    pub(crate) const fn new(limits: Option<RecentRequests>) -> Self {
        Self {
            kept: Mutex::new(Kept {
                limits,
                entries: VecDeque::new(),
                bytes: 0,
            }),
        }
    }

    /// From now on this much is kept. What is too much goes at once.
    pub(crate) fn limit(&self, limits: Option<RecentRequests>) {
        let mut kept = self.lock();
        kept.limits = limits;
        let gone = kept.shrink();
        if limits.is_none() {
            kept.entries = VecDeque::new();
        }
        drop(kept);
        drop(gone);
    }

    /// Keeps a request. One that alone takes more than 256 KiB, or than all may, is not kept.
    pub(crate) fn keep(&self, id: &str, json: Vec<u8>) {
        let entry = Entry {
            id: id.into(),
            json: json.into(),
        };
        let bytes = entry.bytes();
        let mut kept = self.lock();
        if kept
            .limits
            .is_none_or(|limits| bytes > limits.bytes.bytes().min(MOST_ENTRY))
        {
            return;
        }
        kept.bytes += bytes;
        kept.entries.push_back(entry);
        let gone = kept.shrink();
        drop(kept);
        // Memory is given back when nobody waits for it.
        drop(gone);
    }

    /// The requests of this id, the newest first; 16 at most.
    pub(crate) fn find(&self, id: &str) -> Vec<Arc<[u8]>> {
        let kept = self.lock();
        let found = kept.entries.iter().rev().filter(|entry| &*entry.id == id);
        found
            .take(MOST_FOUND)
            .map(|entry| entry.json.clone())
            .collect()
    }

    /// How many requests are kept now and how many bytes they take; `None` when none are to be kept.
    pub(crate) fn kept(&self) -> Option<(usize, u64)> {
        let kept = self.lock();
        kept.limits.map(|_| (kept.entries.len(), kept.bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Takes out the oldest until the rest is within the limits.
    fn shrink(&mut self) -> Vec<Entry> {
        let mut gone = Vec::new();
        let is_too_much = |kept: &Self| {
            kept.limits.is_none_or(|limits| {
                kept.entries.len() > limits.entries || kept.bytes > limits.bytes.bytes()
            })
        };
        while is_too_much(self) {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= entry.bytes();
            gone.push(entry);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::ByteSize;

    fn limits(entries: usize, bytes: u64) -> Option<RecentRequests> {
        let bytes = ByteSize::kib(bytes);
        Some(RecentRequests { entries, bytes })
    }

    fn ids(recent: &Recent) -> Vec<String> {
        let kept = recent.lock();
        kept.entries
            .iter()
            .map(|entry| entry.id.to_string())
            .collect()
    }

    #[test]
    fn the_oldest_goes_first_and_the_newest_is_told_first() {
        let recent = Recent::new(limits(3, 64));
        for (id, text) in [("a", "1"), ("b", "2"), ("c", "3"), ("b", "4")] {
            recent.keep(id, text.into());
        }
        assert_eq!(ids(&recent), ["b", "c", "b"]);
        let found: Vec<_> = recent.find("b").iter().map(|json| json.to_vec()).collect();
        assert_eq!(found, [b"4".to_vec(), b"2".to_vec()]);
        assert!(recent.find("a").is_empty());
    }

    #[test]
    fn what_is_found_is_not_copied() {
        let recent = Recent::new(limits(3, 64));
        recent.keep("a", b"{}".to_vec());
        let (one, other) = (recent.find("a"), recent.find("a"));
        assert!(Arc::ptr_eq(&one[0], &other[0]));
    }

    #[test]
    fn one_request_does_not_take_it_all() {
        let recent = Recent::new(limits(10, 1024));
        recent.keep("a", b"{}".to_vec());
        recent.keep("b", vec![b'x'; 256 << 10]);
        recent.keep("c", vec![b'x'; 255 << 10]);
        assert_eq!(ids(&recent), ["a", "c"]);
    }

    #[test]
    fn bytes_are_a_bound_as_well() {
        let recent = Recent::new(limits(1000, 64));
        recent.keep("too large", vec![b'x'; 64 << 10]);
        assert_eq!(recent.kept(), Some((0, 0)));
        for number in 0..100 {
            recent.keep(&format!("{number:02}"), vec![b'x'; 10_000]);
            let (_, bytes) = recent.kept().unwrap();
            assert!(bytes <= 64 << 10, "{bytes}");
        }
        assert_eq!(ids(&recent), ["94", "95", "96", "97", "98", "99"]);
    }

    #[test]
    fn other_limits_hold_at_once() {
        let recent = Recent::new(limits(10, 64));
        for number in 0..10 {
            recent.keep(&number.to_string(), b"{}".to_vec());
        }
        recent.limit(limits(2, 64));
        assert_eq!(ids(&recent), ["8", "9"]);
        recent.limit(None);
        recent.keep("x", b"{}".to_vec());
        assert_eq!(recent.kept(), None);
        recent.limit(limits(2, 64));
        assert_eq!(recent.kept(), Some((0, 0)));
        recent.keep("y", b"{}".to_vec());
        assert_eq!(ids(&recent), ["y"]);
    }
}
