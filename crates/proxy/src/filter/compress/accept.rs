//! What a client likes best, as it says in `Accept-Encoding` (RFC 9110 section 12.5.3).

use crate::quality::{self, Weight};
use portcullis_config::Algorithm;

/// The coding that the client likes best; between those that it likes as much the first of ours. `None` when it would rather
/// have no coding, or says nothing.
pub(super) fn best<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    ours: &[Algorithm],
) -> Option<Algorithm> {
    let mut wishes = Wishes::default();
    for (coding, weight) in lines.flat_map(quality::elements) {
        wishes.note(coding, weight);
    }
    let mut best: Option<(Algorithm, Weight)> = None;
    for algorithm in ours {
        let weight = wishes.of(*algorithm);
        if weight > best.map_or(Weight::NONE, |(_, weight)| weight) {
            best = Some((*algorithm, weight));
        }
    }
    // Whoever gives no coding a weight of its own likes it least.
    best.filter(|(_, weight)| wishes.identity.is_none_or(|identity| *weight >= identity))
        .map(|(algorithm, _)| algorithm)
}

#[derive(Default)]
struct Wishes {
    zstd: Option<Weight>,
    br: Option<Weight>,
    gzip: Option<Weight>,
    identity: Option<Weight>,
    others: Option<Weight>,
}

impl Wishes {
    fn note(&mut self, coding: &[u8], weight: Weight) {
        let slots: [(&[u8], &mut Option<Weight>); 5] = [
            (b"zstd", &mut self.zstd),
            (b"br", &mut self.br),
            (b"gzip", &mut self.gzip),
            (b"identity", &mut self.identity),
            (b"*", &mut self.others),
        ];
        for (name, slot) in slots {
            if coding.eq_ignore_ascii_case(name) {
                *slot = Some(weight);
                return;
            }
        }
    }

    fn of(&self, algorithm: Algorithm) -> Weight {
        let own = match algorithm {
            Algorithm::Zstd => self.zstd,
            Algorithm::Br => self.br,
            Algorithm::Gzip => self.gzip,
        };
        own.or(self.others).unwrap_or(Weight::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Algorithm::{Br, Gzip, Zstd};

    #[test]
    fn the_best_that_both_know_is_taken() {
        let all = [Zstd, Br, Gzip];
        for (lines, ours, best_of) in [
            (vec![], &all[..], None),
            (vec![""], &all, None),
            (vec!["gzip, deflate, br, zstd"], &all, Some(Zstd)),
            (vec!["gzip, deflate, br"], &all, Some(Br)),
            (vec!["gzip, br"], &[Gzip, Br], Some(Gzip)),
            (vec!["gzip"], &[Br], None),
            (vec!["GZIP"], &all, Some(Gzip)),
            (vec!["gzip;q=1.0, br;q=0.5"], &all, Some(Gzip)),
            (vec!["gzip;q=0.5", "br;q=0.7"], &all, Some(Br)),
            (vec!["gzip;q=0"], &all, None),
            (vec!["gzip;q=0.000, *;q=0.1"], &all, Some(Zstd)),
            (vec!["*"], &all, Some(Zstd)),
            (vec!["*;q=0"], &all, None),
            (vec!["zstd;q=0, *"], &all, Some(Br)),
            (vec!["identity"], &all, None),
            (vec!["identity, gzip"], &all, Some(Gzip)),
            (vec!["identity;q=1, gzip;q=0.5"], &all, None),
            (vec!["identity;q=0.5, gzip;q=0.6"], &all, Some(Gzip)),
            (vec!["identity;q=0"], &all, None),
            (vec!["gzip ; q=0.8 , br ;Q=0.9"], &all, Some(Br)),
            // What cannot be understood is no wish.
            (vec!["gzip;q=2"], &all, None),
            (vec!["gzip;q=abc, br;q=0.1"], &all, Some(Br)),
            (vec!["gzip;level=9"], &all, Some(Gzip)),
            (vec!["gzipped, brr"], &all, None),
        ] {
            let bytes = lines.iter().map(|line| line.as_bytes());
            assert_eq!(best(bytes, ours), best_of, "{lines:?}");
        }
    }
}
