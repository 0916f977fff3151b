//! Where requests go: the targets of an upstream and which of them is next.

pub(crate) mod connect;
pub(crate) mod echo;
mod places;
mod proxy_header;
mod schedule;
mod set;
mod target;
pub(crate) mod tls;

use crate::{
    request::UpstreamRun,
    snapshot::{Route, Timeouts},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use connect::Connect;
use pingora::{
    Error,
    ErrorType::{CustomCode, InternalError, TLSHandshakeFailure},
    Result,
    http::RequestHeader,
    upstreams::peer::HttpPeer,
};
pub(crate) use places::Places;
use portcullis_config::UpstreamId;
pub(crate) use proxy_header::Ends;
use set::TargetSet;
use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};
pub(crate) use target::{Attempt, FoundTarget};

/// The next target of the route's upstream.
///
/// # Errors
/// The upstream has no targets at present.
pub(crate) fn choose(
    route: &Route,
    switches: bool,
    started: Instant,
    run: &mut UpstreamRun,
) -> Result<Box<HttpPeer>> {
    let Some(upstream) = route.upstream() else {
        return Error::e_explain(InternalError, "the route has no upstream");
    };
    let now = Instant::now();
    let (attempt, peer) = upstream.pick(route.timeouts, switches, run.ends, now)?;
    // The attempt before it is over.
    run.attempt = Some(attempt);
    run.attempts += 1;
    run.asked_after.get_or_insert_with(|| now - started);
    Ok(peer)
}

/// A target that shows a certificate and does not agree to HTTP/2 would be asked over HTTP/1.1 by Pingora.
///
/// # Errors
/// The request is about to go out in another protocol than the upstream's.
pub(crate) fn as_agreed(route: &Route, head: &RequestHeader) -> Result<()> {
    match route.upstream() {
        Some(upstream) if upstream.is_http2() && head.version != http::Version::HTTP_2 => {
            let error = Error::explain(TLSHandshakeFailure, "the target does not agree to HTTP/2");
            Err(error.into_up())
        }
        _ => Ok(()),
    }
}

/// The head of the response has come.
pub(crate) fn answered(status: u16, started: Instant, run: &mut UpstreamRun) {
    let now = Instant::now();
    run.status = Some(status);
    run.header_after = Some(now - started);
    if let Some(attempt) = &mut run.attempt {
        attempt.answered(now);
    }
}

/// Nothing was sent, so another target may be tried, as often as there are some.
pub(crate) fn after_failed_connect(
    route: &Route,
    run: &UpstreamRun,
    mut error: Box<Error>,
) -> Box<Error> {
    let targets = route.upstream().map_or(1, |upstream| {
        upstream.complain(run, &error);
        upstream.len()
    });
    error.set_retry((run.attempts as usize) < targets);
    error
}

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
    /// Those that there are now.
    targets: ArcSwap<TargetSet>,
}

