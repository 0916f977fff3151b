//! The one form of a request's target that router, agents and upstream see.
//!
//! Different spellings of one path are the classic way around a rule, so there is one spelling: encodings of unreserved
//! characters are decoded, the others have upper-case digits, whatever is no path character is encoded, repeated slashes are
//! merged or refused, dot segments are resolved (RFC 3986 section 6.2.2). What has no safe meaning is refused: NUL and other
//! controls, the backslash, broken encodings, a fragment, a dot segment with parameters, and an encoded slash unless the
//! configuration keeps it.

use portcullis_config::{DoubleSlash, EncodedSlash, PathPolicy};
use std::borrow::Cow;

/// Why a target is refused. The text goes to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadTarget {
    Control,
    Backslash,
    Encoding,
    EncodedSlash,
    DoubleSlash,
    Fragment,
    NotAbsolute,
    DotParameter,
}

impl BadTarget {
    /// The reason in the access log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control_in_target",
            Self::Backslash => "backslash_in_path",
            Self::Encoding => "invalid_percent_encoding",
            Self::EncodedSlash => "encoded_slash_in_path",
            Self::DoubleSlash => "double_slash_in_path",
            Self::Fragment => "fragment_in_target",
            Self::NotAbsolute => "path_not_absolute",
            Self::DotParameter => "dot_segment_with_parameter",
        }
    }
}

/// The normal form of a target's path and query as they came over the wire, without scheme and authority.
///
/// # Errors
/// The target has no safe meaning.
pub(crate) fn normalize(raw: &[u8], policy: PathPolicy) -> Result<Cow<'_, str>, BadTarget> {
    if let Some(text) = already_normal(raw) {
        return Ok(Cow::Borrowed(text));
    }
    let (path, query) = match memchr::memchr(b'?', raw) {
        Some(at) => (&raw[..at], Some(&raw[at + 1..])),
        None => (raw, None),
    };
    let mut normal = normalize_path(path, policy)?;
    if let Some(query) = query {
        normal.push('?');
        normalize_query(query, &mut normal)?;
    }
    Ok(Cow::Owned(normal))
}

/// The common case without a copy: only characters that stand for themselves, and nothing to merge or resolve.
fn already_normal(raw: &[u8]) -> Option<&str> {
    let path_end = memchr::memchr(b'?', raw).unwrap_or(raw.len());
    let (path, query) = raw.split_at(path_end);
    if path.first() != Some(&b'/') {
        return None;
    }
    let mut previous = 0;
    for &byte in path {
        let doubtful = match byte {
            b'/' | b'.' => previous == b'/',
            _ => !is_path_character(byte),
        };
        if doubtful {
            return None;
        }
        previous = byte;
    }
    if query.iter().any(|byte| !is_query_character(*byte)) {
        return None;
    }
    std::str::from_utf8(raw).ok()
}

fn normalize_path(raw: &[u8], policy: PathPolicy) -> Result<String, BadTarget> {
    if raw.first() != Some(&b'/') {
        return Err(BadTarget::NotAbsolute);
    }
    let decoded = decode_path(raw, policy.encoded_slash)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = decoded[1..].split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            // The empty part after the final slash is that slash.
            "" if last => segments.push(""),
            "" => match policy.double_slash {
                DoubleSlash::Merge => {}
                DoubleSlash::Refuse => return Err(BadTarget::DoubleSlash),
                DoubleSlash::Keep => segments.push(""),
            },
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            _ if is_dot_with_parameter(part) => return Err(BadTarget::DotParameter),
            _ => segments.push(part),
        }
    }
    let mut path = String::with_capacity(decoded.len());
    for segment in &segments {
        path.push('/');
        path.push_str(segment);
    }
    if path.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// A dot segment for servers that take parameters off a segment (RFC 3986 section 3.3) before they resolve it, and a name for
/// others.
fn is_dot_with_parameter(segment: &str) -> bool {
    let rest = segment
        .strip_prefix("..")
        .or_else(|| segment.strip_prefix('.'));
    rest.is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B"))
}

