//! Bytes as base64: the standard alphabet, padded.

use std::fmt;

use ::base64::Engine as _;
use ::base64::display::Base64Display;
use ::base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// Appends bytes in quotes.
pub(super) fn write(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(out.len() - start), "there is just enough room");
    out.push(b'"');
}

/// Bytes that are text on the wire. Text that is not base64 is refused, and
/// never taken for the bytes themselves.
pub(super) struct Base64(pub(super) Bytes);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Base64Visitor).map(Self)
    }
}

struct Base64Visitor;

impl Visitor<'_> for Base64Visitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        // The error of the library would show a byte of somebody's body.
        let bytes = STANDARD.decode(text);
        bytes
            .map(Bytes::from)
            .map_err(|_| E::custom("it is not base64"))
    }
}

/// Bytes to be written as text, without a copy in between.
pub(super) struct AsBase64<'a>(pub(super) &'a [u8]);

impl Serialize for AsBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_writers_write_what_is_read() {
        let all: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for length in (0..70).chain([1023, 1024, 1025, 5000]) {
            let mut out = b"before".to_vec();
            write(&mut out, &all[..length]);
            let text = out.strip_prefix(b"before").unwrap();
            let serialized = serde_json::to_vec(&AsBase64(&all[..length])).unwrap();
            assert_eq!(text, serialized);
            let read: Base64 = serde_json::from_slice(text).unwrap();
            assert_eq!(read.0, all[..length]);
        }
    }

    #[test]
    fn what_is_not_standard_and_padded_is_refused() {
        let table = [
            (r#""""#, Some(&b""[..])),
            (r#""aGVsbG8=""#, Some(b"hello")),
            (r#""\u0061GVsbG8=""#, Some(b"hello")),
            (r#""+/+/""#, Some(b"\xfb\xff\xbf")),
            (r#""+\/+\/""#, Some(b"\xfb\xff\xbf")),
            (r#""aGVsbG8""#, None),
            (r#""aGVsbG8==""#, None),
            (r#""aGVsbG9=""#, None),
            (r#""-_-_""#, None),
            (r#""hello, world""#, None),
            (r#""aGVs\nbG8=""#, None),
            ("null", None),
            ("[104]", None),
        ];
        for (text, expected) in table {
            let read = serde_json::from_str::<Base64>(text);
            assert_eq!(read.ok().map(|it| it.0).as_deref(), expected, "{text}");
        }
    }
}