impl Upstream {
    /// An upstream as it is configured, with the state of those targets that the one before it has too.
    pub(crate) fn new(
        upstream: &portcullis_config::Upstream,
        connect: Connect,
        places: Places,
        previous: Option<&Self>,
    ) -> Self {
        let known = previous.map(|previous| previous.targets.load_full());
        let set = TargetSet::new(
            places.targets(),
            |peer| connect.configured(peer),
            |address| known.as_ref().and_then(|known| known.state(address)),
        );
        Self {
            id: upstream.id.clone(),
            config: upstream.clone(),
            timeouts: Timeouts {
                response_header: upstream.timeouts.response_header,
                idle: upstream.timeouts.idle,
                total: upstream.timeouts.total,
            },
            connect,
            places,
            targets: ArcSwap::from_pointee(set),
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

    /// From now on these are the targets. Those that were there before keep their state; requests that others have come to
    /// their end. Called from one thread at a time.
    fn replace(&self, found: Vec<FoundTarget>) {
        let old = self.targets.load_full();
        self.targets.store(Arc::new(TargetSet::new(
            found,
            |peer| self.connect.configured(peer),
            |address| old.state(address),
        )));
    }

    /// The targets as they are now, for whoever wants to know.
    pub(crate) fn status(&self) -> Vec<TargetStatus> {
        let set = self.targets.load();
        let status = set.targets().iter().map(|target| TargetStatus {
            address: target.address.clone(),
            weight: target.weight,
            in_flight: target.state.in_flight(),
        });
        status.collect()
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
            let address = run.attempt.as_ref().and_then(Attempt::address);
            let address = address.map_or("", |address| address);
            tracing::warn!(upstream = %self.id, address, %error, "TLS to a target does not come about");
        }
    }

    /// How many targets there are now.
    fn len(&self) -> usize {
        self.targets.load().targets().len()
    }

    /// The next target, with these waits. A connection that was upgraded may be silent for as long as it likes.
    pub(crate) fn pick(
        &self,
        timeouts: Timeouts,
        upgrade: bool,
        ends: Option<Ends>,
        now: Instant,
    ) -> Result<(Attempt, Box<HttpPeer>)> {
        let set = self.targets.load();
        let Some(target) = set.pick() else {
            return Error::e_explain(CustomCode("upstream_no_targets", 503), "no targets");
        };
        let mut peer = Box::new(target.peer.clone());
        // Pingora has one limit for all reads; where it can, the client's stream keeps the two apart.
        let longest = timeouts.response_header.max(timeouts.idle);
        peer.options.read_timeout = (!upgrade).then_some(longest);
        let attempt = Attempt::begin(target.clone(), now);
        self.connect
            .adapt(&mut peer, target.state.in_flight(), ends);
        Ok((attempt, peer))
    }
}

/// How a target is doing, for people.
#[derive(Debug)]
pub(crate) struct TargetStatus {
    /// The echo origin has none.
    pub(crate) address: Option<Arc<str>>,
    pub(crate) weight: u32,
    pub(crate) in_flight: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Discovery;
    use std::{path::Path, time::Duration};

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
        Upstream::new(config, connect, places, previous)
    }

    /// Addresses of all targets, with the requests that they have.
    fn in_flight(upstream: &Upstream) -> Vec<(String, u32)> {
        let status = upstream.status().into_iter();
        let text = |target: TargetStatus| (target.address.unwrap().to_string(), target.in_flight);
        status.map(text).collect()
    }

    fn found(address: &str) -> FoundTarget {
        FoundTarget {
            address: Some(address.into()),
            peer: HttpPeer::new(address, false, String::new()),
            weight: 1,
        }
    }

    #[test]
    fn requests_are_counted_over_reloads_and_replaced_targets() {
        let now = Instant::now();
        let (one, two) = ("127.0.0.1:1", "127.0.0.1:2");
        let named = |counts: &[(&str, u32)]| -> Vec<_> {
            let named = counts
                .iter()
                .map(|(name, count)| (name.to_string(), *count));
            named.collect()
        };
        let old = upstream(&format!("target \"{one}\""), None);
        let (first, _) = old.pick(TIMEOUTS, false, None, now).unwrap();
        let both = format!("target \"{one}\"; target \"{two}\"");
        let new = upstream(&both, Some(&old));
        drop(old);
        assert_eq!(in_flight(&new), named(&[(one, 1), (two, 0)]));
        new.replace(vec![found(two)]);
        assert_eq!(in_flight(&new), named(&[(two, 0)]));
        let (second, _) = new.pick(TIMEOUTS, false, None, now).unwrap();
        new.replace(vec![found(two), found(one)]);
        // The first was gone for a while: it begins anew.
        assert_eq!(in_flight(&new), named(&[(two, 1), (one, 0)]));
        drop((first, second));
        assert_eq!(in_flight(&new), named(&[(two, 0), (one, 0)]));
    }

    #[test]
    fn without_targets_the_answer_is_503() {
        let upstream = upstream("target \"127.0.0.1:1\"", None);
        upstream.replace(Vec::new());
        let error = upstream
            .pick(TIMEOUTS, false, None, Instant::now())
            .unwrap_err();
        assert_eq!(
            crate::reply::from_error(&error),
            Some((503, "upstream_no_targets"))
        );
    }
}
