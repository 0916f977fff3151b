//! `health-check` and `outlier` of an upstream.

use super::{agent_policy::refuse_bare, cursor::Node, value::Value};
use crate::{
    diagnostic::code,
    model::{FailureStatuses, HealthCheck, HealthCheckKind, Outlier, Share},
    source::Spanned,
};
use std::{ops::RangeInclusive, time::Duration};

/// From one question to the next, when nobody says otherwise.
const INTERVAL: Duration = Duration::from_secs(5);
/// For an answer, when nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
/// More in a row says no more.
const MOST_IN_A_ROW: u32 = 1000;
/// More often would be load, not a question.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
enum Written {
    Http,
    Tcp,
    Grpc,
}

pub(super) fn health_check(node: &mut Node<'_>) -> Option<Spanned<HealthCheck>> {
    let choices = [
        ("http", Written::Http),
        ("tcp", Written::Tcp),
        ("grpc", Written::Grpc),
    ];
    let value = node.argument("\"http\", \"tcp\" or \"grpc\"")?;
    let kind = match value.choice(&choices, &[]) {
        Some(Written::Http) => http(node),
        Some(Written::Tcp) => Some(HealthCheckKind::Tcp),
        Some(Written::Grpc) => grpc(node),
        None => {
            // What belongs to a word that is wrong is looked at, too.
            http(node);
            node.property("service")
                .and_then(|value| value.nonempty_text());
            None
        }
    };
    let interval = match node.property("interval") {
        Some(value) => value.duration(SHORTEST_INTERVAL..=super::value::LONGEST),
        None => Some(INTERVAL),
    };
    let timeout = match node.property("timeout") {
        Some(value) => value.timeout(),
        None => Some(TIMEOUT),
    };
    let mut in_a_row = |name, default| match node.property(name) {
        Some(value) => value.integer(1..=MOST_IN_A_ROW),
        None => Some(default),
    };
    let (healthy, unhealthy) = (in_a_row("healthy", 2), in_a_row("unhealthy", 3));
    Some(Spanned {
        span: node.span(),
        value: HealthCheck {
            kind: kind?,
            interval: interval?,
            timeout: timeout?,
            healthy: healthy?,
            unhealthy: unhealthy?,
        },
    })
}

fn http(node: &mut Node<'_>) -> Option<HealthCheckKind> {
    let path = match node.property("path") {
        Some(value) => path(value),
        None => Some("/".to_owned()),
    };
    let host = host(node);
    let expected = node.block(|block| {
        block.one("status", |node| {
            let values = node.arguments("statuses, such as 200 or \"2xx\"");
            all(values, status)
        })
    });
    Some(HealthCheckKind::Http {
        path: path?,
        host: host?,
        expected: expected.unwrap_or_else(|| vec![200..=299]),
    })
}

fn grpc(node: &mut Node<'_>) -> Option<HealthCheckKind> {
    let service = match node.property("service") {
        Some(value) => value.nonempty_text(),
        None => Some(String::new()),
    };
    let host = host(node);
    Some(HealthCheckKind::Grpc {
        service: service?,
        host: host?,
    })
}

fn path(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text);
    }
    value.report(
        value
            .error(code::INVALID_VALUE, format!("`{text}` is no path"))
            .help("begin it with a slash and write it without spaces, such as \"/healthz\""),
    );
    None
}

/// The outer `None`: it was reported as wrong.
fn host(node: &mut Node<'_>) -> Option<Option<String>> {
    let Some(value) = node.property("host") else {
        return Some(None);
    };
    let text = value.nonempty_text()?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if text.bytes().all(allowed) {
        return Some(Some(text));
    }
    value.report(
        value
            .error(code::INVALID_VALUE, format!("`{text}` is no host"))
            .help("write a host name, with a port if need be, such as \"app.internal\""),
    );
    None
}

/// What all of these mean; each that means nothing is reported.
pub(super) fn all<'a, T>(
    values: Vec<Value<'a>>,
    read: impl Fn(Value<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = values.into_iter().map(read).collect();
    read.into_iter().collect()
}

/// A status, or `2xx` for all that begin so.
pub(super) fn status(value: Value<'_>) -> Option<RangeInclusive<u16>> {
    if matches!(value.raw(), ::kdl::KdlValue::Integer(_)) {
        let status = value.integer(100..=599_u16)?;
        return Some(status..=status);
    }
    let text = value.text()?;
    let statuses = match text.as_bytes() {
        [class @ b'1'..=b'5', b'x', b'x'] => {
            let first = u16::from(class - b'0') * 100;
            Some(first..=first + 99)
        }
        _ => {
            let status = text.parse().ok();
            let status = status.filter(|status| (100..=599).contains(status));
            status.map(|status| status..=status)
        }
    };
    if statuses.is_none() {
        value.report(
            value
                .error(code::INVALID_VALUE, format!("`{text}` is no status"))
                .help("write a number such as 200, or a class such as \"2xx\""),
        );
    }
    statuses
}

pub(super) fn outlier(node: &mut Node<'_>) -> Option<Spanned<Outlier>> {
    refuse_bare(node, "failures=5");
    let failures = match node.property("failures") {
        Some(value) => value.integer(1..=MOST_IN_A_ROW),
        None => Some(5),
    };
    let choices = [
        ("gateway", FailureStatuses::Gateway),
        ("5xx", FailureStatuses::ServerErrors),
        ("none", FailureStatuses::None),
    ];
    let statuses = match node.property("statuses") {
        Some(value) => value.choice(&choices, &[]),
        None => Some(FailureStatuses::default()),
    };
    let mut duration = |name, seconds| match node.property(name) {
        Some(value) => value.timeout().map(|time| (time, Some(value))),
        None => Some((Duration::from_secs(seconds), None)),
    };
    let (eject, max_eject) = (duration("eject", 30), duration("max-eject", 300));
    let max_ejected = match node.property("max-ejected") {
        Some(value) => value.share(Share::of_hundredths(1)..=Share::of_hundredths(Share::WHOLE)),
        None => Some(Share::of_hundredths(5_000)),
    };
    let ((eject, _), (max_eject, written)) = (eject?, max_eject?);
    if let (Some(value), true) = (written, max_eject < eject) {
        value.report(
            value
                .error(
                    code::CONTRADICTION,
                    "the longest time is shorter than the first",
                )
                .help("write a `max-eject` that is not shorter than `eject`"),
        );
        return None;
    }
    Some(Spanned {
        span: node.span(),
        value: Outlier {
            failures: failures?,
            statuses: statuses?,
            eject,
            max_eject: max_eject.max(eject),
            max_ejected: max_ejected?,
        },
    })
}

/// Less than this part of the targets in order is as good as none.
pub(super) fn panic_threshold(node: &mut Node<'_>) -> Option<Spanned<Share>> {
    let value = node.argument("a share, such as \"10%\"")?;
    let share = value.share(Share::of_hundredths(0)..=Share::of_hundredths(Share::WHOLE))?;
    Some(Spanned {
        value: share,
        span: node.span(),
    })
}
