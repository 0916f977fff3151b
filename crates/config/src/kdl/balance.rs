//! `balance` and `sticky` of an upstream.

use super::{
    cursor::Node,
    header,
    secret::{self, Kind},
    value::Value,
};
use crate::{
    diagnostic::{code, did_you_mean},
    model::{Balance, Hash, HashAlgorithm, HashKey, Sticky},
};
use std::time::Duration;

/// How fast it is forgotten how long answers took, when nobody says otherwise.
const DECAY: Duration = Duration::from_secs(10);
/// How long a cookie holds, when nobody says otherwise.
const TTL: Duration = Duration::from_secs(60 * 60);
/// Cookies are kept by browsers for seconds, and for no longer than this.
const TTLS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(400 * 24 * 60 * 60);

const KEY: Kind = Kind {
    name: "key",
    least: 32,
    most: 1024,
};

#[derive(Clone, Copy)]
enum Written {
    RoundRobin,
    LeastRequests,
    P2cEwma,
    Random,
    Hash,
}

pub(super) fn balance(node: &mut Node<'_>) -> Option<Balance> {
    let choices = [
        ("round-robin", Written::RoundRobin),
        ("least-requests", Written::LeastRequests),
        ("p2c-ewma", Written::P2cEwma),
        ("random", Written::Random),
        ("hash", Written::Hash),
    ];
    let value = node.argument("\"round-robin\"")?;
    let written = value.choice(&choices, &[]);
    // What belongs to a word that is wrong is looked at, too.
    let of = |kind: fn(&Written) -> bool| written.as_ref().is_none_or(kind);
    let decay = match of(|written| matches!(written, Written::P2cEwma)) {
        true => decay(node),
        false => None,
    };
    let hash = match of(|written| matches!(written, Written::Hash)) {
        true => hash(node, written.is_some()),
        false => None,
    };
    Some(match written? {
        Written::RoundRobin => Balance::RoundRobin,
        Written::LeastRequests => Balance::LeastRequests,
        Written::P2cEwma => Balance::P2cEwma { decay: decay? },
        Written::Random => Balance::Random,
        Written::Hash => Balance::Hash(hash?),
    })
}

fn decay(node: &mut Node<'_>) -> Option<Duration> {
    match node.property("decay") {
        Some(value) => value.timeout(),
        None => Some(DECAY),
    }
}

fn hash(node: &mut Node<'_>, needs_key: bool) -> Option<Hash> {
    let choices = [
        ("ring", HashAlgorithm::Ring),
        ("maglev", HashAlgorithm::Maglev),
    ];
    let key = node.property("key");
    if key.is_none() && needs_key {
        node.report(
            node.error(code::MISSING, "`balance \"hash\"` needs a key")
                .label("has none")
                .help("write what requests have in common, such as key=\"client-ip\""),
        );
    }
    let algorithm = match node.property("algorithm") {
        Some(value) => value.choice(&choices, &[]),
        None => Some(HashAlgorithm::default()),
    };
    Some(Hash {
        key: hash_key(key?)?,
        algorithm: algorithm?,
    })
}

/// `client-ip`, `path`, `uri`, `header:NAME` or `cookie:NAME`.
fn hash_key(value: Value<'_>) -> Option<HashKey> {
    let text = value.text()?;
    match &*text {
        "client-ip" => return Some(HashKey::ClientIp),
        "path" => return Some(HashKey::Path),
        "uri" => return Some(HashKey::Uri),
        _ => {}
    }
    match text.split_once(':') {
        Some(("header", name)) if header::is_token(name) => {
            Some(HashKey::Header(name.to_ascii_lowercase()))
        }
        Some(("cookie", name)) if header::is_token(name) => Some(HashKey::Cookie(name.to_owned())),
        _ => {
            let known = ["client-ip", "path", "uri"];
            let help = did_you_mean(&text, known).unwrap_or_else(|| {
                "write `client-ip`, `path`, `uri`, `header:NAME` or `cookie:NAME`".to_owned()
            });
            value.report(
                value
                    .error(code::INVALID_VALUE, format!("`key` cannot be `{text}`"))
                    .help(help),
            );
            None
        }
    }
}

pub(super) fn sticky(node: &mut Node<'_>) -> Option<Sticky> {
    let cookie = node.property("cookie");
    let written = [node.property("key"), node.property("key-file")];
    written[0].iter().for_each(Value::hide);
    for (is_missing, what, such_as) in [
        (cookie.is_none(), "the name of a cookie", "cookie=\"at\""),
        (
            written.iter().all(Option::is_none),
            "a key, so that nobody else makes cookies",
            "key-file=\"…\"",
        ),
    ] {
        if is_missing {
            node.report(
                node.error(code::MISSING, format!("`sticky` needs {what}"))
                    .label("has none")
                    .help(format!("write {such_as}")),
            );
        }
    }
    let ttl = match node.property("ttl") {
        Some(value) => value.duration(TTLS),
        None => Some(TTL),
    };
    let key = secret::one_of(written, KEY);
    let cookie = cookie.and_then(cookie_name);
    Some(Sticky {
        cookie: cookie?,
        key: key?,
        ttl: ttl?,
    })
}

fn cookie_name(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    if header::is_token(&text) && text.len() <= 64 {
        return Some(text);
    }
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` cannot be the name of a cookie"),
            )
            .help("write letters, digits, `-` and `_`, 64 at most"),
    );
    None
}
