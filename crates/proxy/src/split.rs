//! Requests of a route that are shared out to several upstreams.
//!
//! By weighted rendezvous hashing: for each share, the hash of the client and of the share's name gives a number with an
//! exponential distribution whose rate is the weight, and the least number wins. So a share gets what its weight is of all
//! weights, and when a weight grows the only clients that move are some that move to it. Nothing else goes in, so all
//! processes agree, and the order in the configuration does not matter.

use fnv::FnvHasher;
use http::{HeaderMap, HeaderName, header};
use portcullis_config::ClientKey;
use std::{hash::Hasher, net::IpAddr};

/// One of those that requests are shared out to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    /// The hash of its name.
    name: u64,
    weight: f64,
}

impl Share {
    pub(crate) fn new(name: &str, weight: u32) -> Self {
        let mut hasher = FnvHasher::default();
        hasher.write(name.as_bytes());
        Self {
            name: hasher.finish(),
            weight: f64::from(weight),
        }
    }
}

/// Who gets which requests.
#[derive(Debug)]
pub(crate) struct Split<T> {
    /// There is at least one.
    members: Vec<(Share, T)>,
    sticky: Option<Key>,
}

/// What one client is told from another by.
#[derive(Debug)]
enum Key {
    ClientIp,
    Cookie(Box<[u8]>),
    Header(HeaderName),
}

impl<T> Split<T> {
    /// # Errors
    /// A name that is no header name, or nobody to choose from.
    pub(crate) fn new(
        members: Vec<(Share, T)>,
        sticky: Option<&ClientKey>,
    ) -> Result<Self, String> {
        if members.is_empty() {
            return Err("a split without upstreams".to_owned());
        }
        let sticky = match sticky {
            None => None,
            Some(ClientKey::ClientIp) => Some(Key::ClientIp),
            Some(ClientKey::Cookie(name)) => Some(Key::Cookie(name.as_bytes().into())),
            Some(ClientKey::Header(name)) => {
                let name = HeaderName::from_bytes(name.as_bytes());
                Some(Key::Header(
                    name.map_err(|_| "the header of a split".to_owned())?,
                ))
            }
        };
        Ok(Self { members, sticky })
    }

    /// Who gets this request.
    pub(crate) fn choose(&self, client: IpAddr, headers: &HeaderMap) -> &T {
        let number = match &self.sticky {
            Some(key) => number_of(key, client, headers),
            None => rand::random(),
        };
        let turn = |share: &Share| {
            let fraction = fraction(mixed(number ^ share.name));
            -fraction.ln() / share.weight
        };
        let mut members = self.members.iter();
        let first = members.next().map(|(share, member)| (turn(share), member));
        let best = members.fold(first, |best, (share, member)| {
            let turn = turn(share);
            match best {
                Some((least, _)) if least <= turn => best,
                _ => Some((turn, member)),
            }
        });
        // There is one.
        best.map_or(&self.members[0].1, |(_, member)| member)
    }
}

/// A number that is the client's, by its address where it has not got what tells it from others.
fn number_of(key: &Key, client: IpAddr, headers: &HeaderMap) -> u64 {
    let given = match key {
        Key::ClientIp => None,
        Key::Cookie(name) => cookie(headers, name),
        Key::Header(name) => headers.get(name).map(|value| value.as_bytes()),
    };
    let mut hasher = FnvHasher::default();
    match (given, client.to_canonical()) {
        (Some(given), _) => hasher.write(given),
        (None, IpAddr::V4(address)) => hasher.write(&address.octets()),
        // Whoever has one address of a /64 has all of them.
        (None, IpAddr::V6(address)) => hasher.write(&address.octets()[..8]),
    }
    mixed(hasher.finish())
}

/// The value of the first cookie of this name.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"=")?;
        (!value.is_empty()).then_some(value)
    })
}

/// Each bit of the result depends on all bits of the number: the end of SplitMix64.
const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number above 0 and below 1.
fn fraction(number: u64) -> f64 {
    // 52 bits and a half fit exactly.
    ((number >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn split(weights: &[(&'static str, u32)], sticky: Option<ClientKey>) -> Split<&'static str> {
        let members = weights
            .iter()
            .map(|(name, weight)| (Share::new(name, *weight), *name))
            .collect();
        Split::new(members, sticky.as_ref()).unwrap()
    }

    fn addresses() -> impl Iterator<Item = IpAddr> {
        (0..=u16::MAX).map(|host| {
            let [high, low] = host.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, 1, high, low))
        })
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let headers = HeaderMap::new();
        for sticky in [None, Some(ClientKey::ClientIp)] {
            for weights in [
                [("stable", 95), ("canary", 5), ("old", 0)],
                [("a", 1), ("b", 1), ("c", 2)],
            ] {
                let split = split(&weights, sticky.clone());
                let whole: u32 = weights.iter().map(|(_, weight)| weight).sum();
                for (name, weight) in weights {
                    let got = addresses()
                        .filter(|client| *split.choose(*client, &headers) == name)
                        .count();
                    let expected = 65_536 * weight as usize / whole as usize;
                    let off = got.abs_diff(expected);
                    assert!(off <= 600, "{sticky:?} {name}: {got} of {expected}");
                    assert!(weight > 0 || got == 0, "{name} has no weight");
                }
            }
        }
    }

    /// Another version, or another process, sends nobody elsewhere.
    #[test]
    fn places_are_the_same_everywhere_and_for_ever() {
        let split = split(&[("a", 1), ("b", 1)], Some(ClientKey::ClientIp));
        let chosen: String = (0..16)
            .map(|last| *split.choose(Ipv4Addr::new(192, 0, 2, last).into(), &HeaderMap::new()))
            .collect();
        assert_eq!(chosen, "babbbabbaaababaa");
    }

    #[test]
    fn clients_are_told_apart_by_what_is_written() {
        let lines = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let ip = "192.0.2.7".parse().unwrap();
        let number = |key: &Key, ip: IpAddr, headers: &HeaderMap| number_of(key, ip, headers);
        let cookie = Key::Cookie(b"who"[..].into());
        let header = Key::Header(HeaderName::from_static("x-user"));
        let sent = lines(&[("cookie", "a=1; who=ann"), ("x-user", "ann")]);
        let other = lines(&[("cookie", "awho=ann"), ("cookie", "who=bob; who=ann")]);
        // The same value is the same client, wherever it is written.
        assert_eq!(number(&cookie, ip, &sent), number(&header, ip, &sent));
        assert_ne!(number(&cookie, ip, &sent), number(&cookie, ip, &other));
        // Who has none is known by its address.
        let none = HeaderMap::new();
        let by_address = number(&Key::ClientIp, ip, &none);
        assert_eq!(number(&cookie, ip, &none), by_address);
        assert_eq!(number(&header, ip, &other), by_address);
        let mapped = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(number(&Key::ClientIp, mapped, &none), by_address);
    }

    proptest! {
        #[test]
        fn a_weight_that_grows_takes_clients_from_others_and_moves_none_between_them(
            client: [u8; 16],
            weights in proptest::array::uniform3(1_u32..1000),
            more in 1_u32..1000,
        ) {
            let client = IpAddr::from(client);
            let [a, b, c] = weights;
            let headers = HeaderMap::new();
            let key = Some(ClientKey::ClientIp);
            let before = split(&[("a", a), ("b", b), ("c", c)], key.clone());
            // Written in another order, too.
            let after = split(&[("c", c + more), ("a", a), ("b", b)], key);
            let (before, after) = (before.choose(client, &headers), after.choose(client, &headers));
            prop_assert!(before == after || *after == "c", "from {before} to {after}");
        }
    }
}
