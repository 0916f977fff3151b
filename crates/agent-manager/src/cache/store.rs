//! The verdicts that are kept: bounded by their number and by what they take up; the one that was not used for longest goes
//! first. Pure: the time is an argument.

use crate::headers::HeaderNames;
use bytes::Bytes;
use lru::LruCache;
use portcullis_agent_protocol::{Audit, Decision, HeaderOp, Verdict};
use std::{
    collections::hash_map::RandomState,
    sync::Arc,
    time::{Duration, Instant},
};

/// What an entry takes up beside the texts in it: its places in table and list, the decision, what the allocator adds.
const ENTRY_BYTES: usize = 256 + size_of::<Kept>();
/// The same of a text.
const TEXT_BYTES: usize = size_of::<String>() + 16;

/// A verdict that may be used again.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) decision: Decision,
    /// What others owned when the decision was found to be in order.
    pub(crate) foreign: Arc<HeaderNames>,
}

impl Kept {
    /// Without what nobody reads, and without a share in a buffer that was read from a socket.
    pub(crate) fn new(decision: &Decision, foreign: &Arc<HeaderNames>) -> Self {
        let mut decision = decision.clone();
        decision.ttl = None;
        if let Some(audit) = &mut decision.audit {
            audit.custom.clear();
        }
        if let Verdict::Block {
            body: Some(body), ..
        } = &mut decision.verdict
        {
            *body = Bytes::copy_from_slice(body);
        }
        Self {
            decision,
            foreign: foreign.clone(),
        }
    }

    /// What it takes up.
    fn bytes(&self) -> usize {
        let pair = |(one, other): &(String, String)| one.len() + other.len() + 2 * TEXT_BYTES;
        let own = match &self.decision.verdict {
            Verdict::Allow => 0,
            Verdict::Block { body, headers, .. } => {
                let body = body.as_ref().map_or(0, Bytes::len);
                body + headers.iter().map(pair).sum::<usize>()
            }
            Verdict::Redirect { url, .. } => url.len(),
            Verdict::Challenge {
                challenge_type,
                params,
            } => challenge_type.len() + params.iter().map(pair).sum::<usize>(),
        };
        let operations = self.decision.request_headers.iter();
        let operations = operations.chain(&self.decision.response_headers);
        let changes: usize = operations.map(operation_bytes).sum();
        let audit = self.decision.audit.as_deref().map_or(0, audit_bytes);
        own + changes + audit
    }
}

fn operation_bytes(operation: &HeaderOp) -> usize {
    let texts = match operation {
        HeaderOp::Set { name, value } | HeaderOp::Add { name, value } => name.len() + value.len(),
        HeaderOp::Remove { name } => name.len(),
    };
    texts + 2 * TEXT_BYTES
}

fn audit_bytes(audit: &Audit) -> usize {
    let texts = audit.tags.iter().chain(&audit.rule_ids);
    let texts = texts.chain(&audit.reason_codes);
    let texts: usize = texts.map(|text| text.len() + TEXT_BYTES).sum();
    size_of::<Audit>() + texts
}

/// What is known of requests with a certain key.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// What the agent would say.
    Verdict(Arc<Kept>),
    /// That it says nothing which could be kept, so that nobody should wait for what it says to another.
    Nothing,
}

struct Entry {
    found: Found,
    expires: Instant,
    bytes: usize,
}

/// See the module.
pub(crate) struct Store {
    entries: LruCache<Box<[u8]>, Entry, RandomState>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
    evicted: u64,
}

