//! Sockets: who listens where, and whether we would call ourselves.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedListener, ParsedOrigin},
    model::{AdminAddress, AgentTransport, ListenerAddress, ReversePlace, TargetAddress},
    source::Span,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
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
    let listeners = parsed.listeners.iter().filter_map(tcp);
    let probes = parsed
        .probes
        .iter()
        .filter_map(|probes| probes.value.as_ref())
        .map(|address| (address.value, address.span));
    let admin = parsed
        .admin
        .iter()
        .filter_map(|admin| admin.value.as_ref())
        .filter_map(|admin| match admin.value {
            AdminAddress::Tcp(address) => Some((address, admin.span)),
            AdminAddress::Unix(_) => None,
        });
    listeners.chain(probes).chain(admin).chain(dialled(parsed))
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

fn tcp(listener: &ParsedListener) -> Option<(SocketAddr, Span)> {
    let address = listener.address.as_ref()?;
    match address.value {
        ListenerAddress::Tcp(tcp) => Some((tcp, address.span)),
        ListenerAddress::Unix { .. } => None,
    }
}

/// No two listeners on one Unix socket, and none on that of `admin`.
pub(super) fn unix_sockets(parsed: &Parsed, report: &Report) {
    let of_admin = parsed.admin.iter().filter_map(|admin| {
        let admin = admin.value.as_ref()?;
        match &admin.value {
            AdminAddress::Unix(path) => Some((path.as_path(), admin.span)),
            AdminAddress::Tcp(_) => None,
        }
    });
    let of_listeners = parsed.listeners.iter().filter_map(|listener| {
        let address = listener.address.as_ref()?;
        match &address.value {
            ListenerAddress::Unix { path, .. } => Some((path.as_path(), address.span)),
            ListenerAddress::Tcp(_) => None,
        }
    });
    let mut seen: HashMap<&Path, Span> = HashMap::new();
    for (path, span) in of_admin.chain(of_listeners) {
        if let Some(first) = seen.insert(path, span) {
            report.add(
                Diagnostic::error(
                    code::ADDRESS_IN_USE,
                    span,
                    format!("`{}` is listened on twice", path.display()),
                )
                .label("the second")
                .also(first, "the first")
                .help("give one of them another path"),
            );
        }
    }
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
                .filter_map(tcp)
                .find(|(listener, _)| {
                    let ip = listener.ip();
                    let reached =
                        ip == address.ip() || ip.is_unspecified() && address.ip().is_loopback();
                    listener.port() == address.port() && reached
                });
            if let Some((_, own)) = own {
                report.add(
                    Diagnostic::warning(
                        code::PROXY_LOOP,
                        target.span,
                        format!("`{address}` is this proxy itself"),
                    )
                    .also(own, "it listens here")
                    .help("requests may go round in a circle: check that this is meant"),
                );
            }
        }
    }
}
