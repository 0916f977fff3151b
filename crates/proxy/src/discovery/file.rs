//! Files that list targets: an address in each line, after it what else is known of the target.

use super::source::{Answer, Found, MOST_TARGETS};
use std::{
    fs::{File, Metadata},
    io::Read,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
};

const MOST_BYTES: u64 = 256 << 10;

/// By what it is seen that a file is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, i64, i64, u64);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        Self(
            metadata.dev(),
            metadata.ino(),
            seconds,
            nanoseconds,
            metadata.len(),
        )
    }
}

/// A file of which no use can be made.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) problem: String,
    /// `None`: it was not even seen.
    pub(super) stamp: Option<Stamp>,
}

/// Reads a file, unless it is the one that was read before.
///
/// # Errors
/// It cannot be read, something in it is no target, or there is none.
pub(super) fn read(
    path: &Path,
    before: Option<Stamp>,
) -> Result<Option<(Answer, Stamp)>, Unusable> {
    let unusable = |problem: String, stamp| Unusable {
        problem: format!("{}: {problem}", path.display()),
        stamp,
    };
    let failed = |error: std::io::Error| unusable(format!("cannot be read: {error}"), None);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let stamp = Stamp::of(&metadata);
    if before == Some(stamp) {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err(unusable("is not a regular file".to_owned(), Some(stamp)));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MOST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(unusable("is larger than 256 KiB".to_owned(), Some(stamp)));
    }
    match parse(&text) {
        Ok(found) => Ok(Some((
            Answer {
                found,
                valid_for: None,
            },
            stamp,
        ))),
        Err(problem) => Err(unusable(problem, Some(stamp))),
    }
}

/// The targets of a text. One line that is wrong makes the whole text void: half a list is no list.
fn parse(text: &str) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        found.push(target(line).map_err(|problem| format!("line {number}: {problem}"))?);
    }
    match found.len() {
        0 => Err("lists no target".to_owned()),
        1..=MOST_TARGETS => Ok(found),
        _ => Err(format!("lists more than {MOST_TARGETS} targets")),
    }
}

fn target(line: &str) -> Result<Found, String> {
    let mut words = line.split_whitespace();
    let address = words.next().unwrap_or_default();
    let mut found = Found {
        address: match address.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => address,
            _ => {
                return Err(format!(
                    "`{address}` is not an IP address and a port, such as 10.0.0.11:8080"
                ));
            }
        },
        weight: 1,
        priority: 0,
    };
    for word in words {
        match word.split_once('=') {
            Some(("weight", weight)) => match weight.parse() {
                Ok(weight @ 1..=1000) => found.weight = weight,
                _ => return Err(format!("`{weight}` is not a weight from 1 to 1000")),
            },
            _ => {
                return Err(format!(
                    "`{word}` is not understood; after the address there may be weight=N"
                ));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_an_address_in_each_line() {
        let text = "# ours\n10.0.0.1:80\n\n  [::1]:81 weight=3 # the big one\r\n";
        let found = parse(text).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.address.to_string(), one.weight))
            .collect();
        assert_eq!(
            found,
            [("10.0.0.1:80".to_owned(), 1), ("[::1]:81".to_owned(), 3)]
        );
    }

    #[test]
    fn one_bad_line_makes_the_list_void() {
        for (text, problem) in [
            ("", "lists no target"),
            ("# nothing\n", "lists no target"),
            ("10.0.0.1:80\nbackend:80\n", "line 2: `backend:80`"),
            ("10.0.0.1\n", "line 1: `10.0.0.1`"),
            ("10.0.0.1:0\n", "line 1"),
            ("10.0.0.1:80 weight=0\n", "`0` is not a weight"),
            ("10.0.0.1:80 weight=x\n", "`x` is not a weight"),
            ("10.0.0.1:80 wieght=2\n", "`wieght=2`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
        let many = "10.0.0.1:80\n".repeat(MOST_TARGETS + 1);
        assert!(parse(&many).unwrap_err().contains("more than"));
    }
}
