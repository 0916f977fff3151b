//! Header fields in JSON: an object from name to a list of values.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::event::Text;
use super::write;

/// Appends header fields. The map yields the values of one name one after the
/// other, which is what makes one array per name possible without looking
/// anything up.
pub(super) fn encode_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    out.push(b'{');
    let mut previous: Option<&HeaderName> = None;
    for (name, value) in headers {
        if previous == Some(name) {
            out.push(b',');
        } else {
            out.extend_from_slice(if previous.is_some() { b"]," } else { b"" });
            write::string(out, name.as_str());
            out.extend_from_slice(b":[");
            previous = Some(name);
        }
        write::bytes(out, value.as_bytes());
    }
    out.extend_from_slice(if previous.is_some() { b"]}" } else { b"}" });
}

pub(super) struct Headers(pub(super) HeaderMap);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor).map(Self)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = HeaderMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from header name to a list of values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderMap, A::Error> {
        let mut headers = HeaderMap::new();
        while let Some((name, values)) = map.next_entry::<Text<'de>, Vec<Text<'de>>>()? {
            let name = HeaderName::from_bytes(name.0.as_bytes()).map_err(A::Error::custom)?;
            for value in values {
                let value =
                    HeaderValue::from_bytes(value.0.as_bytes()).map_err(A::Error::custom)?;
                headers
                    .try_append(name.clone(), value)
                    .map_err(A::Error::custom)?;
            }
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One member per name depends on the order in which the map yields.
    #[test]
    fn every_header_name_is_one_member() {
        let names: Vec<_> = (0..300).map(|n| format!("x-{n}")).collect();
        let mut headers = HeaderMap::new();
        for round in 0..3 {
            for name in &names {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from(round));
            }
        }
        for name in names.iter().step_by(7) {
            headers.remove(name);
        }
        let mut out = Vec::new();
        encode_headers(&mut out, &headers);
        let text = String::from_utf8(out).unwrap();
        for (index, name) in names.iter().enumerate() {
            let members = text
                .matches(&format!("\"{name}\":[\"0\",\"1\",\"2\"]"))
                .count();
            assert_eq!(members, usize::from(index % 7 != 0), "{name}");
        }
        let count = serde_json::from_str::<serde_json::Value>(&text)
            .unwrap()
            .as_object()
            .unwrap()
            .len();
        assert_eq!(count, headers.keys_len());
    }
}
