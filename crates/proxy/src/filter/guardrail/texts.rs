//! Texts within JSON: where they are, and how others take their places. What is not replaced stays as it is, byte by byte.
//!
//! JSON can be read in more than one way: an object with two members of one name is one thing to one reader and another to
//! the next. Where a text is looked for, such an object is refused, so that nobody reads a text that was not looked at.
//!
//! A body is read twice, each time from its start to its end and never back: once to see that it is JSON, and once along the
//! ways to the texts, where everything else is passed over. So the work grows with the length of a body and not with its shape.

use memchr::memchr2;
use portcullis_config::{JsonPointer, PointerToken};
use serde::de::IgnoredAny;
use smallvec::SmallVec;
use std::{borrow::Cow, collections::HashSet, ops::Range};

/// What is deeper is not looked at, and its body is refused.
const DEEPEST: usize = 32;
/// An object with more members is not looked at, and its body is refused: all their names have to be remembered.
const MOST_MEMBERS: usize = 64 << 10;

/// A body that is JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// # Errors
    /// In words, why it is none.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8".to_owned())?;
        let checked: Result<IgnoredAny, _> = serde_json::from_str(text);
        checked.map_err(|error| error.to_string())?;
        Ok(Self(text))
    }

    /// Finds the texts at these places: text, or all text within an array or an object, at any depth. Returns where they are,
    /// quotation marks included; at most one more than `most`.
    ///
    /// # Errors
    /// In words, why it cannot be read in one way.
    pub(super) fn find(
        self,
        places: &[JsonPointer],
        most: usize,
    ) -> Result<Vec<Range<usize>>, String> {
        let mut walk = Walk {
            text: self.0,
            at: 0,
            most,
            found: Vec::new(),
        };
        let places: Ways<'_> = places.iter().map(|place| &place.0[..]).collect();
        walk.pass_spaces();
        walk.value(&places, false, 0)?;
        Ok(walk.found)
    }
}

/// The text that stands at a place of a body.
///
/// # Errors
/// In words, why that is none.
pub(super) fn text<'a>(body: &'a [u8], place: &Range<usize>) -> Result<Cow<'a, str>, String> {
    let written = body.get(place.clone()).map(std::str::from_utf8);
    match written {
        Some(Ok(written)) => unquoted(written),
        _ => Err("it is not there".to_owned()),
    }
}

/// What a string of JSON stands for.
fn unquoted(written: &str) -> Result<Cow<'_, str>, String> {
    let inner = written
        .strip_prefix('"')
        .and_then(|it| it.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        _ => serde_json::from_str(written)
            .map(Cow::Owned)
            .map_err(|error| error.to_string()),
    }
}

/// What is left of the ways that lead to a value.
type Ways<'p> = SmallVec<[&'p [PointerToken]; 4]>;

/// A way through JSON that is known to be JSON. It only goes forward.
struct Walk<'a> {
    text: &'a str,
    /// What is before it is done.
    at: usize,
    most: usize,
    found: Vec<Range<usize>>,
}

impl<'a> Walk<'a> {
    /// Goes behind the value that begins here. `within`: all text in it is looked for.
    fn value(
        &mut self,
        places: &[&[PointerToken]],
        within: bool,
        depth: usize,
    ) -> Result<(), String> {
        let within = within || places.iter().any(|place| place.is_empty());
        let is_on_the_way = within || !places.is_empty();
        match self.byte() {
            Some(b'"') if within => {
                let place = self.string();
                unquoted(&self.text[place.clone()])?;
                self.found.push(place);
                Ok(())
            }
            Some(b'[' | b'{') if is_on_the_way && depth == DEEPEST => {
                Err("it is too deep".to_owned())
            }
            Some(b'[') if is_on_the_way => self.array(places, within, depth),
            Some(b'{') if is_on_the_way => self.object(places, within, depth),
            _ => {
                self.pass();
                Ok(())
            }
        }
    }

