//! Verdicts that are used again. Of the whole process: one cache per agent whose configuration has one, shared by all
//! workers, gone with the agent when a reload changes it.
//!
//! - [`key`]: what a verdict is kept under.
//! - [`store`]: what is kept, and its bounds. Pure.
//! - [`flight`]: a question that others wait for too.
//! - [`asking`]: how all that takes the place of a question to the agent.

mod asking;
mod flight;
mod key;
mod store;

pub(crate) use asking::ask;
pub use key::KeyContext;
pub(crate) use key::Subject;

use crate::{call::Called, headers::HeaderNames};
use flight::{End, Flight, Flights};
use key::Parts;
use portcullis_agent_protocol::{Capabilities, ControlHandler, ControlMessage, Decision};
use portcullis_config::{AgentId, KeyPart};
use smallvec::SmallVec;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use store::{Found, Kept, Store};

/// How verdicts are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// So many verdicts at most; at least 1.
    pub max_entries: usize,
    /// With their keys, so many bytes at most.
    pub max_bytes: usize,
    /// None is used for longer.
    pub max_ttl: Duration,
    /// What the agent may say that a verdict does not depend on.
    pub may_ignore: Vec<KeyPart>,
}

/// What is in a cache, and what has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStatus {
    /// Verdicts that are kept, some of which may have expired.
    pub entries: usize,
    /// What they take up, as far as it can be counted.
    pub bytes: usize,
    /// Questions for which there was no verdict.
    pub misses: u64,
    /// Verdicts that the agent has let be kept, and were.
    pub stored: u64,
    /// Verdicts that had to go before they expired, because there were too many.
    pub evicted: u64,
    /// How often all verdicts were dropped, because the agent wanted it or has become another.
    pub purged: u64,
}

/// The most sets of parts that an agent ignores in its answers, beside none at all. Each is another key to look for.
const MOST_SETS: u32 = 4;
/// For so long nobody waits for an answer to another's question after one that could not be kept.
const NOTHING_FOR: Duration = Duration::from_secs(1);

/// The verdicts of one agent.
pub(crate) struct VerdictCache {
    max_ttl: Duration,
    may_ignore: Parts,
    state: Mutex<State>,
    /// The sets of parts that kept verdicts ignore, a bit each.
    sets: AtomicU64,
    misses: AtomicU64,
    stored: AtomicU64,
    purged: AtomicU64,
}

struct State {
    store: Store,
    flights: Flights,
    /// How often everything was dropped: an answer to a question from before that is not kept.
    epoch: u64,
    /// How the agent called itself last.
    announced: Option<Announced>,
}

/// What an agent is, as far as its verdicts go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Announced {
    id: String,
    name: String,
    version: String,
}

impl Announced {
    fn new(capabilities: &Capabilities) -> Self {
        Self {
            id: capabilities.agent_id.clone(),
            name: capabilities.name.clone(),
            version: capabilities.version.clone(),
        }
    }

    fn is(&self, capabilities: &Capabilities) -> bool {
        self.version == capabilities.version
            && self.id == capabilities.agent_id
            && self.name == capabilities.name
    }
}

/// What becomes of a question for which there was no verdict.
enum Entered<'a> {
    /// There is one by now.
    Found(Found),
    /// It is asked, and others wait for it.
    Lead(Lead<'a>),
    /// Somebody has asked it already.
    Join(Flight),
    /// It is asked, and nobody waits for it.
    Alone,
}

/// Somebody who asks, and for whose answer others may wait. When it is dropped without one, because the client went away or
/// the agent failed, one of them asks in its place.
struct Lead<'a> {
    cache: &'a VerdictCache,
    key: Box<[u8]>,
    flight: Option<flight::Leader>,
    epoch: u64,
}

impl Lead<'_> {
    /// The question has ended, perhaps with an answer.
    fn ended(mut self, subject: &Subject<'_>, called: &Called, foreign: &Arc<HeaderNames>) {
        if called.result.is_err() && !called.is_agents_fault {
            return;
        }
        let Some(flight) = self.flight.take() else {
            return;
        };
        let Ok(decision) = &called.result else {
            self.cache.state().flights.leave(&self.key, &flight);
            return flight.end(End::Failed);
        };
        let reusable = called.is_current.then(|| self.cache.reusable(decision));
        let entry = reusable.flatten().map(|(ttl, ignored)| {
            let kept = Arc::new(Kept::new(decision, foreign));
            (ignored, Found::Verdict(kept), ttl)
        });
        let now = Instant::now();
        let cache = self.cache;
        let mut state = cache.state();
        state.flights.leave(&self.key, &flight);
        // Else the agent has taken its word back meanwhile.
        let is_valid = state.epoch == self.epoch;
        let kept = entry
            .filter(|_| is_valid)
            .is_some_and(|(ignored, found, ttl)| {
                let ignored = cache.enter_set(&mut state, ignored);
                let key = subject.key(ignored).into();
                state.store.keep(key, found, ttl, now)
            });
        if kept {
            cache.stored.fetch_add(1, Relaxed);
        } else if is_valid && flight.is_waited_for() {
            cache.enter_set(&mut state, Parts::NONE);
            let key = std::mem::take(&mut self.key);
            state.store.keep(key, Found::Nothing, NOTHING_FOR, now);
        }
        drop(state);
        flight.end(if kept { End::Kept } else { End::Alone });
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if let Some(flight) = &self.flight {
            self.cache.state().flights.leave(&self.key, flight);
        }
    }
}

