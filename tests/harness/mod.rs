//! What the end-to-end tests are made of: the real proxy as a process, a raw client, an origin that records, and agents that
//! do as they are told. Everything is on free ports and in folders of its own, so that tests run at the same time.

pub(crate) mod agent;
mod agent_json;
mod agent_process;
mod agent_raw;
pub(crate) mod agent_ways;
pub(crate) mod authz;
pub(crate) mod client;
pub(crate) mod dns;
pub(crate) mod ext_proc;
mod frame_decision;
pub(crate) mod frame_origin;
pub(crate) mod frames;
pub(crate) mod grpc;
pub(crate) mod http2;
pub(crate) mod http2_origin;
mod lines;
pub(crate) mod old_agent;
pub(crate) mod origin;
pub(crate) mod parrot;
pub(crate) mod proxy;
pub(crate) mod saboteur;
pub(crate) mod tamper;
pub(crate) mod tls;
pub(crate) mod tls_front;
pub(crate) mod tls_tail;

pub(crate) use agent::TestAgent;
pub(crate) use client::{RawClient, Response};
pub(crate) use http2_origin::{Http2Answer, Http2Origin};
pub(crate) use origin::{Answer, Origin, Recorded};
pub(crate) use proxy::Proxy;
pub(crate) use saboteur::{Sabotage, Saboteur};
pub(crate) use tamper::Tamper;
pub(crate) use tls::{Authority, TestCertificate};

use std::time::{Duration, Instant};

/// How long anything that is waited for may take. Only a test that fails takes that long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until `condition` yields something.
///
/// # Panics
/// It did not within [`DEADLINE`].
pub(crate) fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, condition)
}

/// The same for what takes longer.
pub(crate) fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The position of `needle` in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
