//! What a request brings that decides which target gets it: what a hash is made of, and the cookie of a client that is sticky.

use super::{
    balance::stable_hash,
    sticky::{Kept, Sticky},
};
use http::{HeaderMap, HeaderName, header};
use portcullis_config::HashKey;
use std::{net::IpAddr, time::SystemTime};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(super) key: Option<u64>,
    pub(super) kept: Option<Kept>,
    /// The client has a connection with TLS, to us or to a proxy that we trust.
    pub(super) is_secure: bool,
}

/// A request as far as it matters.
pub(super) struct Asking<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) client: IpAddr,
    /// Path and query in normal form.
    pub(super) target: &'a str,
}

impl Wish {
    pub(super) fn of(asking: &Asking<'_>, key: Option<&HashKey>, sticky: Option<&Sticky>) -> Self {
        const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
        let scheme = asking.headers.get(FORWARDED_PROTO);
        Self {
            key: key.and_then(|key| hash(asking, key)),
            kept: sticky.and_then(|sticky| sticky.read(asking.headers, SystemTime::now())),
            // What is there was put there by us, or let pass because it is from somebody who is trusted.
            is_secure: scheme.is_some_and(|scheme| scheme.as_bytes() == b"https"),
        }
    }
}

fn hash(asking: &Asking<'_>, key: &HashKey) -> Option<u64> {
    match key {
        HashKey::Header(name) => {
            let mut values = asking.headers.get_all(name.as_str()).iter();
            let mut joined = values.next()?.as_bytes().to_vec();
            for value in values {
                joined.push(b',');
                joined.extend_from_slice(value.as_bytes());
            }
            Some(stable_hash(&joined))
        }
        HashKey::Cookie(name) => cookie(asking.headers, name).map(stable_hash),
        HashKey::ClientIp => Some(match asking.client {
            IpAddr::V4(ip) => stable_hash(&ip.octets()),
            IpAddr::V6(ip) => stable_hash(&ip.octets()),
        }),
        HashKey::Path => {
            let path = asking.target.split('?').next();
            path.map(|path| stable_hash(path.as_bytes()))
        }
        HashKey::Uri => Some(stable_hash(asking.target.as_bytes())),
    }
}

/// The first value of a cookie.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let values = headers.get_all(header::COOKIE).iter();
    let pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs
        .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes()))
        .find_map(|rest| rest.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn keys_are_what_requests_have_in_common() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-user", "a"),
            ("x-user", "b"),
            ("cookie", "x=1; user=me"),
            ("cookie", "user=you; userx=2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let asking = Asking {
            headers: &headers,
            client: IpAddr::from([10, 0, 0, 1]),
            target: "/path?query",
        };
        for (key, hashed) in [
            (HashKey::Header("x-user".into()), Some(&b"a,b"[..])),
            (HashKey::Header("x-other".into()), None),
            (HashKey::Cookie("user".into()), Some(b"me")),
            (HashKey::Cookie("use".into()), None),
            (HashKey::ClientIp, Some(&[10, 0, 0, 1])),
            (HashKey::Path, Some(b"/path")),
            (HashKey::Uri, Some(b"/path?query")),
        ] {
            assert_eq!(hash(&asking, &key), hashed.map(stable_hash), "{key:?}");
        }
    }
}
