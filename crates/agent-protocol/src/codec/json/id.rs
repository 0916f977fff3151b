//! Looking for the id of a message that may be of any kind.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::codec::EventId;

/// Looks for the id of an event or an answer in any JSON object, when the
/// whole cannot be decoded, is of a kind that is not known, or is not needed
/// yet. Nothing but ids is kept of it.
#[must_use]
pub fn find_event_id(payload: &[u8], by_number: bool) -> Option<EventId> {
    let message: Part = serde_json::from_slice(payload).ok()?;
    if by_number {
        return match message.at(&["event_id"])? {
            Part::Number(number) => Some(EventId::Number(*number)),
            _ => None,
        };
    }
    let places: [&[&str]; 3] = [
        &["correlation_id"],
        &["metadata", "correlation_id"],
        &["audit", "custom", "correlation_id"],
    ];
    places.into_iter().find_map(|path| match message.at(path)? {
        Part::Text(id) => Some(EventId::Correlation(id.clone())),
        _ => None,
    })
}

/// The members on the way to an id.
const NAMES: [&str; 5] = ["event_id", "correlation_id", "metadata", "audit", "custom"];

/// As much of a value as ids can be in.
enum Part {
    Number(u64),
    Text(String),
    Object(Vec<(&'static str, Self)>),
    Other,
}

impl Part {
    fn at(&self, path: &[&str]) -> Option<&Self> {
        let Some((name, rest)) = path.split_first() else {
            return Some(self);
        };
        let Self::Object(members) = self else {
            return None;
        };
        // Of repeated members the last counts, as it does for most readers.
        let member = members.iter().rev().find(|(key, _)| key == name);
        member?.1.at(rest)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Part, E> {
        Ok(Part::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Part, E> {
        Ok(Part::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Part, E> {
        Ok(Part::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Part, E> {
        Ok(Part::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Part, E> {
        Ok(Part::Other)
    }

    fn visit_unit<E>(self) -> Result<Part, E> {
        Ok(Part::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Part, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Part::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match NAMES.into_iter().find(|name| *name == key) {
                Some(name) => members.push((name, map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Part::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_where_they_may_be() {
        let table = [
            (r#"{"event_id":7}"#, Some(7), None),
            (r#"{"event_id":7,"event_id":8}"#, Some(8), None),
            (r#"{"event_id":7.0,"correlation_id":"c"}"#, None, Some("c")),
            (r#"{"event_id":-7,"correlation_id":7}"#, None, None),
            (r#"{"metadata":{"correlation_id":"c"}}"#, None, Some("c")),
            (
                r#"{"correlation_id":null,"audit":{"tags":[[1]],"custom":{"correlation_id":"c"}}}"#,
                None,
                Some("c"),
            ),
            (
                r#"{"audit":{"correlation_id":"d"},"custom":{"correlation_id":"e"}}"#,
                None,
                None,
            ),
            (r#"{"x":{"event_id":1},"y":[{"event_id":2}]}"#, None, None),
            (r#"{"x":1e999,"event_id":3}"#, Some(3), None),
            (r#"{"\u0065vent_id":4}"#, Some(4), None),
            (r#"{"event_id":5}x"#, None, None),
            (r#"{"event_id":5"#, None, None),
            ("5", None, None),
            ("", None, None),
        ];
        for (text, number, correlation_id) in table {
            let by_number = find_event_id(text.as_bytes(), true);
            assert_eq!(by_number, number.map(EventId::Number), "{text}");
            let by_name = find_event_id(text.as_bytes(), false);
            let expected = correlation_id.map(|id| EventId::Correlation(id.to_owned()));
            assert_eq!(by_name, expected, "{text}");
        }
    }
}
