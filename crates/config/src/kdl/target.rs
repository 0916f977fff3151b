//! `target "…"`, `target srv="…"`, `target unix-socket="…"` and `targets-file "…"`.

use super::{
    address::{self, Use},
    connect::is_host,
    cursor::Node,
    value::{LONGEST, Value},
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{Target, TargetAddress},
    source::Spanned,
};
use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

/// How often names are asked for and files looked at.
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=LONGEST;
/// How often a file is looked at where nothing is written.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

pub(super) fn target(node: &mut Node<'_>) -> Option<Spanned<Target>> {
    let written = node.optional_argument();
    let srv = node.property("srv");
    let unix = node.property("unix-socket");
    let weight = node.property("weight");
    let resolve_value = node.property("resolve");
    let is_backup = match node.property("backup") {
        Some(value) => value.boolean(),
        None => Some(false),
    };
    let weight = weight.map_or(Some(1), |value| value.integer(1..=1000_u32));
    let resolve = resolve_value.map(|value| value.duration(INTERVALS));
    let places: Vec<Value<'_>> = [written, srv, unix].into_iter().flatten().collect();
    let [place] = places[..] else {
        node.report(not_one_place(node, places.len()));
        return None;
    };
    let address = match (srv, unix) {
        (Some(value), _) => service(value)?,
        (_, Some(value)) => TargetAddress::Unix(value.socket_path("")?),
        _ => host(place)?,
    };
    let address = resolved(address, resolve_value, resolve)?;
    Some(place.spanned(Target {
        address,
        weight: weight?,
        is_backup: is_backup?,
    }))
}

fn not_one_place(node: &Node<'_>, places: usize) -> Diagnostic {
    const ADDRESS: &str = "`target \"10.0.0.11:8080\"`";
    match places {
        0 => node
            .error(code::MISSING, "this target is nowhere")
            .help(format!(
                "write {ADDRESS}, `target srv=\"_http._tcp.backend.internal\"` or `target unix-socket=\"/run/app.sock\"`"
            )),
        _ => node
            .error(code::CONTRADICTION, "this target is at two places")
            .help("keep one of address, `srv` and `unix-socket`, and write another `target` for the other"),
    }
}

/// Puts in how often it is resolved, which is of no use to what is not resolved.
fn resolved(
    address: TargetAddress,
    written: Option<Value<'_>>,
    interval: Option<Option<Duration>>,
) -> Option<TargetAddress> {
    match (address, written, interval) {
        (TargetAddress::Name { host, port, .. }, _, interval) => Some(TargetAddress::Name {
            host,
            port,
            resolve: interval.map_or(Some(None), |interval| interval.map(Some))?,
        }),
        (TargetAddress::Service { name, .. }, _, interval) => Some(TargetAddress::Service {
            name,
            resolve: interval.map_or(Some(None), |interval| interval.map(Some))?,
        }),
        (address, Some(value), _) => {
            value.report(
                value
                    .error(
                        code::CONTRADICTION,
                        format!("`resolve` has no effect: `{address}` is not a name"),
                    )
                    .help("remove it"),
            );
            None
        }
        (address, None, _) => Some(address),
    }
}

/// `IP:PORT` or `NAME:PORT`.
fn host(value: Value<'_>) -> Option<TargetAddress> {
    let text = value.text()?;
    if text.parse::<SocketAddr>().is_err()
        && let Some((host, port)) = text.rsplit_once(':')
        && is_host(host)
        && let Ok(port) = port.parse::<u16>()
        && port != 0
    {
        return Some(TargetAddress::Name {
            host: host.to_ascii_lowercase(),
            port,
            resolve: None,
        });
    }
    let address = address::socket_address(value, Use::Connect)?;
    Some(TargetAddress::Socket(address.value))
}

fn service(value: Value<'_>) -> Option<TargetAddress> {
    let name = value.nonempty_text()?;
    if is_host(&name) {
        return Some(TargetAddress::Service {
            name: name.to_ascii_lowercase(),
            resolve: None,
        });
    }
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{name}` is not the name of SRV records"),
            )
            .help("write service, protocol and name, such as \"_http._tcp.backend.internal\"; the port is in the records"),
    );
    None
}

/// `targets-file "PATH" interval="2s"`.
pub(super) fn targets_file(node: &mut Node<'_>) -> Option<Spanned<Target>> {
    let value = node.argument("the path of a file with an address in each line")?;
    let interval = node.property("interval");
    let interval = interval.map_or(Some(FILE_INTERVAL), |value| value.duration(INTERVALS));
    Some(value.spanned(Target {
        address: TargetAddress::File {
            path: value.path()?,
            interval: interval?,
        },
        weight: 1,
        is_backup: false,
    }))
}
