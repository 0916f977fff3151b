//! `rate-limit` and `concurrency-limit`: how often, and how many at a time.

use super::RouteId;
use std::time::Duration;

/// A line of the configuration that keeps counts. Its counts go over to the next configuration in which there is the same
/// line, and are common to all routes that it takes part in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitLine {
    /// Where it is written.
    pub owner: LimitOwner,
    /// Which of the limits of its kind there, from 0.
    pub number: usize,
}

/// What a limit is written in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitOwner {
    /// The `filters` of a route.
    Route(RouteId),
    /// A chain, by its name: the limit is one for all routes that use it.
    Chain(String),
}

/// What becomes of a request that a filter of the proxy's own would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Enforcement {
    /// It is refused.
    #[default]
    Enforce,
    /// It is counted and goes on.
    Shadow,
}

/// How many requests there may be in a time, for each key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Requests per [`per`](Self::per). 1 to 1 000 000.
    pub requests: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
    /// Requests that may come at once after a pause. Default: [`requests`](Self::requests). No more than come in 24 hours.
    pub burst: u32,
    /// What requests have in common that are counted together. Never empty.
    pub key: Vec<LimitKey>,
    /// Keys that are kept; beyond it the one that is nearest to its whole burst goes. Default 100 000; 1000 to 10 000 000.
    pub max_keys: usize,
    /// What is too much is answered with it. Default 429; 400 to 599.
    pub status: u16,
    /// Whether responses say what is left, in `RateLimit` and `RateLimit-Policy`. Default true.
    pub headers: bool,
    /// Whether what is too much is refused.
    pub mode: Enforcement,
}

/// How many requests there may be at a time, for each key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConcurrencyLimit {
    /// Requests at a time. 1 to 1 000 000.
    pub most: usize,
    /// What requests have in common that are counted together. Never empty.
    pub key: Vec<LimitKey>,
    /// What is too much is answered with it. Default 503; 400 to 599.
    pub status: u16,
    /// Whether what is too much is refused.
    pub mode: Enforcement,
}

/// A part of what requests have in common that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// The client's address, after trusted proxies were looked through; of IPv6 the /64.
    ClientIp,
    /// The values of a header, whose name is in lower case. Requests without it have one in common.
    Header(String),
    /// The route.
    Route,
    /// The certificate that the client has shown, by its fingerprint. Requests without one have that in common.
    Certificate,
}