    fn array(
        &mut self,
        places: &[&[PointerToken]],
        within: bool,
        depth: usize,
    ) -> Result<(), String> {
        let ways: SmallVec<[(Option<usize>, &[PointerToken]); 4]> =
            places.iter().filter_map(|place| by_number(place)).collect();
        let mut number = 0;
        self.at += 1;
        while self.goes_on(b']') {
            let here = ways
                .iter()
                .filter(|(wanted, _)| wanted.is_none_or(|it| it == number));
            let rest: Ways<'_> = here.map(|(_, rest)| *rest).collect();
            self.value(&rest, within, depth + 1)?;
            if self.has_enough() {
                break;
            }
            number += 1;
        }
        Ok(())
    }

    fn object(
        &mut self,
        places: &[&[PointerToken]],
        within: bool,
        depth: usize,
    ) -> Result<(), String> {
        let mut names: HashSet<Cow<'a, str>> = HashSet::new();
        self.at += 1;
        while self.goes_on(b'}') {
            let text = self.text;
            let name = unquoted(&text[self.string()])?;
            let rest = behind(places, &name);
            if !names.insert(name) {
                return Err("an object has two members of one name".to_owned());
            }
            if names.len() > MOST_MEMBERS {
                return Err(format!("an object has more than {MOST_MEMBERS} members"));
            }
            self.pass_spaces();
            // The colon.
            self.at += 1;
            self.pass_spaces();
            self.value(&rest, within, depth + 1)?;
            if self.has_enough() {
                break;
            }
        }
        Ok(())
    }

