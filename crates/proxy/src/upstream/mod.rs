//! Where requests go: the targets of an upstream and which of them is next.

mod attempts;
mod balance;
pub(crate) mod connect;
pub(crate) mod echo;
mod gate;
mod health;
mod outlier;
mod places;
mod proxy_header;
mod retry;
mod set;
mod sticky;
mod target;
pub(crate) mod tls;
mod wish;

use crate::snapshot::Timeouts;
use arc_swap::ArcSwap;
pub(crate) use attempts::{
    Ended, UpstreamRun, admit, after_error, after_failed_connect, answered, as_agreed, choose,
    consider, failed, is_passed_again, lacks_host, may_repeat,
};
use bytes::Bytes;
use connect::Connect;
use gate::{Gate, GateStatus, Turn};
pub(crate) use health::Connectors as CheckConnectors;
use health::Probers;
use http::HeaderValue;
use pingora::{Error, ErrorType::CustomCode, Result, upstreams::peer::HttpPeer};
pub(crate) use places::Places;
use portcullis_config::{Balance, Hash, HashKey, Outlier, UpstreamId};
pub(crate) use proxy_header::Ends;
use set::{Choice, Making, TargetSet};
use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use sticky::Sticky;
pub(crate) use target::FoundTarget;
use target::{Attempt, Target};
use wish::Wish;

/// Clients of HTTP/2 often end a body with an empty frame. Pingora would write that to an HTTP/1.1 upstream as a last chunk,
/// and then the last chunk once more, which the upstream takes for the start of the next request.
pub(crate) fn drop_empty_end(body: &mut Option<Bytes>, ends: bool) {
    if ends && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}

/// An upstream, ready to be asked for a target.
pub(crate) struct Upstream {
    pub(crate) id: UpstreamId,
    /// What it was made from.
    pub(crate) config: portcullis_config::Upstream,
    pub(crate) timeouts: Timeouts,
    connect: Connect,
    places: Places,
    counts: Arc<Counts>,
    gate: Arc<Gate>,
    turn: Turn,
    probers: Option<Probers>,
    /// Held while it is decided whether a target is ejected.
    ejecting: Mutex<()>,
    /// What a hash is made of, where one decides.
    key: Option<HashKey>,
    sticky: Option<Sticky>,
    /// Those that there are now.
    targets: ArcSwap<TargetSet>,
}

/// What is counted of an upstream, for the process and over reloads.
#[derive(Debug, Default)]
struct Counts {
    /// Requests that went to whoever there was.
    panics: AtomicU64,
}

impl Upstream {
    /// An upstream as it is configured, with the state of those targets that the one before it has too.
    pub(crate) fn new(
        upstream: &portcullis_config::Upstream,
        connect: Connect,
        places: Places,
        checks: &Arc<CheckConnectors>,
        previous: Option<&Self>,
    ) -> Self {
        let key = match &upstream.balance {
            Balance::Hash(Hash { key, .. }) => Some(key.clone()),
            _ => None,
        };
        let compiled = Self {
            id: upstream.id.clone(),
            timeouts: Timeouts {
                response_header: upstream.timeouts.response_header,
                idle: upstream.timeouts.idle,
                total: upstream.timeouts.total,
            },
            connect,
            places,
            counts: previous.map_or_else(Arc::default, |previous| previous.counts.clone()),
            gate: previous.map_or_else(Arc::default, |previous| previous.gate.clone()),
            turn: Turn::default(),
            probers: Probers::new(upstream, checks),
            ejecting: Mutex::default(),
            key,
            sticky: upstream
                .sticky
                .as_ref()
                .map(|sticky| Sticky::new(sticky, &upstream.id)),
            config: upstream.clone(),
            targets: ArcSwap::from_pointee(TargetSet::empty()),
        };
        let known = previous.map(|previous| previous.targets.load_full());
        let set = compiled.set(compiled.places.targets(), known.as_deref());
        compiled.put(set);
        if previous.is_none() {
            compiled.begin();
        }
        compiled
    }

    /// Begins to ask how targets are. Those that the upstream before it has too are marked for both, which they must not be by a
    /// configuration that does not take effect.
    pub(crate) fn begin(&self) {
        if let Some(probers) = &self.probers {
            probers.begin(&self.targets.load());
        }
    }

