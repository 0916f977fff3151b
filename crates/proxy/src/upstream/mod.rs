//! Where requests go: the targets of an upstream and which of them is next.

pub(crate) mod echo;
mod schedule;
mod set;
mod target;

use crate::{
    request::UpstreamRun,
    snapshot::{Action, Route, Timeouts},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use pingora::{
    Error,
    ErrorType::{CustomCode, InternalError},
    Result,
    protocols::ALPN,
    upstreams::peer::{HttpPeer, Peer},
};
use portcullis_config::{Origin, UpstreamId, UpstreamProtocol};
use set::TargetSet;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
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
    let Action::Upstream(upstream) = &route.action else {
        return Error::e_explain(InternalError, "the route has no upstream");
    };
    let now = Instant::now();
    let (attempt, peer) = upstream.pick(route.timeouts, switches, now)?;
    // The attempt before it is over.
    run.attempt = Some(attempt);
    run.attempts += 1;
    run.asked_after.get_or_insert_with(|| now - started);
    Ok(peer)
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
    let targets = match &route.action {
        Action::Upstream(upstream) => upstream.len(),
        Action::Redirect { .. } | Action::Respond(_) => 1,
    };
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
    /// Those that there are now.
    targets: ArcSwap<TargetSet>,
}

impl Upstream {
    /// An upstream as it is configured, with the state of those targets that the one before it has too.
    ///
    /// # Errors
    /// The path of the echo origin's socket is too long for the system.
    pub(crate) fn new(
        upstream: &portcullis_config::Upstream,
        echo_socket: &Path,
        previous: Option<&Self>,
    ) -> std::result::Result<Self, String> {
        let known = previous.map(|previous| previous.targets.load_full());
        let set = TargetSet::new(
            written(&upstream.origin, echo_socket)?,
            |peer| configured(peer, upstream),
            |address| known.as_ref().and_then(|known| known.state(address)),
        );
        Ok(Self {
            id: upstream.id.clone(),
            config: upstream.clone(),
            timeouts: Timeouts {
                response_header: upstream.timeouts.response_header,
                idle: upstream.timeouts.idle,
            },
            targets: ArcSwap::from_pointee(set),
        })
    }

    /// From now on these are the targets. Those that were there before keep their state; requests that others have come to
    /// their end. Called from one thread at a time.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for those who find targets at run time")
    )]
    pub(crate) fn replace(&self, found: Vec<FoundTarget>) {
        let old = self.targets.load_full();
        self.targets.store(Arc::new(TargetSet::new(
            found,
            |peer| configured(peer, &self.config),
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
        self.config.protocol == UpstreamProtocol::H2c
    }

    /// How many targets there are now.
    fn len(&self) -> usize {
        self.targets.load().targets().len()
    }

    /// The next target, with these waits. A connection that was upgraded may be silent for as long as it likes.
    fn pick(
        &self,
        timeouts: Timeouts,
        upgrade: bool,
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
        Ok((Attempt::begin(target.clone(), now), peer))
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

/// The targets that the configuration names.
fn written(origin: &Origin, echo_socket: &Path) -> std::result::Result<Vec<FoundTarget>, String> {
    Ok(match origin {
        Origin::Targets(targets) => targets
            .iter()
            .map(|target| FoundTarget {
                address: Some(target.address.to_string().into()),
                peer: HttpPeer::new(target.address, false, String::new()),
                weight: target.weight,
            })
            .collect(),
        Origin::BuiltinEcho => {
            let path = echo_socket.display().to_string();
            let peer = HttpPeer::new_uds(&path, false, String::new())
                .map_err(|error| format!("{path}: {error}"))?;
            vec![FoundTarget {
                address: None,
                peer,
                weight: 1,
            }]
        }
    })
}

fn configured(mut peer: HttpPeer, upstream: &portcullis_config::Upstream) -> HttpPeer {
    /// Connections that nobody uses are kept for this long.
    const KEPT: Duration = Duration::from_secs(60);
    let timeouts = &upstream.timeouts;
    if let Some(options) = peer.get_mut_peer_options() {
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.write_timeout = Some(timeouts.idle);
        options.idle_timeout = Some(KEPT);
        if upstream.protocol == UpstreamProtocol::H2c {
            options.alpn = ALPN::H2;
            options.max_h2_streams = 100;
        }
    }
    // Pingora's pool does not tell connections of different protocols apart by itself.
    peer.group_key = match upstream.protocol {
        UpstreamProtocol::Http1 => 1,
        UpstreamProtocol::H2c => 2,
    };
    peer
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        response_header: Duration::from_secs(1),
        idle: Duration::from_secs(1),
    };

    /// An upstream with these lines in its block, in the place of another.
    pub(super) fn upstream(lines: &str, previous: Option<&Upstream>) -> Upstream {
        let text = format!(
            "schema-version \"1\"\nlisteners {{ listener \"a\" {{ address \"127.0.0.1:1\" }} }}\n\
             upstreams {{ upstream \"pool\" {{ {lines} }} }}"
        );
        let loaded = portcullis_config::load_str("test.kdl", &text, Path::new("/"), &|_| None);
        let config = loaded.unwrap().config;
        Upstream::new(&config.upstreams[0], Path::new("/echo"), previous).unwrap()
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
        let (first, _) = old.pick(TIMEOUTS, false, now).unwrap();
        let both = format!("target \"{one}\"; target \"{two}\"");
        let new = upstream(&both, Some(&old));
        drop(old);
        assert_eq!(in_flight(&new), named(&[(one, 1), (two, 0)]));
        new.replace(vec![found(two)]);
        assert_eq!(in_flight(&new), named(&[(two, 0)]));
        let (second, _) = new.pick(TIMEOUTS, false, now).unwrap();
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
        let error = upstream.pick(TIMEOUTS, false, Instant::now()).unwrap_err();
        assert_eq!(
            crate::reply::from_error(&error),
            Some((503, "upstream_no_targets"))
        );
    }
}
