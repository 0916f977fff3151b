//! `rate-limit` and `concurrency-limit`: what is counted together, and counts that outlive a configuration.
//!
//! A line of the configuration is one limit, whatever number of routes it takes part in: the routes have steps, which share what
//! is counted. Counts are the process's, common to all workers, and go over to the next snapshot where the line stays the same.

mod concurrency;
mod rate;
mod table;

use super::refusal::Refusal;
use crate::{request::Request, server::limits::client_group, snapshot::Snapshot};
use concurrency::Concurrency;
pub(crate) use concurrency::{ConcurrencyLimit, Place};
use http::HeaderName;
use pingora::http::RequestHeader;
use portcullis_config::{LimitKey, LimitLine};
use rate::Rate;
pub(crate) use rate::RateLimit;
use smallvec::SmallVec;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::Arc,
};

/// Counts by the lines that they belong to, and what these say.
type Known<L, C> = HashMap<LimitLine, (L, Arc<C>)>;

/// The limits of a configuration.
#[derive(Default)]
pub(crate) struct Limits {
    rates: Known<portcullis_config::RateLimit, Rate>,
    concurrencies: Known<portcullis_config::ConcurrencyLimit, Concurrency>,
}

impl Limits {
    /// The step of a route for this line.
    ///
    /// # Errors
    /// A key with a name that is no header name.
    pub(super) fn rate(
        &mut self,
        line: &LimitLine,
        limit: &portcullis_config::RateLimit,
        previous: Option<&Snapshot>,
        refusal: Refusal,
    ) -> Result<RateLimit, String> {
        let before = previous.map(|previous| &previous.limits.rates);
        let make = || Rate::new(limit);
        let rate = known(&mut self.rates, before, line, limit, make)?;
        Ok(RateLimit::new(rate, limit, refusal))
    }

    /// The step of a route for this line.
    ///
    /// # Errors
    /// A key with a name that is no header name.
    pub(super) fn concurrency(
        &mut self,
        line: &LimitLine,
        limit: &portcullis_config::ConcurrencyLimit,
        previous: Option<&Snapshot>,
        refusal: Refusal,
    ) -> Result<ConcurrencyLimit, String> {
        let before = previous.map(|previous| &previous.limits.concurrencies);
        let make = || Concurrency::new(limit);
        let counts = known(&mut self.concurrencies, before, line, limit, make)?;
        Ok(ConcurrencyLimit::new(counts, limit, refusal))
    }
}

/// The counts of a line: those of another route that has it too, else those of the configuration before, else new ones.
fn known<L: Clone + PartialEq, C>(
    known: &mut Known<L, C>,
    before: Option<&Known<L, C>>,
    line: &LimitLine,
    limit: &L,
    make: impl FnOnce() -> Result<C, String>,
) -> Result<Arc<C>, String> {
    let same = |known: &Known<L, C>| {
        let (said, counts) = known.get(line)?;
        (said == limit).then(|| counts.clone())
    };
    if let Some(counts) = same(known) {
        return Ok(counts);
    }
    let counts = match before.and_then(same) {
        Some(counts) => counts,
        None => Arc::new(make()?),
    };
    known.insert(line.clone(), (limit.clone(), counts.clone()));
    Ok(counts)
}

/// What the limits of its route know of a request.
#[derive(Default)]
pub(crate) struct LimitRun {
    /// Given back when the request is over, however it ends.
    places: SmallVec<[Place; 1]>,
    /// What is left, by the place of the limit in the chain.
    left: SmallVec<[(usize, u32); 1]>,
}

/// What requests have in common that are counted together. Only a hash of it is kept, with a secret of its own: nobody can
/// make two that fall together, and nothing of what clients send stays.
#[derive(Debug)]
struct Key {
    parts: Vec<Part>,
    secret: RandomState,
}

#[derive(Debug)]
enum Part {
    ClientIp,
    Header(HeaderName),
    Route,
    Certificate,
}

impl Key {
    fn new(parts: &[LimitKey]) -> Result<Self, String> {
        let part = |part: &LimitKey| {
            Ok(match part {
                LimitKey::ClientIp => Part::ClientIp,
                LimitKey::Header(name) => {
                    let parsed = HeaderName::from_bytes(name.as_bytes());
                    Part::Header(parsed.map_err(|_| format!("header name {name}"))?)
                }
                LimitKey::Route => Part::Route,
                LimitKey::Certificate => Part::Certificate,
            })
        };
        Ok(Self {
            parts: parts.iter().map(part).collect::<Result<_, String>>()?,
            secret: RandomState::new(),
        })
    }

    fn of(&self, head: &RequestHeader, request: &Request) -> u64 {
        let mut state = self.secret.build_hasher();
        for part in &self.parts {
            match part {
                Part::ClientIp => {
                    let begun = request.begun.as_ref();
                    begun
                        .map(|begun| client_group(begun.identity.ip))
                        .hash(&mut state);
                }
                Part::Header(name) => {
                    let mut lines: usize = 0;
                    for value in head.headers.get_all(name) {
                        value.as_bytes().hash(&mut state);
                        lines += 1;
                    }
                    lines.hash(&mut state);
                }
                Part::Route => {
                    let route = request.route.as_deref();
                    route.map(|route| &*route.id).hash(&mut state);
                }
                Part::Certificate => {
                    let tls = request
                        .begun
                        .as_ref()
                        .and_then(|begun| begun.connection.tls.as_ref());
                    let certificate = tls.and_then(|tls| tls.client.as_ref());
                    let fingerprint = certificate.map(|certificate| &*certificate.fingerprint);
                    fingerprint.hash(&mut state);
                }
            }
        }
        state.finish()
    }
}