fn decode_path(raw: &[u8], encoded_slash: EncodedSlash) -> Result<String, BadTarget> {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'%' => {
                let value = decode_pair(rest.next(), rest.next())?;
                match value {
                    0..0x20 | 0x7f => return Err(BadTarget::Control),
                    b'\\' => return Err(BadTarget::Backslash),
                    b'/' if encoded_slash == EncodedSlash::Refuse => {
                        return Err(BadTarget::EncodedSlash);
                    }
                    _ if is_unreserved(value) => decoded.push(char::from(value)),
                    _ => push_encoded(&mut decoded, value),
                }
            }
            b'/' => decoded.push('/'),
            b'#' => return Err(BadTarget::Fragment),
            b'\\' => return Err(BadTarget::Backslash),
            0..=0x20 | 0x7f => return Err(BadTarget::Control),
            _ if is_path_character(byte) => decoded.push(char::from(byte)),
            _ => push_encoded(&mut decoded, byte),
        }
    }
    Ok(decoded)
}

/// A query is data of the application and is left as it is, but for bytes that no target may hold.
fn normalize_query(raw: &[u8], normal: &mut String) -> Result<(), BadTarget> {
    for &byte in raw {
        match byte {
            0..=0x20 | 0x7f => return Err(BadTarget::Control),
            b'#' => return Err(BadTarget::Fragment),
            _ if is_query_character(byte) => normal.push(char::from(byte)),
            _ => push_encoded(normal, byte),
        }
    }
    Ok(())
}

fn decode_pair(high: Option<&u8>, low: Option<&u8>) -> Result<u8, BadTarget> {
    let digit = |byte: Option<&u8>| {
        byte.and_then(|byte| char::from(*byte).to_digit(16))
            .ok_or(BadTarget::Encoding)
    };
    let value = digit(high)? * 16 + digit(low)?;
    u8::try_from(value).map_err(|_| BadTarget::Encoding)
}