    /// Takes up what the upstream's sources find, for as long as there is the upstream.
    pub(crate) fn follow(upstream: &Arc<Self>) {
        let mut changes = upstream.places.changes();
        if changes.is_empty() {
            return;
        }
        let upstream = Arc::downgrade(upstream);
        tokio::spawn(async move {
            loop {
                let any = changes.iter_mut().map(|changes| Box::pin(changes.next()));
                let (goes_on, ..) = futures::future::select_all(any).await;
                match upstream.upgrade() {
                    Some(upstream) if goes_on => upstream.refresh(),
                    _ => return,
                }
            }
        });
    }

    /// Takes up what was found so far.
    pub(crate) fn refresh(&self) {
        if !self.places.are_fixed() {
            self.replace(self.places.targets());
        }
    }

    /// Another configuration has taken over, and requests that still have this one need nobody to look after its targets.
    pub(crate) fn retire(&self, next: Option<&Self>) {
        if let Some(probers) = &self.probers {
            probers.retire();
        }
        if next.is_some_and(|next| next.probers.is_none()) {
            // What the last check said would hold for ever.
            let set = self.targets.load();
            set.targets()
                .for_each(|target| target.state.forget_health());
        }
    }

    fn put(&self, set: TargetSet) {
        if let Some(probers) = &self.probers {
            probers.watch(&set);
        }
        self.targets.store(Arc::new(set));
    }

    fn set(&self, found: Vec<FoundTarget>, previous: Option<&TargetSet>) -> TargetSet {
        let making = Making {
            balance: &self.config.balance,
            slow_start: self.config.slow_start,
            is_watched: self.config.health_check.is_some() || self.config.outlier.is_some(),
            panic_threshold: self.config.panic_threshold,
            configured: &|peer| self.connect.configured(peer),
            tag: &|address| Some(self.sticky.as_ref()?.tag(address)),
            previous,
            now: Instant::now(),
        };
        TargetSet::new(found, &making)
    }

    /// From now on these are the targets. Those that were there before keep their state; requests that others have come to
    /// their end. Called from one thread at a time.
    fn replace(&self, found: Vec<FoundTarget>) {
        let old = self.targets.load_full();
        self.put(self.set(found, Some(&old)));
    }

