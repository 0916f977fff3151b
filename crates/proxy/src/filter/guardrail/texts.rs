//! Texts within JSON: where they are, and how others take their places. What is not replaced stays as it is, byte by byte.
//!
//! JSON can be read in more than one way: an object with two members of one name is one thing to one reader and another to
//! the next. Where a text is looked for, such an object is refused, so that nobody reads a text that was not looked at.

use portcullis_config::{JsonPointer, PointerToken};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{collections::HashSet, fmt, ops::Range};

/// What is deeper is not looked at, and its body is refused. Each level is read once more for those within.
const DEEPEST: usize = 32;

/// A text of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Where it is, quotation marks included.
    pub(super) place: Range<usize>,
    pub(super) text: String,
}

/// Finds the texts at these places: text, or all text within an array or an object, at any depth. At most one more than
/// `most`.
///
/// # Errors
/// In words, why it is not JSON that can be read in one way.
pub(super) fn find(body: &[u8], places: &[JsonPointer], most: usize) -> Result<Vec<Text>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8".to_owned())?;
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut search = Search {
        start: text.as_ptr() as usize,
        most,
        found: Vec::new(),
    };
    let places: Vec<&[PointerToken]> = places.iter().map(|place| &place.0[..]).collect();
    search.look(whole, &places, false, 0)?;
    Ok(search.found)
}

struct Search {
    /// The address of the body.
    start: usize,
    most: usize,
    found: Vec<Text>,
}

