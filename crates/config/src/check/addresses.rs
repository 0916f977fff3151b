//! Sockets: who listens where, and whether we would call ourselves.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedOrigin},
    model::{AdminAddress, AgentTransport, ReversePlace, TargetAddress},
    source::Span,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

/// At least one listener, and no two sockets on one address.
pub(super) fn listeners(parsed: &Parsed, report: &Report) {
    if !parsed.listener_written {
        report.add(
            Diagnostic::error(
                code::NO_LISTENERS,
                Span::new(0, 0..0),
                "there is no listener, so nobody could connect",
            )
            .help("add `listeners { listener \"http\" { address \"0.0.0.0:8080\" } }`"),
        );
    }
    let mut by_port: HashMap<u16, Vec<(SocketAddr, Span)>> = HashMap::new();
    for (address, span) in sockets(parsed) {
        // With port 0 the system chooses, and never the same twice.
        if address.port() == 0 {
            continue;
        }
        let others = by_port.entry(address.port()).or_default();
        if let Some((other, first)) = others
            .iter()
            .find(|(other, _)| overlap(other.ip(), address.ip()))
        {
            let message = if *other == address {
                format!("`{address}` is listened on twice")
            } else {
                format!("`{address}` and `{other}` are the same port of the same machine")
            };
            report.add(
                Diagnostic::error(code::ADDRESS_IN_USE, span, message)
                    .label("the second")
                    .also(*first, "the first")
                    .help("give one of them another port"),
            );
        }
        others.push((address, span));
    }
}

fn sockets(parsed: &Parsed) -> impl Iterator<Item = (SocketAddr, Span)> {
    let listeners = parsed
        .listeners
        .iter()
        .filter_map(|listener| listener.address.as_ref());
    let probes = parsed
        .probes
        .iter()
        .filter_map(|probes| probes.value.as_ref());
    let admin = parsed
        .admin
        .iter()
        .filter_map(|admin| admin.value.as_ref())
        .filter_map(|admin| match admin.value {
            AdminAddress::Tcp(address) => Some((address, admin.span)),
            AdminAddress::Unix(_) => None,
        });
    listeners
        .chain(probes)
        .map(|address| (address.value, address.span))
        .chain(admin)
        .chain(dialled(parsed))
}

/// Where agents dial us. Several may dial one address.
fn dialled(parsed: &Parsed) -> Vec<(SocketAddr, Span)> {
    let mut addresses: Vec<(SocketAddr, Span)> = Vec::new();
    for agent in &parsed.agents {
        if let Some(AgentTransport::Reverse(reverse)) = &agent.transport
            && let ReversePlace::Tls { address, .. } = &reverse.place
            && addresses.iter().all(|(other, _)| other != address)
        {
            addresses.push((*address, agent.span));
        }
    }
    addresses
}

/// Whether two sockets on one port get in each other's way. The two families do not: each has its own wildcard.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one == other
        || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
}

/// Warning: a target that is one of our listeners sends requests round in a circle, unless routes tell them apart.
pub(super) fn loops(parsed: &Parsed, report: &Report) {
    for upstream in &parsed.upstreams {
        let Some(ParsedOrigin::Targets(targets)) = &upstream.origin else {
            continue;
        };
        for target in targets {
            let TargetAddress::Socket(address) = target.value.address else {
                continue;
            };
            let own = parsed
                .listeners
                .iter()
                .filter_map(|listener| listener.address.as_ref())
                .find(|listener| {
                    let ip = listener.value.ip();
                    let reached =
                        ip == address.ip() || ip.is_unspecified() && address.ip().is_loopback();
                    listener.value.port() == address.port() && reached
                });
            if let Some(own) = own {
                report.add(
                    Diagnostic::warning(
                        code::PROXY_LOOP,
                        target.span,
                        format!("`{address}` is this proxy itself"),
                    )
                    .also(own.span, "it listens here")
                    .help("requests may go round in a circle: check that this is meant"),
                );
            }
        }
    }
}
