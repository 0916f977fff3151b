//! Which codings a client likes, as it says in `Accept-Encoding` (RFC 9110 section 12.5.3).

use crate::quality::{self, Weight};
use http::{HeaderMap, HeaderValue, header};
use smallvec::SmallVec;
use std::cmp::Reverse;

/// More than there are of ours.
type Few<T> = SmallVec<[T; 4]>;

/// Those of ours that the client takes, the one that it likes best first, and between those that it likes as much the first of ours.
/// None that it likes less than no coding, and none when it says nothing.
pub(crate) fn liked<T: Copy>(
    headers: &HeaderMap,
    ours: impl IntoIterator<Item = T>,
    name: impl Fn(T) -> &'static str,
) -> Few<T> {
    let mut wishes = Wishes::default();
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    for (coding, weight) in lines.map(HeaderValue::as_bytes).flat_map(quality::elements) {
        wishes.note(coding, weight);
    }
    let mut liked: Few<(T, Weight)> = ours
        .into_iter()
        .map(|one| (one, wishes.of(name(one))))
        .filter(|(_, weight)| *weight > Weight::NONE)
        // Whoever gives no coding a weight of its own likes it least.
        .filter(|(_, weight)| wishes.identity.is_none_or(|identity| *weight >= identity))
        .collect();
    liked.sort_by_key(|(_, weight)| Reverse(*weight));
    liked.into_iter().map(|(one, _)| one).collect()
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
        // A name from before there was a register of them.
        let coding = match coding.eq_ignore_ascii_case(b"x-gzip") {
            true => b"gzip",
            false => coding,
        };
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

    fn of(&self, name: &str) -> Weight {
        let own = match name {
            "zstd" => self.zstd,
            "br" => self.br,
            "gzip" => self.gzip,
            _ => None,
        };
        own.or(self.others).unwrap_or(Weight::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_both_know_are_in_the_order_of_the_client() {
        let all = "zstd br gzip";
        for (lines, ours, expected) in [
            (vec![], all, ""),
            (vec![""], all, ""),
            (vec!["gzip, deflate, br, zstd"], all, "zstd br gzip"),
            (vec!["gzip, deflate, br"], all, "br gzip"),
            (vec!["gzip, br"], "gzip br", "gzip br"),
            (vec!["gzip"], "br", ""),
            (vec!["GZIP"], all, "gzip"),
            (vec!["x-gzip"], all, "gzip"),
            (vec!["gzip;q=1.0, br;q=0.5"], all, "gzip br"),
            (vec!["gzip;q=0.5", "br;q=0.7"], all, "br gzip"),
            (vec!["gzip;q=0"], all, ""),
            (vec!["gzip;q=0.000, *;q=0.1"], all, "zstd br"),
            (vec!["br;q=0.5, *;q=0.1"], all, "br zstd gzip"),
            (vec!["*"], all, all),
            (vec!["*;q=0"], all, ""),
            (vec!["zstd;q=0, *"], all, "br gzip"),
            (vec!["identity"], all, ""),
            (vec!["identity, gzip"], all, "gzip"),
            (vec!["identity;q=1, gzip;q=0.5"], all, ""),
            (vec!["identity;q=0.5, gzip;q=0.6, br;q=0.4"], all, "gzip"),
            (vec!["identity;q=0"], all, ""),
            (vec!["gzip ; q=0.8 , br ;Q=0.9"], all, "br gzip"),
            // What cannot be understood is no wish.
            (vec!["gzip;q=2"], all, ""),
            (vec!["gzip;q=abc, br;q=0.1"], all, "br"),
            (vec!["gzip;q=abc, *;q=0.1"], "gzip", "gzip"),
            (vec!["gzip;level=9"], all, "gzip"),
            (vec!["gzipped, brr"], all, ""),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            let liked = liked(&headers, ours.split_whitespace(), |name| name);
            assert_eq!(liked.join(" "), expected, "{lines:?}");
        }
    }
}
