//! Slices of a file (RFC 9110 section 14).

use super::{body::Part, conditions::Outcome};
use bytes::Bytes;
use http::HeaderValue;
use http_range_header::{RangeUnsatisfiableError, parse_range_header_with_max_ranges};
use std::{num::NonZeroUsize, ops::RangeInclusive};

/// More slices in one request are a way to make work: then the whole file is sent, as a server may.
const MOST: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// What of a file is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slices {
    One(Slice),
    /// Each with a head of its own in front.
    Several(Vec<Slice>),
}

/// What the head says of slices, and what comes behind it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) content_type: HeaderValue,
    /// Of a single slice; several say it each.
    pub(super) content_range: Option<HeaderValue>,
    pub(super) length: u64,
    pub(super) parts: Vec<Part>,
}

/// What is sent for a `Range` of a file of this length. One that is not understood means nothing.
pub(super) fn of(range: &HeaderValue, length: u64) -> Outcome {
    let Ok(text) = range.to_str() else {
        return Outcome::Whole;
    };
    let parsed = parse_range_header_with_max_ranges(text, MOST);
    let slices = match parsed.and_then(|parsed| parsed.validate(length)) {
        Ok(slices) => slices,
        Err(RangeUnsatisfiableError::Unsatisfiable) => return Outcome::NotSatisfiable,
        Err(_) => return Outcome::Whole,
    };
    let slices: Vec<Slice> = slices.into_iter().map(slice).collect();
    let wanted = slices
        .iter()
        .fold(0, |sum: u64, slice| sum.saturating_add(slice.length));
    match slices.as_slice() {
        [] => Outcome::Whole,
        [one] => Outcome::Slices(Slices::One(*one)),
        // Whoever wants more than there is wants work.
        _ if wanted > length => Outcome::Whole,
        _ => Outcome::Slices(Slices::Several(slices)),
    }
}

fn slice(range: RangeInclusive<u64>) -> Slice {
    Slice {
        start: *range.start(),
        length: range.end() - range.start() + 1,
    }
}

impl Slices {
    /// `length` is that of the whole file, `kind` what is in it.
    pub(super) fn describe(self, length: u64, kind: HeaderValue) -> Described {
        let slices = match self {
            Self::One(slice) => {
                return Described {
                    content_range: HeaderValue::try_from(content_range(slice, length)).ok(),
                    content_type: kind,
                    length: slice.length,
                    parts: vec![slice.part()],
                };
            }
            Self::Several(slices) => slices,
        };
        // No file is likely to have it in it, and who does not look for it cannot be led astray by one.
        let boundary = format!("{:032x}", rand::random::<u128>());
        let mut parts = Vec::with_capacity(2 * slices.len() + 1);
        let mut total = 0;
        for (number, slice) in slices.into_iter().enumerate() {
            let mut text = Vec::new();
            if number > 0 {
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(format!("--{boundary}\r\ncontent-type: ").as_bytes());
            text.extend_from_slice(kind.as_bytes());
            let range = content_range(slice, length);
            text.extend_from_slice(format!("\r\ncontent-range: {range}\r\n\r\n").as_bytes());
            total += text.len() as u64 + slice.length;
            parts.push(Part::Bytes(text.into()));
            parts.push(slice.part());
        }
        let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        total += end.len() as u64;
        parts.push(Part::Bytes(end));
        let kind = format!("multipart/byteranges; boundary={boundary}");
        Described {
            // Hexadecimal digits are a header's value.
            content_type: HeaderValue::try_from(kind)
                .unwrap_or(HeaderValue::from_static("multipart/byteranges")),
            content_range: None,
            length: total,
            parts,
        }
    }
}

impl Slice {
    const fn part(self) -> Part {
        Part::Slice {
            start: self.start,
            length: self.length,
        }
    }
}

fn content_range(slice: Slice, length: u64) -> String {
    let end = slice.start + slice.length - 1;
    format!("bytes {}-{end}/{length}", slice.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sliced(range: &str, length: u64) -> Result<Vec<(u64, u64)>, Outcome> {
        match of(&HeaderValue::from_str(range).unwrap(), length) {
            Outcome::Slices(Slices::One(slice)) => Ok(vec![(slice.start, slice.length)]),
            Outcome::Slices(Slices::Several(slices)) => Ok(slices
                .iter()
                .map(|slice| (slice.start, slice.length))
                .collect()),
            other => Err(other),
        }
    }

    #[test]
    fn ranges_become_slices() {
        for (range, length, expected) in [
            ("bytes=0-9", 100, Ok(vec![(0, 10)])),
            ("bytes=0-0", 100, Ok(vec![(0, 1)])),
            ("bytes=90-", 100, Ok(vec![(90, 10)])),
            ("bytes=-10", 100, Ok(vec![(90, 10)])),
            ("bytes=-1000", 100, Ok(vec![(0, 100)])),
            ("bytes=50-1000", 100, Ok(vec![(50, 50)])),
            ("bytes=0-9,20-29", 100, Ok(vec![(0, 10), (20, 10)])),
            ("bytes=0-9, 200-", 100, Ok(vec![(0, 10)])),
            ("bytes=100-", 100, Err(Outcome::NotSatisfiable)),
            ("bytes=-0", 100, Err(Outcome::NotSatisfiable)),
            ("bytes=5-2", 100, Err(Outcome::Whole)),
            ("bytes=a-b", 100, Err(Outcome::Whole)),
            ("lines=0-9", 100, Err(Outcome::Whole)),
            ("bytes=", 100, Err(Outcome::Whole)),
            ("bytes=0-99,0-99", 100, Err(Outcome::Whole)),
            ("bytes=0-9", 0, Err(Outcome::NotSatisfiable)),
        ] {
            assert_eq!(sliced(range, length), expected, "{range} of {length}");
        }
        let many: Vec<String> = (0..17).map(|at| format!("{}-{}", 2 * at, 2 * at)).collect();
        let many = format!("bytes={}", many.join(","));
        assert_eq!(sliced(&many, 100), Err(Outcome::Whole));
    }

    #[test]
    fn several_slices_are_as_long_as_is_said() {
        let slices = |start| Slice { start, length: 10 };
        let described = Slices::Several(vec![slices(0), slices(50)])
            .describe(100, HeaderValue::from_static("text/plain"));
        let length: u64 = described
            .parts
            .iter()
            .map(|part| match part {
                Part::Bytes(bytes) => bytes.len() as u64,
                Part::Slice { length, .. } => *length,
            })
            .sum();
        assert_eq!(described.length, length);
        assert_eq!(described.content_range, None);
    }
}