impl VerdictCache {
    pub(crate) fn new(settings: &CacheSettings) -> Self {
        Self {
            max_ttl: settings.max_ttl,
            may_ignore: Parts::of(settings.may_ignore.iter().copied()),
            state: Mutex::new(State {
                store: Store::new(settings.max_entries, settings.max_bytes),
                flights: Flights::new(settings.max_entries),
                epoch: 0,
                announced: None,
            }),
            sets: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            purged: AtomicU64::new(0),
        }
    }

    /// A connection to the agent is there. If it has become another, what it has said before is forgotten.
    pub(crate) fn connected(&self, capabilities: &Capabilities) -> bool {
        let mut state = self.state();
        let known = state.announced.as_ref();
        if known.is_some_and(|known| known.is(capabilities)) {
            return false;
        }
        let changed = known.is_some();
        state.announced = Some(Announced::new(capabilities));
        if changed {
            self.drop_all(&mut state);
        }
        changed
    }

    /// Whether an answer from a connection like this may be kept: while an agent is replaced, the old one may still answer.
    pub(crate) fn is_current(&self, capabilities: &Capabilities) -> bool {
        let state = self.state();
        let known = state.announced.as_ref();
        known.is_some_and(|known| known.is(capabilities))
    }

    /// What hears the agent on a connection, when it takes its verdicts back.
    pub(crate) fn on_control(self: &Arc<Self>, agent: &AgentId) -> ControlHandler {
        let (cache, agent) = (self.clone(), agent.clone());
        Arc::new(move |message| {
            if *message == ControlMessage::PurgeVerdicts {
                cache.purge();
                tracing::info!(%agent, "agent takes its verdicts back");
            }
        })
    }

    /// Forgets everything, because the agent wants it.
    fn purge(&self) {
        self.drop_all(&mut self.state());
    }

    fn drop_all(&self, state: &mut State) {
        self.forget(state);
        self.purged.fetch_add(1, Relaxed);
    }

    fn forget(&self, state: &mut State) {
        state.store.clear();
        // Whoever comes now does not wait for an answer from before.
        state.flights.clear();
        state.epoch += 1;
        self.sets.store(0, Relaxed);
    }

    pub(crate) fn status(&self) -> CacheStatus {
        let state = self.state();
        CacheStatus {
            entries: state.store.len(),
            bytes: state.store.bytes(),
            evicted: state.store.evicted(),
            misses: self.misses.load(Relaxed),
            stored: self.stored.load(Relaxed),
            purged: self.purged.load(Relaxed),
        }
    }

    /// What is known of a request.
    fn find(&self, subject: &Subject<'_>, now: Instant) -> Option<Found> {
        let keys = self.keys(subject);
        if keys.is_empty() {
            return None;
        }
        find(&mut self.state().store, &keys, now)
    }

    /// The keys under which there may be something.
    fn keys(&self, subject: &Subject<'_>) -> SmallVec<[Vec<u8>; 2]> {
        let mut left = self.sets.load(Relaxed);
        let mut keys = SmallVec::new();
        while left != 0 {
            keys.push(subject.key(Parts::numbered(left.trailing_zeros())));
            left &= left - 1;
        }
        keys
    }