    /// How it is doing now, for whoever wants to know.
    pub(crate) fn status(&self) -> UpstreamStatus {
        let now = Instant::now();
        let set = self.targets.load();
        let targets = set.targets().map(|target| TargetStatus {
            address: target.address.clone(),
            weight: target.weight,
            is_backup: target.is_backup,
            in_flight: target.state.in_flight(),
            is_in_order: target.state.is_in_order(now),
            state: target.state.word(now),
            latency: target
                .decay
                .and_then(|decay| target.state.latency(decay, now)),
            ejections: target.state.ejection.total(),
            checks: target.state.checks(),
            problem: target.state.problem(),
        });
        UpstreamStatus {
            id: self.id.clone(),
            is_in_panic: set.is_in_panic(now),
            panics: self.counts.panics.load(Relaxed),
            gate: self.gate.status(),
            targets: targets.collect(),
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.connect.is_http2()
    }

    /// Whether one that is configured and connected like this would be the same.
    pub(crate) fn is_like(
        &self,
        config: &portcullis_config::Upstream,
        connect: &Connect,
        places: &Places,
    ) -> bool {
        self.config == *config && self.connect.is_alike(connect) && self.places.is_alike(places)
    }

    /// Says why TLS does not come about, which nobody could tell from the answer.
    fn complain(&self, run: &UpstreamRun, error: &Error) {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        if connect::is_about_tls(error.etype()) && self.connect.may_complain(START.elapsed()) {
            let address = run.attempt().and_then(Attempt::address);
            let address = address.map_or("", |address| address);
            tracing::warn!(upstream = %self.id, address, %error, "TLS to a target does not come about");
        }
    }

    /// How many targets there are now.
    fn len(&self) -> usize {
        self.targets.load().len()
    }

    /// The next target, with these waits. A connection that was upgraded may be silent for as long as it likes.
    pub(crate) fn pick(
        &self,
        timeouts: Timeouts,
        upgrade: bool,
        now: Instant,
        run: &UpstreamRun,
    ) -> Result<(Attempt, Box<HttpPeer>)> {
        let wish = run.wish();
        let choice = Choice {
            key: wish.and_then(|wish| wish.key),
            tag: wish.and_then(|wish| Some(wish.kept?.tag)),
            tried: &run.tried,
        };
        let set = self.targets.load();
        let draw = &mut |below| rand::random_range(0..below);
        let Some(picked) = set.pick(&choice, now, draw) else {
            return Error::e_explain(CustomCode("upstream_no_targets", 503), "no targets");
        };
        if picked.in_panic {
            self.counts.panics.fetch_add(1, Relaxed);
        }
        let target = picked.target;
        let mut peer = Box::new(target.peer.clone());
        // Pingora has one limit for all reads; where it can, the client's stream keeps the two apart.
        let longest = timeouts.response_header.max(timeouts.idle);
        peer.options.read_timeout = (!upgrade).then_some(longest);
        let attempt = Attempt::begin(target.clone(), now);
        self.connect
            .adapt(&mut peer, target.state.in_flight(), run.ends);
        Ok((attempt, peer))
    }

    /// Whether this status is a failure of the target that answered with it.
    fn is_failure(&self, status: u16) -> bool {
        let outlier = self.config.outlier.as_ref();
        outlier.is_some_and(|outlier| outlier::is_failure(outlier.statuses, status))
    }

    fn failed(&self, attempt: &mut Attempt, now: Instant) {
        if !attempt.failed(now) {
            return;
        }
        let state = &attempt.target().state;
        if let Some(settings) = &self.config.outlier
            && state.ejection.failed(settings)
        {
            self.eject(attempt.target(), settings, now);
        }
    }

    /// Ejects a target, unless too many are.
    fn eject(&self, target: &Target, settings: &Outlier, now: Instant) {
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let set = self.targets.load();
        let out = set.targets().filter(|target| target.state.is_ejected(now));
        let out = out.count();
        if target.state.is_ejected(now) || !outlier::may_eject(settings.max_ejected, set.len(), out)
        {
            return;
        }
        let lasts = target.state.eject(settings, now);
        let address = target.address.as_deref().unwrap_or_default();
        let seconds = lasts.as_secs_f64();
        tracing::warn!(upstream = %self.id, address, seconds, "target is ejected because of its answers");
    }

    /// What a client keeps that was with this target, unless it has that already.
    fn cookie(&self, attempt: &Attempt, wish: &Wish) -> Option<HeaderValue> {
        let (sticky, tag) = (self.sticky.as_ref()?, attempt.target().tag?);
        let kept = wish.kept.filter(|kept| !kept.is_old && kept.tag == tag);
        match kept {
            Some(_) => None,
            None => sticky.cookie(tag, wish.is_secure, SystemTime::now()),
        }
    }
}

/// How an upstream is doing, for people.
#[derive(Debug)]
pub(crate) struct UpstreamStatus {
    pub(crate) id: UpstreamId,
    /// Too few targets are in order.
    pub(crate) is_in_panic: bool,
    /// Requests that went to whoever there was because of that.
    pub(crate) panics: u64,
    pub(crate) gate: GateStatus,
    pub(crate) targets: Vec<TargetStatus>,
}

/// How a target is doing, for people.
#[derive(Debug)]
pub(crate) struct TargetStatus {
    /// The echo origin has none.
    pub(crate) address: Option<Arc<str>>,
    pub(crate) weight: u32,
    pub(crate) is_backup: bool,
    pub(crate) in_flight: u32,
    pub(crate) is_in_order: bool,
    /// The same in a word.
    pub(crate) state: &'static str,
    /// How long answers took of late, where that decides something.
    pub(crate) latency: Option<Duration>,
    pub(crate) ejections: u64,
    /// Health checks that it passed and that it failed.
    pub(crate) checks: (u64, u64),
    /// What was wrong the last time that something was.
    pub(crate) problem: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Discovery;
    use std::path::Path;

    const TIMEOUTS: Timeouts = Timeouts {
        response_header: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        total: None,
    };

