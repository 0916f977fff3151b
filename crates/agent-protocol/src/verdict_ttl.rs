//! For how long a verdict holds, and for which requests.

use std::time::Duration;

/// The longest that a verdict may hold: a day. A reader takes more for that.
pub const MAX_VERDICT_TTL: Duration = Duration::from_secs(24 * 3600);

/// Something of a request that a verdict which is kept depends on, unless its
/// agent says that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyPart {
    /// `authorization`: the header.
    Authorization,
    /// `cookie`: the header.
    Cookie,
    /// `query`: what follows the path behind `?`.
    Query,
    /// `client-certificate`: who the client is in TLS.
    ClientCertificate,
    /// `owned-headers`: the headers that some agent owns, as agents before this
    /// one have set them.
    OwnedHeaders,
    /// `earlier-changes`: the other headers that filters before the agent
    /// changed.
    EarlierChanges,
}

impl KeyPart {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Authorization,
        Self::Cookie,
        Self::Query,
        Self::ClientCertificate,
        Self::OwnedHeaders,
        Self::EarlierChanges,
    ];

    /// The name on the wire, as in `authorization`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::Query => "query",
            Self::ClientCertificate => "client-certificate",
            Self::OwnedHeaders => "owned-headers",
            Self::EarlierChanges => "earlier-changes",
        }
    }

    /// The part of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }
}

/// An agent's word that its verdict holds for a while, for this request and for
/// others that are the same in what the verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictTtl {
    /// For how long. Goes over the wire in whole milliseconds, rounded down,
    /// and at most [`MAX_VERDICT_TTL`]; less than one is not sent.
    pub ttl: Duration,
    /// What the verdict does not depend on, each part at most once.
    pub vary_ignores: Vec<KeyPart>,
}

impl VerdictTtl {
    /// What a reader makes of the members on the wire; `None` when the verdict
    /// is not to be kept. Names that are not known are taken as not given,
    /// which keeps a verdict for fewer requests than it could be kept for.
    pub(crate) fn read<'a>(
        milliseconds: u64,
        vary_ignores: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let mut known = Vec::new();
        for part in vary_ignores.into_iter().filter_map(KeyPart::from_name) {
            if !known.contains(&part) {
                known.push(part);
            }
        }
        let ttl = Duration::from_millis(milliseconds).min(MAX_VERDICT_TTL);
        (!ttl.is_zero()).then_some(Self {
            ttl,
            vary_ignores: known,
        })
    }

    /// What is written of `ttl`; `None` when there is nothing to be said.
    pub(crate) fn milliseconds(&self) -> Option<u64> {
        let whole = self.ttl.min(MAX_VERDICT_TTL).as_millis() as u64;
        (whole > 0).then_some(whole)
    }

    /// Whether the verdict holds whatever this part of a request is.
    #[must_use]
    pub fn ignores(&self, part: KeyPart) -> bool {
        self.vary_ignores.contains(&part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_name() {
        for part in KeyPart::ALL {
            assert_eq!(KeyPart::from_name(part.name()), Some(part));
        }
        assert_eq!(KeyPart::from_name("host"), None);
    }

    #[test]
    fn what_is_not_known_is_not_ignored() {
        let names = ["cookie", "host", "", "cookie", "Query", "query"];
        let read = VerdictTtl::read(1500, names).unwrap();
        assert_eq!(read.ttl, Duration::from_millis(1500));
        assert_eq!(read.vary_ignores, [KeyPart::Cookie, KeyPart::Query]);
        assert!(read.ignores(KeyPart::Cookie));
        assert!(!read.ignores(KeyPart::Authorization));
    }

    #[test]
    fn times_are_bounded_and_never_become_longer() {
        assert_eq!(VerdictTtl::read(0, []), None);
        let longest = VerdictTtl::read(u64::MAX, []).unwrap();
        assert_eq!(longest.ttl, MAX_VERDICT_TTL);
        let written = |ttl| {
            let vary_ignores = Vec::new();
            VerdictTtl { ttl, vary_ignores }.milliseconds()
        };
        assert_eq!(written(Duration::from_nanos(999_999)), None);
        assert_eq!(written(Duration::from_nanos(1_999_999)), Some(1));
        assert_eq!(written(Duration::MAX), Some(86_400_000));
    }
}