    /// Who asks about a request of which nothing was known a moment ago.
    fn enter(&self, subject: &Subject<'_>, now: Instant) -> Entered<'_> {
        let key = subject.key(Parts::NONE).into_boxed_slice();
        let keys = self.keys(subject);
        let mut state = self.state();
        if let Some(found) = find(&mut state.store, &keys, now) {
            return Entered::Found(found);
        }
        let epoch = state.epoch;
        match state.flights.enter(&key) {
            flight::Entered::Join(flight) => Entered::Join(flight),
            flight::Entered::Alone => Entered::Alone,
            flight::Entered::Lead(flight) => Entered::Lead(Lead {
                cache: self,
                key,
                flight: Some(flight),
                epoch,
            }),
        }
    }

    /// For how long an answer may be used, and what of a request it does not depend on; `None` when it is for this request
    /// alone.
    fn reusable(&self, decision: &Decision) -> Option<(Duration, Parts)> {
        let held = decision.ttl.as_ref().filter(|_| !decision.needs_more)?;
        let ttl = held.ttl.min(self.max_ttl);
        let ignored = Parts::named(held.vary_ignores.iter().map(|part| part.name()));
        (!ttl.is_zero()).then(|| (ttl, ignored.and(self.may_ignore)))
    }

    /// From now on the set is looked for, if it is one of few; else the one that ignores nothing, which is always right. Under
    /// the lock, so that two answers at once do not make one set too many, and what is forgotten stays so.
    fn enter_set(&self, _: &mut State, ignored: Parts) -> Parts {
        let sets = self.sets.load(Relaxed) & !1;
        let with = sets | 1 << ignored.number();
        let entered = match with == sets || sets.count_ones() < MOST_SETS {
            true => ignored,
            false => Parts::NONE,
        };
        self.sets.fetch_or(1 << entered.number(), Relaxed);
        entered
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A cache that panicked halfway through a change could say anything; an empty one does not.
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = PoisonError::into_inner(poisoned);
            self.forget(&mut state);
            self.state.clear_poison();
            state
        })
    }
}

