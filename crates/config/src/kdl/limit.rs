//! `rate-limit`, `concurrency-limit` and `body-limit` in `filters`.

use super::{
    cursor::Node,
    header, unit,
    value::{LONGEST, Value},
};
use crate::{
    diagnostic::{code, did_you_mean},
    model::{ByteSize, ConcurrencyLimit, Enforcement, LimitKey, RateLimit},
    source::Spanned,
};
use std::time::Duration;

/// More than one process serves.
const MOST_REQUESTS: u32 = 1_000_000;
/// More is a slip of the unit.
const MOST_BODY: ByteSize = ByteSize::mib(1 << 20);

const RATE: &str = "a rate, such as \"100/s\" or \"6000/m\"";

pub(super) fn rate_limit(node: &mut Node<'_>) -> Option<Spanned<RateLimit>> {
    let rate = node.argument(RATE).and_then(rate);
    let written_burst = node.property("burst");
    let burst = written_burst.map(|value| value.integer(1..=10_000_000_u32));
    let key = key(node);
    let max_keys = node
        .property("max-keys")
        .map_or(Some(100_000), |value| value.count(1000..=10_000_000));
    let status = status(node, 429);
    let headers = node
        .property("headers")
        .map_or(Some(true), |value| value.boolean());
    let mode = mode(node);
    let (requests, per) = rate?;
    let burst = burst.unwrap_or(Some(requests))?;
    let whole = per.saturating_mul(burst) / requests;
    if let (Some(value), true) = (written_burst, whole > LONGEST) {
        value.report(
            value
                .error(
                    code::OUT_OF_RANGE,
                    format!("a burst of {burst} is more than comes in 24 hours at this rate"),
                )
                .help("write a smaller number, or a higher rate"),
        );
        return None;
    }
    Some(Spanned {
        value: RateLimit {
            requests,
            per,
            burst,
            key: key?,
            max_keys: max_keys?,
            status: status?,
            headers: headers?,
            mode: mode?,
        },
        span: node.span(),
    })
}

pub(super) fn concurrency_limit(node: &mut Node<'_>) -> Option<Spanned<ConcurrencyLimit>> {
    let most = node
        .argument("how many requests there may be at a time, such as 100")
        .and_then(|value| value.count(1..=MOST_REQUESTS));
    let key = key(node);
    let status = status(node, 503);
    let mode = mode(node);
    Some(Spanned {
        value: ConcurrencyLimit {
            most: most?,
            key: key?,
            status: status?,
            mode: mode?,
        },
        span: node.span(),
    })
}

pub(super) fn body_limit(node: &mut Node<'_>) -> Option<Spanned<ByteSize>> {
    let value = node.argument("a size, such as \"10MiB\"")?;
    let size = value.size(ByteSize(1)..=MOST_BODY)?;
    Some(Spanned {
        value: size,
        span: node.span(),
    })
}

/// The status of a refusal.
pub(super) fn status(node: &mut Node<'_>, default: u16) -> Option<u16> {
    node.property("status")
        .map_or(Some(default), |value| value.integer(400..=599_u16))
}

/// Whether it refuses, in the words that agents have for it.
pub(super) fn mode(node: &mut Node<'_>) -> Option<Enforcement> {
    let modes = [
        ("enforce", Enforcement::Enforce),
        ("shadow", Enforcement::Shadow),
    ];
    node.property("mode")
        .map_or(Some(Enforcement::default()), |value| {
            value.choice(&modes, &[])
        })
}

fn rate(value: Value<'_>) -> Option<(u32, Duration)> {
    let text = value.text()?;
    match unit::rate(&text) {
        Ok((requests, per)) if (1..=MOST_REQUESTS).contains(&requests) => Some((requests, per)),
        Ok((requests, _)) => {
            value.report(
                value
                    .error(code::OUT_OF_RANGE, format!("a rate cannot be {requests}"))
                    .help(format!("write a number from 1 to {MOST_REQUESTS}")),
            );
            None
        }
        Err(wrong) => {
            let message = format!("`{text}` is not a rate: {}", wrong.message);
            value.report(value.error(code::WRONG_UNIT, message).help(wrong.help));
            None
        }
    }
}

const KEYS: &str = "write \"client-ip\", \"route\", \"certificate\", \"header:NAME\", or several of them with `+` in between";

/// What requests have in common that are counted together. It has no default: what is right for an API is wrong for
/// clients behind one address.
fn key(node: &mut Node<'_>) -> Option<Vec<LimitKey>> {
    let Some(value) = node.property("key") else {
        let name = node.name();
        node.report(
            node.error(code::MISSING, format!("`{name}` needs a `key`"))
                .label("who is counted together?")
                .help("write key=\"client-ip\", key=\"route\", key=\"certificate\", key=\"header:NAME\", or several of them with `+` in between"),
        );
        return None;
    };
    let text = value.nonempty_text()?;
    let mut parts = Vec::new();
    for part in text.split('+') {
        let part = key_part(value, part.trim())?;
        if parts.contains(&part) {
            value.report(
                value
                    .error(code::REPEATED, "the same is in this key twice")
                    .help("keep one of the two"),
            );
            return None;
        }
        parts.push(part);
    }
    Some(parts)
}

fn key_part(value: Value<'_>, part: &str) -> Option<LimitKey> {
    match part {
        "client-ip" => return Some(LimitKey::ClientIp),
        "route" => return Some(LimitKey::Route),
        "certificate" => return Some(LimitKey::Certificate),
        _ => {}
    }
    let Some(name) = part.strip_prefix("header:") else {
        let known = ["client-ip", "route", "certificate", "header"];
        let help = did_you_mean(part, known).unwrap_or_else(|| KEYS.to_owned());
        value.report(
            value
                .error(
                    code::INVALID_VALUE,
                    format!("`{part}` is nothing that requests are counted by"),
                )
                .help(help),
        );
        return None;
    };
    if header::is_token(name) {
        return Some(LimitKey::Header(name.to_ascii_lowercase()));
    }
    value.report(
        value
            .error(
                code::INVALID_HEADER,
                format!("`{name}` is not a header name"),
            )
            .help("a name has letters, digits and the characters !#$%&'*-.^_`|~"),
    );
    None
}