fn push_encoded(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 section 3.3, without the percent sign.
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

/// What a query may hold (RFC 3986 section 3.4), and what browsers put there unencoded.
const fn is_query_character(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'`' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULT: PathPolicy = PathPolicy {
        encoded_slash: EncodedSlash::Refuse,
        double_slash: DoubleSlash::Merge,
    };

    #[test]
    fn spellings_and_their_normal_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("/hello", "/hello"),
            ("/hello?x=1", "/hello?x=1"),
            ("/a/b/", "/a/b/"),
            ("/%61dmin", "/admin"),
            ("/%41dmin", "/Admin"),
            ("/%7euser", "/~user"),
            ("/%7Euser", "/~user"),
            ("/a%2db", "/a-b"),
            ("/a%3ab", "/a%3Ab"),
            ("/a%c3%a4", "/a%C3%A4"),
            ("/a\u{e4}", "/a%C3%A4"),
            ("/a%25b", "/a%25b"),
            ("/a%252fb", "/a%252fb"),
            ("/./a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/../../etc", "/etc"),
            ("/%2e%2e/etc", "/etc"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a//b", "/a/b"),
            ("//a", "/a"),
            ("/a//../b", "/b"),
            ("/a//", "/a/"),
            ("/...", "/..."),
            ("/a/...b", "/a/...b"),
            ("/a..b", "/a..b"),
            ("/.hidden", "/.hidden"),
            ("/a;x=1", "/a;x=1"),
            ("/...;x", "/...;x"),
            ("/.a;x", "/.a;x"),
            ("/a|b", "/a%7Cb"),
            ("/[x]", "/%5Bx%5D"),
            ("/a?b=%2f/../..//", "/a?b=%2f/../..//"),
            ("/a?b=[1]|2", "/a?b=[1]|2"),
            ("/a?b=\u{e4}", "/a?b=%C3%A4"),
            ("/a?", "/a?"),
            ("/a?b?c", "/a?b?c"),
        ] {
            let result = normalize(raw.as_bytes(), DEFAULT);
            assert_eq!(result.as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn refused_spellings() {
        for (raw, why) in [
            ("/a\\b", BadTarget::Backslash),
            ("/a%5cb", BadTarget::Backslash),
            ("/a%5Cb", BadTarget::Backslash),
            ("/a%00", BadTarget::Control),
            ("/a%0d%0a", BadTarget::Control),
            ("/a%7f", BadTarget::Control),
            ("/a\u{1}", BadTarget::Control),
            ("/a b", BadTarget::Control),
            ("/a%", BadTarget::Encoding),
            ("/a%2", BadTarget::Encoding),
            ("/a%zz", BadTarget::Encoding),
            ("/a%+1", BadTarget::Encoding),
            ("/a%2fb", BadTarget::EncodedSlash),
            ("/a%2Fb", BadTarget::EncodedSlash),
            ("/a/..;/b", BadTarget::DotParameter),
            ("/..;x=1", BadTarget::DotParameter),
            ("/a/.;/b", BadTarget::DotParameter),
            ("/%2e%2e;/b", BadTarget::DotParameter),
            ("/..%3b/b", BadTarget::DotParameter),
            ("/a#b", BadTarget::Fragment),
            ("/a?b#c", BadTarget::Fragment),
            ("/a?\u{1}", BadTarget::Control),
            ("a", BadTarget::NotAbsolute),
            ("", BadTarget::NotAbsolute),
            ("*", BadTarget::NotAbsolute),
        ] {
            assert_eq!(normalize(raw.as_bytes(), DEFAULT), Err(why), "{raw}");
        }
    }

    #[test]
    fn the_policy_decides_on_slashes() {
        let keep = PathPolicy {
            encoded_slash: EncodedSlash::Keep,
            double_slash: DoubleSlash::Keep,
        };
        assert_eq!(normalize(b"/a%2fb", keep).as_deref(), Ok("/a%2Fb"));
        assert_eq!(normalize(b"/a//b", keep).as_deref(), Ok("/a//b"));
        assert_eq!(normalize(b"/a//../b", keep).as_deref(), Ok("/a/b"));
        assert_eq!(
            normalize(b"/%2e%2e%2fetc", keep).as_deref(),
            Ok("/..%2Fetc")
        );
        let refuse = PathPolicy {
            double_slash: DoubleSlash::Refuse,
            ..DEFAULT
        };
        assert_eq!(normalize(b"/a//b", refuse), Err(BadTarget::DoubleSlash));
        assert_eq!(normalize(b"//", refuse), Err(BadTarget::DoubleSlash));
        assert_eq!(normalize(b"/a/", refuse).as_deref(), Ok("/a/"));
    }

    proptest! {
        /// The normal form is a fixed point, holds nothing that could be read in two ways, and never panics on the way.
        #[test]
        fn normal_forms_are_fixed_points(raw in proptest::collection::vec(any::<u8>(), 0..40), start in any::<bool>()) {
            let mut raw = raw;
            if start {
                raw.insert(0, b'/');
            }
            for double_slash in [DoubleSlash::Merge, DoubleSlash::Keep, DoubleSlash::Refuse] {
                for encoded_slash in [EncodedSlash::Keep, EncodedSlash::Refuse] {
                    let policy = PathPolicy { encoded_slash, double_slash };
                    if let Ok(normal) = normalize(&raw, policy) {
                        let again = normalize(normal.as_bytes(), policy);
                        prop_assert_eq!(again.as_deref(), Ok(&*normal));
                        let path = normal.split('?').next().unwrap_or_default();
                        prop_assert!(path.starts_with('/'));
                        prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
                        prop_assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()));
                        prop_assert!(!path.contains('\\'));
                    }
                }
            }
        }

        /// Paths made of segments, dots and encodings, which random bytes rarely hit.
        #[test]
        fn paths_of_tricky_parts(parts in proptest::collection::vec(
            prop_oneof!["/", "\\.", "%2e", "%2E", "a", "%61", "%2f", "%25", ";"], 0..20)) {
            let raw = format!("/{}", parts.concat());
            if let Ok(normal) = normalize(raw.as_bytes(), DEFAULT) {
                let again = normalize(normal.as_bytes(), DEFAULT);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(!normal.contains("//"));
            }
        }
    }
}
