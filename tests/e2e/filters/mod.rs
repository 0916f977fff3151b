//! Filters in which the proxy asks nobody: limits of rates, of requests at a time and of bodies, lists of addresses, and
//! compression; and pages for errors.

mod addresses;
mod body_limit;
mod compress;
mod concurrency;
mod error_pages;
mod rate;
mod together;
mod variables;

use crate::harness::{Origin, Proxy, Response, proxy::Builder};

/// A proxy that believes who its clients are, with one route through these filters.
fn past(filters: &str, origin: &Origin) -> Builder {
    let kdl = format!(
        r#"
        system {{ trusted-proxies "127.0.0.1" }}
        routes {{ route "all" {{ filters {{ {filters} }}; upstream "origin" }} }}
        "#
    );
    Proxy::builder(kdl).origin(origin)
}

/// Asks as a client with this address.
fn get_from(proxy: &Proxy, address: &str) -> Response {
    proxy.get_with("/", &[&format!("x-forwarded-for: {address}")])
}

/// The statuses of this many requests, each on a connection of its own, so that all workers have their part.
fn statuses(count: usize, ask: impl Fn() -> Response) -> Vec<u16> {
    (0..count).map(|_| ask().status).collect()
}
