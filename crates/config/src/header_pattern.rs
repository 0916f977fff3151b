//! Patterns of header names: a whole name, or the beginning of names and a final `*`.
//!
//! Case does not count, and `_` is the same as `-`: many servers make the same variable of `x_user` and `x-user`, so
//! who speaks one of them speaks both.

use std::borrow::Cow;

/// A name in the form that is compared.
pub(crate) fn folded(name: &str) -> Cow<'_, str> {
    let differs = |byte: u8| byte == b'_' || byte.is_ascii_uppercase();
    match name.bytes().any(differs) {
        true => Cow::Owned(name.to_ascii_lowercase().replace('_', "-")),
        false => Cow::Borrowed(name),
    }
}

/// A pattern in the form that is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeaderPattern {
    /// Without the star.
    text: String,
    /// After the text, so that of equal texts the beginning is sorted before the whole name.
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Beginning,
    Whole,
}

impl HeaderPattern {
    /// `written` has a star at its end or none.
    pub(crate) fn new(written: &str) -> Self {
        let (text, kind) = match written.strip_suffix('*') {
            Some(beginning) => (beginning, Kind::Beginning),
            None => (written, Kind::Whole),
        };
        Self {
            text: folded(text).into_owned(),
            kind,
        }
    }

    /// Whether every header that fits `other` fits this one too.
    fn includes(&self, other: &Self) -> bool {
        match self.kind {
            Kind::Beginning => other.text.starts_with(&self.text),
            Kind::Whole => self == other,
        }
    }
}

/// Whether there is a header that fits both. Then one of them includes the other, because a star is only at the end.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (HeaderPattern::new(one), HeaderPattern::new(other));
    one.includes(&other) || other.includes(&one)
}

/// For each pattern that overlaps one of another owner: its number and the number of such a one. Patterns are pairs of
/// an owner and what is written.
///
/// Sorted, whatever a pattern includes comes right after it. So one pass is enough, with a stack of the patterns that
/// include the place reached.
pub(crate) fn overlaps<'a>(
    patterns: impl IntoIterator<Item = (usize, &'a str)>,
) -> Vec<(usize, usize)> {
    let mut sorted: Vec<(HeaderPattern, usize, usize)> = patterns
        .into_iter()
        .enumerate()
        .map(|(number, (owner, written))| (HeaderPattern::new(written), number, owner))
        .collect();
    sorted.sort();
    let mut found = Vec::new();
    let mut including: Vec<&(HeaderPattern, usize, usize)> = Vec::new();
    for entry in &sorted {
        let (pattern, number, owner) = entry;
        while including
            .last()
            .is_some_and(|(outer, _, _)| !outer.includes(pattern))
        {
            including.pop();
        }
        let foreign = including.iter().rev().find(|(_, _, other)| other != owner);
        found.extend(foreign.map(|(_, other, _)| (*number, *other)));
        including.push(entry);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_overlap_when_a_header_fits_both() {
        for (one, other, expected) in [
            ("x-user", "x-user", true),
            ("x-user", "X_User", true),
            ("x-user", "x-users", false),
            ("x-*", "x-user", true),
            ("x-*", "x_user", true),
            ("x-auth-*", "x-*", true),
            ("x-auth-*", "x-auth", false),
            ("x-auth-*", "x-auth-", true),
            ("x-auth-*", "x-author", false),
            ("x-a*", "x-b*", false),
            ("*", "cookie", true),
            ("*", "*", true),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    /// The pass over the sorted patterns against comparing every pair.
    #[test]
    fn each_overlap_between_two_owners_is_found() {
        let written = [
            "*", "a", "a*", "a-", "a-*", "a_b", "a-b", "a-b*", "a-b-c", "a-c", "b", "b*", "ba",
        ];
        // Every set of four patterns, with every other one of another owner.
        for set in 0..written.len().pow(4) {
            let chosen: Vec<(usize, &str)> = (0..4)
                .map(|place| {
                    let number = set / written.len().pow(place) % written.len();
                    (place as usize % 2, written[number])
                })
                .collect();
            let found = overlaps(chosen.iter().copied());
            for (one, other) in &found {
                assert_ne!(chosen[*one].0, chosen[*other].0, "{chosen:?}");
                assert!(overlap(chosen[*one].1, chosen[*other].1), "{chosen:?}");
            }
            let expected = chosen.iter().any(|(owner, one)| {
                chosen
                    .iter()
                    .any(|(another, other)| owner != another && overlap(one, other))
            });
            assert_eq!(!found.is_empty(), expected, "{chosen:?}");
        }
    }
}