    /// An upstream with these lines in its block, in the place of another.
    pub(super) fn upstream(lines: &str, previous: Option<&Upstream>) -> Upstream {
        let text = format!(
            "schema-version \"1\"\nlisteners {{ listener \"a\" {{ address \"127.0.0.1:1\" }} }}\n\
             upstreams {{ upstream \"pool\" {{ {lines} }} }}"
        );
        let loaded = portcullis_config::load_str("test.kdl", &text, Path::new("/"), &|_| None);
        let config = loaded.unwrap().config;
        let config = &config.upstreams[0];
        let connect = Connect::read(config).unwrap();
        let places = Places::new(config, &Discovery::default(), Path::new("/echo")).unwrap();
        let authorities = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/tls/ca.pem"
        );
        let checks = Arc::new(CheckConnectors::new(authorities.to_owned()));
        Upstream::new(config, connect, places, &checks, previous)
    }

    /// Addresses of all targets, with the requests that they have.
    fn in_flight(upstream: &Upstream) -> Vec<(String, u32)> {
        let status = upstream.status().targets.into_iter();
        let text = |target: TargetStatus| (target.address.unwrap().to_string(), target.in_flight);
        status.map(text).collect()
    }

    fn found(address: &str) -> FoundTarget {
        FoundTarget {
            address: Some(address.into()),
            peer: HttpPeer::new(address, false, String::new()),
            weight: 1,
            is_backup: false,
        }
    }

    #[test]
    fn requests_are_counted_over_reloads_and_replaced_targets() {
        let (now, run) = (Instant::now(), UpstreamRun::default());
        let (one, two) = ("127.0.0.1:1", "127.0.0.1:2");
        let named = |counts: &[(&str, u32)]| -> Vec<_> {
            let named = counts
                .iter()
                .map(|(name, count)| (name.to_string(), *count));
            named.collect()
        };
        let old = upstream(&format!("target \"{one}\""), None);
        let (first, _) = old.pick(TIMEOUTS, false, now, &run).unwrap();
        let both = format!("target \"{one}\"; target \"{two}\"");
        let new = upstream(&both, Some(&old));
        drop(old);
        assert_eq!(in_flight(&new), named(&[(one, 1), (two, 0)]));
        new.replace(vec![found(two)]);
        assert_eq!(in_flight(&new), named(&[(two, 0)]));
        let (second, _) = new.pick(TIMEOUTS, false, now, &run).unwrap();
        new.replace(vec![found(two), found(one)]);
        // The first was gone for a while: it begins anew.
        assert_eq!(in_flight(&new), named(&[(two, 1), (one, 0)]));
        drop((first, second));
        assert_eq!(in_flight(&new), named(&[(two, 0), (one, 0)]));
    }

    #[tokio::test(start_paused = true)]
    async fn checks_mark_shared_targets_only_once_they_are_in_effect() {
        // Nobody ever answers there. Time passes by itself while the checks wait.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("target \"{}\"", silent.local_addr().unwrap());
        let checked = format!("{target}; health-check \"http\" path=\"/wrong\"");
        let state = |upstream: &Upstream| upstream.status().targets[0].state;
        let long = Duration::from_secs(60);
        let old = upstream(&target, None);
        let in_vain = upstream(&checked, Some(&old));
        tokio::time::sleep(long).await;
        assert_eq!(state(&old), "up");
        drop(in_vain);
        let new = upstream(&checked, Some(&old));
        old.retire(Some(&new));
        new.begin();
        tokio::time::sleep(long).await;
        assert_eq!(state(&new), "unhealthy");
        // Whoever takes over knows it, and one that nobody had before is asked at once.
        let next = upstream(&format!("{checked}; balance \"random\""), Some(&new));
        assert_eq!(state(&next), "unhealthy");
        let other = upstream(&checked, None);
        tokio::time::sleep(long).await;
        assert_eq!(state(&other), "unhealthy");
    }

    #[test]
    fn without_targets_the_answer_is_503() {
        let upstream = upstream("target \"127.0.0.1:1\"", None);
        upstream.replace(Vec::new());
        let error = upstream
            .pick(TIMEOUTS, false, Instant::now(), &UpstreamRun::default())
            .unwrap_err();
        assert_eq!(
            crate::reply::from_error(&error),
            Some((503, "upstream_no_targets"))
        );
    }
}