fn find(store: &mut Store, keys: &[Vec<u8>], now: Instant) -> Option<Found> {
    keys.iter().find_map(|key| store.find(key, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, FailureReason};
    use futures::FutureExt;
    use http::HeaderMap;
    use portcullis_agent_protocol::{RequestHeaders, RequestMetadata};
    use std::{net::Ipv4Addr, time::UNIX_EPOCH};

    fn cache() -> VerdictCache {
        VerdictCache::new(&CacheSettings {
            max_entries: 100,
            max_bytes: 1 << 20,
            max_ttl: Duration::from_secs(60),
            may_ignore: KeyPart::ALL.to_vec(),
        })
    }

    fn about<T>(uri: &str, look: impl FnOnce(&Subject<'_>) -> T) -> T {
        let headers = HeaderMap::new();
        let head = RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: "c",
                request_id: "r",
                client_ip: Ipv4Addr::LOCALHOST.into(),
                client_port: 1,
                server_name: None,
                protocol: "HTTP/1.1",
                tls_version: None,
                tls_cipher: None,
                client_certificate: None,
                route_id: None,
                upstream_id: None,
                timestamp: UNIX_EPOCH,
                traceparent: None,
            },
            method: "GET",
            uri,
            headers: &headers,
            budget_left: None,
        };
        let context = KeyContext {
            listener: "http",
            scheme: "http",
            host: "a",
            client_certificate: None,
            changed: &[],
        };
        look(&Subject {
            context: &context,
            head: &head,
            owned: &HeaderNames::default(),
        })
    }

    fn lead<'a>(cache: &'a VerdictCache, uri: &str) -> Lead<'a> {
        match about(uri, |subject| cache.enter(subject, Instant::now())) {
            Entered::Lead(lead) => lead,
            Entered::Found(_) | Entered::Join(_) | Entered::Alone => panic!("somebody was here"),
        }
    }

    fn ended(lead: Lead<'_>, uri: &str, decision: &Decision) {
        let called = Called::known(decision.clone());
        about(uri, |subject| lead.ended(subject, &called, &Arc::default()));
    }

    fn join(cache: &VerdictCache, uri: &str) -> Flight {
        match about(uri, |subject| cache.enter(subject, Instant::now())) {
            Entered::Join(flight) => flight,
            Entered::Found(_) | Entered::Lead(_) | Entered::Alone => panic!("nobody is here"),
        }
    }

    fn found(cache: &VerdictCache, uri: &str) -> Option<Found> {
        about(uri, |subject| cache.find(subject, Instant::now()))
    }

    fn held() -> Decision {
        Decision::allow().hold_for(Duration::from_secs(10))
    }

    #[test]
    fn only_what_has_a_time_to_live_is_kept() {
        let cache = cache();
        for (uri, decision, kept) in [
            ("/held", held(), true),
            ("/not", Decision::allow(), false),
            ("/provisional", held().provisional(), false),
        ] {
            ended(lead(&cache, uri), uri, &decision);
            assert_eq!(found(&cache, uri).is_some(), kept, "{uri}");
        }
        assert_eq!((cache.status().entries, cache.status().stored), (1, 1));
    }

    #[test]
    fn an_answer_of_another_than_the_last_version_is_not_kept() {
        let cache = cache();
        let capabilities = |version: &str| Capabilities::new("waf", version);
        assert!(!cache.connected(&capabilities("1")));
        assert!(!cache.connected(&capabilities("1")));
        assert!(cache.is_current(&capabilities("1")));
        ended(lead(&cache, "/p"), "/p", &held());
        assert!(found(&cache, "/p").is_some());
        assert!(cache.connected(&capabilities("2")));
        assert!(found(&cache, "/p").is_none());
        assert!(!cache.is_current(&capabilities("1")));
        let called = Called {
            is_current: false,
            ..Called::known(held())
        };
        let lead = lead(&cache, "/p");
        about("/p", |subject| {
            lead.ended(subject, &called, &Arc::default())
        });
        assert!(found(&cache, "/p").is_none());
        assert_eq!(cache.status().purged, 1);
    }

    #[test]
    fn whoever_asks_after_a_purge_does_not_wait_for_an_answer_from_before() {
        let cache = cache();
        let before = lead(&cache, "/p");
        let mut waiting = join(&cache, "/p");
        cache.purge();
        let after = lead(&cache, "/p");
        let mut later = join(&cache, "/p");
        ended(before, "/p", &held());
        assert_eq!(waiting.end().now_or_never(), Some(Some(End::Alone)));
        assert!(found(&cache, "/p").is_none());
        assert!(later.end().now_or_never().is_none());
        ended(after, "/p", &held());
        assert_eq!(later.end().now_or_never(), Some(Some(End::Kept)));
        assert!(found(&cache, "/p").is_some());
    }

    #[test]
    fn nobody_waits_soon_after_an_answer_that_was_for_one_alone() {
        let cache = cache();
        let first = lead(&cache, "/p");
        let mut waiting = join(&cache, "/p");
        ended(first, "/p", &Decision::allow());
        assert_eq!(waiting.end().now_or_never(), Some(Some(End::Alone)));
        assert!(matches!(found(&cache, "/p"), Some(Found::Nothing)));
        // Unless nobody has waited: that is the usual case, and takes no room.
        ended(lead(&cache, "/q"), "/q", &Decision::allow());
        assert!(found(&cache, "/q").is_none());
    }

    #[test]
    fn one_that_is_dropped_leaves_its_place_to_another() {
        let cache = cache();
        let first = lead(&cache, "/p");
        let mut waiting = join(&cache, "/p");
        drop(first);
        assert_eq!(waiting.end().now_or_never(), Some(None));
        let second = lead(&cache, "/p");
        let mut waiting = join(&cache, "/p");
        let failed = Called {
            result: Err(Failure::new(FailureReason::Timeout, "")),
            ..Called::known(held())
        };
        about("/p", |subject| {
            second.ended(subject, &failed, &Arc::default())
        });
        assert_eq!(waiting.end().now_or_never(), Some(None));
        let third = lead(&cache, "/p");
        let mut waiting = join(&cache, "/p");
        let failed = Called {
            is_agents_fault: true,
            ..failed
        };
        about("/p", |subject| {
            third.ended(subject, &failed, &Arc::default())
        });
        assert_eq!(waiting.end().now_or_never(), Some(Some(End::Failed)));
        ended(lead(&cache, "/p"), "/p", &held());
        assert!(found(&cache, "/p").is_some());
    }

    #[test]
    fn after_a_panic_nothing_is_known_and_nobody_waits() {
        let cache = cache();
        ended(lead(&cache, "/kept"), "/kept", &held());
        let before = lead(&cache, "/p");
        let panicked = std::thread::scope(|scope| {
            let change = || {
                let _state = cache.state.lock();
                panic!("halfway through a change");
            };
            scope.spawn(change).join()
        });
        assert!(panicked.is_err() && cache.state.is_poisoned());
        assert!(found(&cache, "/kept").is_none());
        assert!(!cache.state.is_poisoned());
        let keys = about("/p", |subject| cache.keys(subject).len());
        assert_eq!(keys, 0, "there is nothing to look for");
        let after = lead(&cache, "/p");
        ended(before, "/p", &held());
        assert!(found(&cache, "/p").is_none(), "it is from before");
        ended(after, "/p", &held());
        assert!(found(&cache, "/p").is_some());
    }

    #[test]
    fn few_sets_of_parts_are_looked_for() {
        let cache = cache();
        let ignoring = |parts: &[portcullis_agent_protocol::KeyPart]| {
            let parts = parts.iter().copied();
            parts.fold(held(), Decision::whatever_the)
        };
        let all = portcullis_agent_protocol::KeyPart::ALL;
        let sets: Vec<_> = (0..all.len()).map(|count| &all[..=count]).collect();
        for (number, set) in sets.iter().enumerate() {
            let uri = format!("/{number}");
            ended(lead(&cache, &uri), &uri, &ignoring(set));
            assert!(found(&cache, &uri).is_some(), "{uri}");
        }
        let keys = about("/p", |subject| cache.keys(subject).len());
        assert_eq!(keys, MOST_SETS as usize + 1, "and the whole key");
    }
}
