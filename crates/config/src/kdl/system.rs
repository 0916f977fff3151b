//! `system { … }`.

use super::{
    address::{self, Use},
    cursor::{Block, Node},
    value::LONGEST,
};
use crate::model::{ByteSize, DoubleSlash, EncodedSlash, PathPolicy, Share, System};
use std::{net::SocketAddr, time::Duration};

/// Less could not hold one body of the usual size.
const LEAST_MEMORY: ByteSize = ByteSize::mib(1);
/// Less would refuse what clients send beside each other anyway.
const LEAST_SHARE: Share = Share::of_hundredths(100);
const WHOLE: Share = Share::of_hundredths(Share::WHOLE);
/// More is a slip of the unit.
const MOST_MEMORY: ByteSize = ByteSize::mib(1 << 20);

pub(super) fn system(node: &mut Node<'_>) -> System {
    let default = System::default();
    node.block(|block| {
        let any = Duration::ZERO..=LONGEST;
        let mut per_client = None;
        System {
            worker_threads: block
                .one("worker-threads", |node| {
                    node.argument("a number; 0 is one per CPU")?.count(0..=1024)
                })
                .unwrap_or(default.worker_threads),
            max_connections: block
                .one("max-connections", |node| {
                    node.argument("a number of connections")?
                        .count(1..=10_000_000)
                })
                .unwrap_or(default.max_connections),
            buffer_memory: block
                .one("buffer-memory", |node| {
                    let share = node.property("per-client");
                    per_client = share.and_then(|value| value.share(LEAST_SHARE..=WHOLE));
                    node.argument("a size, such as \"256MiB\"")?
                        .size(LEAST_MEMORY..=MOST_MEMORY)
                })
                .unwrap_or(default.buffer_memory),
            buffer_memory_per_client: per_client.unwrap_or(default.buffer_memory_per_client),
            shutdown_grace: block
                .one("shutdown-grace", |node| {
                    node.argument("a duration, such as \"10s\"")?
                        .duration(any.clone())
                })
                .unwrap_or(default.shutdown_grace),
            drain_delay: block
                .one("drain-delay", |node| {
                    node.argument("a duration, such as \"10s\"")?
                        .duration(any.clone())
                })
                .unwrap_or(default.drain_delay),
            trusted_proxies: block
                .one("trusted-proxies", address::networks)
                .unwrap_or_default(),
            resolver: block.one("resolver", resolver).unwrap_or_default(),
            path: block
                .one("path", |node| Some(node.block(path_policy)))
                .unwrap_or_default(),
        }
    })
}

/// Servers of names, by address and port.
fn resolver(node: &mut Node<'_>) -> Option<Vec<SocketAddr>> {
    let values = node.arguments("the address and port of a DNS server, such as \"10.0.0.2:53\"");
    // All of them are looked at, whatever is wrong with one.
    let servers = values.into_iter().filter_map(|value| {
        let address = address::socket_address(value, Use::Resolver)?;
        Some(address.value)
    });
    Some(servers.collect())
}

fn path_policy(block: &mut Block<'_>) -> PathPolicy {
    let encoded = [
        ("refuse", EncodedSlash::Refuse),
        ("keep", EncodedSlash::Keep),
    ];
    let double = [
        ("merge", DoubleSlash::Merge),
        ("refuse", DoubleSlash::Refuse),
        ("keep", DoubleSlash::Keep),
    ];
    PathPolicy {
        encoded_slash: block
            .one("encoded-slash", |node| {
                node.argument("\"refuse\" or \"keep\"")?
                    .choice(&encoded, &[])
            })
            .unwrap_or_default(),
        double_slash: block
            .one("double-slash", |node| {
                node.argument("\"merge\", \"refuse\" or \"keep\"")?
                    .choice(&double, &[])
            })
            .unwrap_or_default(),
    }
}