impl Search {
    /// `places` are what is left of the ways that lead here; `within`: all text in here is looked for.
    fn look(
        &mut self,
        value: &RawValue,
        places: &[&[PointerToken]],
        within: bool,
        depth: usize,
    ) -> Result<(), String> {
        let within = within || places.iter().any(|place| place.is_empty());
        let text = value.get();
        match text.as_bytes().first() {
            _ if self.found.len() > self.most => Ok(()),
            Some(b'"') if within => {
                let start = text.as_ptr() as usize - self.start;
                self.found.push(Text {
                    place: start..start + text.len(),
                    text: read(text)?,
                });
                Ok(())
            }
            Some(b'[' | b'{') if depth == DEEPEST => Err("it is too deep".to_owned()),
            Some(b'[') => {
                let elements: Vec<&RawValue> = read(text)?;
                for (number, element) in elements.into_iter().enumerate() {
                    let rest = behind(places, &number.to_string());
                    if within || !rest.is_empty() {
                        self.look(element, &rest, within, depth + 1)?;
                    }
                }
                Ok(())
            }
            Some(b'{') => {
                let Members(members) = read(text)?;
                for (name, member) in members {
                    let rest = behind(places, &name);
                    if within || !rest.is_empty() {
                        self.look(member, &rest, within, depth + 1)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The ways that go on behind a step of this name.
fn behind<'p>(places: &[&'p [PointerToken]], name: &str) -> Vec<&'p [PointerToken]> {
    let next = places
        .iter()
        .filter_map(|place| match place.split_first()? {
            (PointerToken::Any, rest) => Some(rest),
            (PointerToken::Named(wanted), rest) => (wanted == name).then_some(rest),
        });
    next.collect()
}

/// The members of an object, no name twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        let mut names = HashSet::with_capacity(members.len());
        match members.iter().all(|(name, _)| names.insert(name.as_str())) {
            true => Ok(members),
            false => Err(A::Error::custom("an object has two members of one name")),
        }
    }
}

/// The body with other texts at these places, which are in their order.
pub(super) fn replace(body: &[u8], others: &[(Range<usize>, String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut done = 0;
    for (place, text) in others {
        out.extend_from_slice(&body[done..place.start]);
        // Text is always JSON.
        out.extend_from_slice(
            serde_json::Value::from(text.as_str())
                .to_string()
                .as_bytes(),
        );
        done = place.end;
    }
    out.extend_from_slice(&body[done..]);
    out
}

/// The text without these parts of it, which lie at borders of characters and may overlap.
pub(super) fn without(text: &str, mut parts: Vec<Range<usize>>, replacement: &str) -> String {
    parts.sort_by_key(|part| (part.start, part.end));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for part in parts {
        if part.end <= done {
            continue;
        }
        if part.start >= done {
            out.push_str(&text[done..part.start]);
            out.push_str(replacement);
        }
        done = part.end;
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> JsonPointer {
        let tokens = text.split('/').skip(1).map(|token| match token {
            "*" => PointerToken::Any,
            name => PointerToken::Named(name.to_owned()),
        });
        JsonPointer(tokens.collect())
    }

    fn found(body: &str, places: &[&str]) -> Result<Vec<String>, String> {
        let places: Vec<_> = places.iter().map(|text| place(text)).collect();
        let texts = find(body.as_bytes(), &places, 100)?;
        for text in &texts {
            let written: String = serde_json::from_str(&body[text.place.clone()]).unwrap();
            assert_eq!(written, text.text);
        }
        Ok(texts.into_iter().map(|text| text.text).collect())
    }

    #[test]
    fn texts_are_found_where_they_are() {
        let chat = r#" {"model":"m","messages":[{"role":"user","content":"one"},
            {"content":[{"type":"text","text":"tw\u006f\n"},{"deep":[[["three"]]]}],"role":"user"},{"content":null},{"content":7}]} "#;
        let table: [(&[&str], &[&str]); 10] = [
            (&["/messages/*/content"], &["one", "text", "two\n", "three"]),
            (&["/messages/0/content"], &["one"]),
            (&["/messages/00/content"], &[]),
            (&["/messages/-1/content"], &[]),
            (&["/model", "/messages/0/*"], &["m", "user", "one"]),
            (&["/model", "/model"], &["m"]),
            (&["/messages/0/content", "/messages/0"], &["user", "one"]),
            (&["/nothing", "/model/deeper"], &[]),
            (
                &["/*"],
                &["m", "user", "one", "text", "two\n", "three", "user"],
            ),
            (
                &[""],
                &["m", "user", "one", "text", "two\n", "three", "user"],
            ),
        ];
        for (places, expected) in table {
            assert_eq!(found(chat, places).unwrap(), expected, "{places:?}");
        }
        assert_eq!(found(r#""just text""#, &[""]).unwrap(), ["just text"]);
        assert_eq!(found("7", &[""]).unwrap(), [""; 0]);
        assert_eq!(found(r#"{"":{"a~":"x"}}"#, &["//a~"]).unwrap(), ["x"]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for body in [
            "",
            "text",
            r#"{"a":"x"} {"a":"y"}"#,
            r#"{"a":"x","a":"y"}"#,
            r#"{"a":"x","\u0061":"y"}"#,
            r#"{"a":{"b":"x","b":"y"}}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\n\"}",
            "\u{feff}{}",
            r#"{"a":"x",}"#,
            "{'a':'x'}",
            r#"{"a":"x"}//"#,
        ] {
            assert!(found(body, &["/a"]).is_err(), "{body}");
        }
        assert!(find(b"{\"a\":\"\xff\"}", &[place("/a")], 9).is_err());
        let deep = |levels| format!("{}\"x\"{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(found(&deep(DEEPEST), &[""]).unwrap(), ["x"]);
        assert!(found(&deep(DEEPEST + 1), &[""]).is_err());
        assert!(found(&deep(100_000), &[""]).is_err());
        // Where nobody looks, it is all the same.
        assert_eq!(
            found(r#"{"a":"x","b":{"c":1,"c":2}}"#, &["/a"]).unwrap(),
            ["x"]
        );
    }

    #[test]
    fn no_more_are_found_than_one_too_many() {
        let texts = find(br#"["1","2","3","4","5"]"#, &[place("")], 2).unwrap();
        assert_eq!(texts.len(), 3);
    }

    #[test]
    fn everything_else_stays_as_it_was() {
        let body = br#"{ "n" : 1.00000000000000000001e5 ,"a":"x\u0079" , "b":["z"]}"#;
        let texts = find(body, &[place("/a"), place("/b")], 9).unwrap();
        let others = ["\"1\"\n", ""].map(str::to_owned);
        let others: Vec<_> = texts.into_iter().map(|it| it.place).zip(others).collect();
        let out = String::from_utf8(replace(body, &others)).unwrap();
        let expected = r#"{ "n" : 1.00000000000000000001e5 ,"a":"\"1\"\n" , "b":[""]}"#;
        assert_eq!(out, expected);
    }

    #[test]
    fn parts_are_taken_out_once() {
        let table: [(&[(usize, usize)], &str); 7] = [
            (&[], "abcdef"),
            (&[(1, 3)], "a*def"),
            (&[(0, 6)], "*"),
            (&[(4, 6), (0, 1)], "*bcd*"),
            (&[(1, 4), (2, 5)], "a*f"),
            (&[(1, 5), (2, 3)], "a*f"),
            (&[(2, 3), (3, 4)], "ab**ef"),
        ];
        for (parts, expected) in table {
            let ranges = parts.iter().map(|(start, end)| *start..*end).collect();
            assert_eq!(without("abcdef", ranges, "*"), expected, "{parts:?}");
        }
        assert_eq!(without("é1", std::iter::once(0..2).collect(), ""), "1");
    }
}