    /// There are too many texts, and nobody has to know how many.
    fn has_enough(&self) -> bool {
        self.found.len() > self.most
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes to the next element or member, or behind the end.
    fn goes_on(&mut self, end: u8) -> bool {
        self.pass_spaces();
        match self.byte() {
            Some(b',') => {
                self.at += 1;
                self.pass_spaces();
                true
            }
            Some(byte) if byte != end => true,
            _ => {
                self.at += 1;
                false
            }
        }
    }

    fn pass_spaces(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Goes behind a string. Returns where it is.
    fn string(&mut self) -> Range<usize> {
        let start = self.at;
        self.at += 1;
        let bytes = self.text.as_bytes();
        while let Some(next) = memchr2(b'"', b'\\', bytes.get(self.at..).unwrap_or_default()) {
            self.at += next + 1;
            if bytes[self.at - 1] == b'"' {
                return start..self.at;
            }
            // What is escaped.
            self.at += 1;
        }
        // It has no end, which it always has here.
        self.at = bytes.len();
        start.min(self.at)..self.at
    }

    /// Goes behind a value, whatever it is.
    fn pass(&mut self) {
        let mut open = 0usize;
        loop {
            match self.byte() {
                None => return,
                Some(b'"') => drop(self.string()),
                Some(b'[' | b'{') => {
                    open += 1;
                    self.at += 1;
                }
                Some(b']' | b'}') => {
                    open = open.saturating_sub(1);
                    self.at += 1;
                }
                Some(_) if open > 0 => self.at += 1,
                Some(_) => self.pass_word(),
            }
            if open == 0 {
                return;
            }
        }
    }

    /// Goes behind a number, or `true` and the like.
    fn pass_word(&mut self) {
        let is_in_word = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        while self.byte().is_some_and(is_in_word) {
            self.at += 1;
        }
    }
}

/// A way that leads to elements of an array: to which, or to all of them, and how it goes on.
fn by_number(place: &[PointerToken]) -> Option<(Option<usize>, &[PointerToken])> {
    match place.split_first()? {
        (PointerToken::Any, rest) => Some((None, rest)),
        (PointerToken::Named(name), rest) => {
            let number: usize = name.parse().ok()?;
            // There is one way to write it (RFC 6901 section 4).
            let is_plain = name == "0" || !name.starts_with(['0', '+']);
            is_plain.then_some((Some(number), rest))
        }
    }
}

/// The ways that go on behind a member of this name.
fn behind<'p>(places: &[&'p [PointerToken]], name: &str) -> Ways<'p> {
    let next = places
        .iter()
        .filter_map(|place| match place.split_first()? {
            (PointerToken::Any, rest) => Some(rest),
            (PointerToken::Named(wanted), rest) => (wanted == name).then_some(rest),
        });
    next.collect()
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
    use proptest::prelude::*;
    use serde_json::Value;

    fn place(text: &str) -> JsonPointer {
        let tokens = text.split('/').skip(1).map(|token| match token {
            "*" => PointerToken::Any,
            name => PointerToken::Named(name.to_owned()),
        });
        JsonPointer(tokens.collect())
    }

    fn found(body: &str, places: &[&str]) -> Result<Vec<String>, String> {
        let places: Vec<_> = places.iter().map(|text| place(text)).collect();
        let found = Json::read(body.as_bytes())?.find(&places, 100)?;
        let texts = found.iter().map(|place| text(body.as_bytes(), place));
        Ok(texts.map(|text| text.unwrap().into_owned()).collect())
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
        assert!(Json::read(b"{\"a\":\"\xff\"}").is_err());
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
    fn names_of_members_are_remembered_up_to_a_bound() {
        let members = |count: usize| {
            let members: Vec<String> = (0..count).map(|it| format!("\"{it}\":\"x\"")).collect();
            format!("{{\"a\":\"x\",\"b\":{{{}}}}}", members.join(","))
        };
        let many = members(MOST_MEMBERS);
        assert_eq!(found(&many, &["/a", "/b/7"]).unwrap(), ["x", "x"]);
        let too_many = members(MOST_MEMBERS + 1);
        assert!(found(&too_many, &["/a", "/b/7"]).is_err());
        // Where nobody looks, there may be more.
        assert_eq!(found(&too_many, &["/a"]).unwrap(), ["x"]);
    }

    /// Any JSON in which members are in the order of their names.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = || proptest::sample::select(vec!["a", "b", "0", "1", "", "\"\\", "é\n"]);
        let leaf = prop_oneof![
            name().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            let members = proptest::collection::btree_map(
                name().prop_map(str::to_owned),
                inner.clone(),
                0..6,
            );
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(Value::from),
                members.prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    /// All that is to be found, by the tree of it all.
    fn expected(value: &Value, places: &[&[PointerToken]], within: bool, found: &mut Vec<String>) {
        let within = within || places.iter().any(|place| place.is_empty());
        match value {
            Value::String(text) if within => found.push(text.clone()),
            Value::Array(elements) => {
                for (number, element) in elements.iter().enumerate() {
                    expected(element, &behind(places, &number.to_string()), within, found);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    expected(member, &behind(places, name), within, found);
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn all_texts_are_found_whatever_is_around_them(
            value in any_json(),
            places in proptest::collection::vec("(/(\\*|a|b|0|1)){0,4}", 1..4),
            is_spread in any::<bool>(),
        ) {
            let body = match is_spread {
                true => serde_json::to_string_pretty(&value).unwrap(),
                false => value.to_string(),
            };
            let pointers: Vec<JsonPointer> = places.iter().map(|text| place(text)).collect();
            let ways: Vec<&[PointerToken]> = pointers.iter().map(|place| &place.0[..]).collect();
            let mut wanted = Vec::new();
            expected(&value, &ways, false, &mut wanted);
            let written: Vec<&str> = places.iter().map(String::as_str).collect();
            prop_assume!(wanted.len() <= 100);
            prop_assert_eq!(found(&body, &written).unwrap(), wanted);
        }
    }

    #[test]
    fn no_more_are_found_than_one_too_many() {
        let body = Json::read(br#"{"a":["1","2","3","4","5"],"b":[["6"]]}"#).unwrap();
        assert_eq!(body.find(&[place("")], 2).unwrap().len(), 3);
        assert_eq!(body.find(&[place("/b"), place("/a")], 3).unwrap().len(), 4);
    }

    #[test]
    fn everything_else_stays_as_it_was() {
        let body = br#"{ "n" : 1.00000000000000000001e5 ,"a":"x\u0079" , "b":["z"]}"#;
        let found = Json::read(body).unwrap();
        let found = found.find(&[place("/a"), place("/b")], 9).unwrap();
        let others = ["\"1\"\n", ""].map(str::to_owned);
        let others: Vec<_> = found.into_iter().zip(others).collect();
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