impl Store {
    /// At least one entry.
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            // Clients choose what is in a key, so the table's hash has a key of its own.
            entries: LruCache::unbounded_with_hasher(RandomState::new()),
            bytes: 0,
            max_entries: max_entries.max(1),
            max_bytes,
            evicted: 0,
        }
    }

    /// What is known and has not expired.
    pub(crate) fn find(&mut self, key: &[u8], now: Instant) -> Option<Found> {
        let entry = self.entries.get(key)?;
        if now < entry.expires {
            return Some(entry.found.clone());
        }
        let expired = self.entries.pop(key);
        self.bytes -= expired.map_or(0, |entry| entry.bytes);
        None
    }

    /// Keeps something for so long, and lets others go if there is no room. Whether there is room at all.
    pub(crate) fn keep(
        &mut self,
        key: Box<[u8]>,
        found: Found,
        ttl: Duration,
        now: Instant,
    ) -> bool {
        self.remove(&key);
        let own = match &found {
            Found::Verdict(kept) => kept.bytes(),
            Found::Nothing => 0,
        };
        let bytes = ENTRY_BYTES + key.len() + own;
        let Some(expires) = now.checked_add(ttl).filter(|_| bytes <= self.max_bytes) else {
            return false;
        };
        while self.entries.len() >= self.max_entries || self.bytes + bytes > self.max_bytes {
            let Some((_, entry)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= entry.bytes;
            // One that has expired would have gone anyway.
            self.evicted += u64::from(now < entry.expires);
        }
        self.bytes += bytes;
        let entry = Entry {
            found,
            expires,
            bytes,
        };
        self.entries.put(key, entry);
        true
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        let removed = self.entries.pop(key);
        self.bytes -= removed.map_or(0, |entry| entry.bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What all entries take up, as far as it can be counted.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many had to go before they expired.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn verdict(decision: Decision) -> Found {
        Found::Verdict(Arc::new(Kept::new(&decision, &Arc::default())))
    }

    fn key(number: usize) -> Box<[u8]> {
        number.to_le_bytes().into()
    }

    fn is_kept(store: &mut Store, number: usize, now: Instant) -> bool {
        store.find(&key(number), now).is_some()
    }

    #[test]
    fn an_entry_ends_when_its_time_is_over() {
        let mut store = Store::new(10, 1 << 20);
        let now = Instant::now();
        assert!(store.keep(key(1), verdict(Decision::allow()), SECOND, now));
        let almost = now + SECOND - Duration::from_nanos(1);
        assert!(is_kept(&mut store, 1, almost));
        assert!(!is_kept(&mut store, 1, now + SECOND));
        assert_eq!((store.len(), store.bytes()), (0, 0));
        // A time to live that no clock can count is none.
        assert!(!store.keep(key(1), Found::Nothing, Duration::MAX, now));
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_goes_first() {
        let mut store = Store::new(2, 1 << 20);
        let now = Instant::now();
        for number in [1, 2] {
            store.keep(key(number), verdict(Decision::allow()), SECOND, now);
        }
        assert!(is_kept(&mut store, 1, now));
        store.keep(key(3), verdict(Decision::allow()), SECOND, now);
        let kept = [1, 2, 3].map(|number| is_kept(&mut store, number, now));
        assert_eq!(kept, [true, false, true]);
        assert_eq!(store.evicted(), 1);
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_makes_nobody_go() {
        let mut store = Store::new(10, 4096);
        let now = Instant::now();
        store.keep(key(1), verdict(Decision::allow()), SECOND, now);
        let large = Decision::block(403).with_body(vec![b'x'; 4096]);
        assert!(!store.keep(key(2), verdict(large), SECOND, now));
        assert!(is_kept(&mut store, 1, now));
        store.clear();
        assert_eq!((store.len(), store.bytes(), store.evicted()), (0, 0, 0));
    }

    #[test]
    fn whatever_a_decision_holds_is_counted() {
        let long = "x".repeat(1000);
        let bytes = |decision: Decision| Kept::new(&decision, &Arc::default()).bytes();
        for decision in [
            Decision::block(403).with_body(long.clone()),
            Decision::block(403).with_header("x-a", long.clone()),
            Decision::redirect(long.clone()),
            Decision::challenge(long.clone()),
            Decision::challenge("c").with_param("p", long.clone()),
            Decision::allow().set_request_header("x-a", long.clone()),
            Decision::allow().add_response_header("x-a", long.clone()),
            Decision::allow().remove_request_header(long.clone()),
            Decision::allow().tag(long.clone()),
            Decision::allow().reason(long.clone()),
            Decision::allow().rule_id(long.clone()),
        ] {
            assert!(bytes(decision.clone()) >= 1000, "{decision:?}");
        }
        let custom = Decision::allow().custom("large", long);
        assert!(bytes(custom) < 1000, "nobody reads it");
    }

    proptest! {
        /// Whatever is kept in whatever order, the bounds hold and the bytes are those of what is there.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0usize..20, 0usize..3000, 0u64..3), 0..200)) {
            let mut store = Store::new(5, 8000);
            let mut now = Instant::now();
            for (number, size, seconds) in steps {
                now += SECOND * seconds as u32;
                let decision = Decision::block(403).with_body(vec![b'x'; size]);
                store.keep(key(number), verdict(decision), SECOND * 2, now);
                prop_assert!(store.len() <= 5);
                prop_assert!(store.bytes() <= 8000);
                let there: usize = store.entries.iter().map(|(_, entry)| entry.bytes).sum();
                prop_assert_eq!(store.bytes(), there);
            }
        }
    }
}
