use futures::FutureExt;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use portcullis_agent_protocol::Verdict;

fn guard(config: &Value) -> BodyGuard {
    let guard = BodyGuard::default();
    guard.configure(config).now_or_never().unwrap().unwrap();
    guard
}

fn event(index: u32, data: &[u8], is_last: bool) -> BodyChunk<'static> {
    BodyChunk {
        correlation_id: "c",
        index,
        data: Bytes::copy_from_slice(data),
        is_last,
        total_size: None,
        transferred: 0,
        truncated: false,
        trailers: None,
        budget_left: None,
    }
}

/// What passes of a body in these pieces, or the reason why it does not.
fn pass(guard: &BodyGuard, pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let (passed, reason) = stream(guard, pieces);
    match reason {
        Some(reason) => Err(reason),
        None => Ok(passed),
    }
}

/// What passes of a body before it is refused, and why it is.
fn stream(guard: &BodyGuard, pieces: &[&[u8]]) -> (Vec<u8>, Option<String>) {
    let mut passed = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = index + 1 == pieces.len();
        let event = event(u32::try_from(index).unwrap(), piece, is_last);
        let decision = guard.chunk(Direction::Response, &event);
        if decision.verdict != Verdict::Allow {
            assert!(guard.responses.is_empty());
            return (passed, Some(decision.audit.unwrap().reason_codes.join(",")));
        }
        match decision.response_body {
            Some(other) => passed.extend_from_slice(&other),
            None => passed.extend_from_slice(piece),
        }
    }
    assert!(
        guard.responses.is_empty(),
        "nothing is kept of a body that is over"
    );
    (passed, None)
}

/// The text in pieces that end at these places.
fn cut<'a>(text: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places
        .iter()
        .map(|place| place % (text.len() + 1))
        .collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places.into_iter().chain([text.len()]) {
        pieces.push(&text[start..place]);
        start = place;
    }
    pieces
}

proptest! {
    /// However a body is cut, the same goes out of it, and nothing of what was to be taken out.
    #[test]
    fn redaction_does_not_depend_on_the_pieces(
        text in "[ab1 ]{0,80}",
        places in proptest::collection::vec(any::<usize>(), 0..8),
        max_match in 4usize..12,
    ) {
        let guard = guard(&json!({
            "max-match": max_match,
            "response": {"redact": [
                {"pattern": r"\b1{2,3}\b", "with": "#"},
                {"pattern": "ab+a", "with": "<>"},
                {"pattern": "aa"},
            ]},
        }));
        let whole = pass(&guard, &[text.as_bytes()]).unwrap();
        let pieces = pass(&guard, &cut(text.as_bytes(), &places)).unwrap();
        prop_assert_eq!(String::from_utf8(pieces).unwrap(), String::from_utf8(whole).unwrap());
    }

    /// What goes out is what the regex library makes of the whole text.
    #[test]
    fn redaction_is_that_of_the_library(
        text in "[abz1 ]{0,60}",
        places in proptest::collection::vec(any::<usize>(), 0..8),
        pattern in proptest::sample::select(vec![
            "a.*?z", "a.*z", "a(?:.*z)?", "a+", "ab|a", "a|ab", r"\b1+\b", "a[^z]*1z", "(?:ab)+z?", "z$", "^a",
        ]),
    ) {
        let guard = guard(&json!({"response": {"redact": {"pattern": pattern, "with": "#"}}}));
        let library = regex::Regex::new(pattern).unwrap().replace_all(&text, "#");
        let passed = pass(&guard, &cut(text.as_bytes(), &places)).unwrap();
        prop_assert_eq!(String::from_utf8(passed).unwrap(), library);
    }

    /// Also where matches are longer than what is looked at, and a search ends in vain.
    #[test]
    fn windows_do_not_depend_on_the_pieces(
        text in "[abz1]{0,200}",
        places in proptest::collection::vec(any::<usize>(), 0..20),
        max_match in 1usize..40,
    ) {
        let guard = guard(&json!({
            "max-match": max_match,
            "response": {"redact": [
                {"pattern": "a.*?zz1", "with": "<>"},
                {"pattern": "ba(?:.*bb)?", "with": "#"},
            ]},
        }));
        let whole = pass(&guard, &[text.as_bytes()]).unwrap();
        let pieces = pass(&guard, &cut(text.as_bytes(), &places)).unwrap();
        prop_assert_eq!(String::from_utf8(pieces).unwrap(), String::from_utf8(whole).unwrap());
    }

    /// What is denied is refused wherever a body is cut, before its last byte has passed, and nothing else is.
    #[test]
    fn what_is_denied_never_passes_whole(
        text in "[ab1 ]{0,60}",
        places in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let guard = guard(&json!({
            "max-match": 4,
            "response": {"deny": "abb", "deny-regex": [r"\b11\b", "^b1", "1b.*", "b a {4}"]},
        }));
        let number = regex::Regex::new(r"\b11\b").unwrap();
        let ends = [
            text.find("abb").map(|at| at + 3),
            text.starts_with("b1").then_some(2),
            text.find("1b").map(|at| at + 2),
            text.find("b a    ").map(|at| at + 7),
            number.find(&text).map(|found| found.end()),
        ];
        let end = ends.into_iter().flatten().min();
        let (passed, reason) = stream(&guard, &cut(text.as_bytes(), &places));
        prop_assert_eq!(reason.is_some(), end.is_some(), "{:?}", reason);
        prop_assert!(passed.len() < end.unwrap_or(usize::MAX), "{:?} passed", passed);
        prop_assert!(text.as_bytes().starts_with(&passed));
        prop_assert!(reason.is_some() || passed == text.as_bytes());
    }
}

#[test]
fn nothing_of_a_match_leaves_before_it_is_decided() {
    let config = json!({"response": {"redact": {"pattern": r"\b\d{16}\b", "with": "[card]"}}});
    let guard = guard(&config);
    let text = b"pay 4111111111111111 now";
    for place in 0..text.len() {
        let first = guard.chunk(Direction::Response, &event(0, &text[..place], false));
        let passed = first
            .response_body
            .unwrap_or_else(|| text[..place].to_vec().into());
        assert!(!passed.contains(&b'1'), "{passed:?}");
    }
    assert_eq!(
        pass(&guard, &[&text[..10], &text[10..]]).unwrap(),
        b"pay [card] now"
    );
}

/// Of a body whose last piece has not come: steps through tables, and bytes kept.
fn cost(guard: &BodyGuard, pieces: &[&[u8]]) -> (u64, usize) {
    for (index, piece) in pieces.iter().enumerate() {
        let event = event(u32::try_from(index).unwrap(), piece, false);
        let decision = guard.chunk(Direction::Response, &event);
        assert_eq!(decision.verdict, Verdict::Allow);
    }
    let cost = guard.responses.with_existing("c", |body| {
        let kept = body.redactor.memory() + body.search.memory();
        (body.redactor.looked() + body.search.looked(), kept)
    });
    guard.responses.remove("c");
    cost.unwrap()
}

#[test]
fn work_and_memory_are_bounded_whatever_the_body() {
    let attack = "<script ".repeat(16 << 10);
    let ended = format!("{attack}</script>");
    let nested = format!("{attack}\n{attack}");
    let digits = "1234567890 ".repeat(8 << 10);
    for (config, text) in [
        (
            json!({"redact": {"pattern": "<script.*?</script>"}}),
            &attack,
        ),
        (
            json!({"redact": {"pattern": "<script.*?</script>"}}),
            &ended,
        ),
        (
            json!({"redact": {"pattern": "(?s)<script.*</script>"}}),
            &nested,
        ),
        (json!({"redact": {"pattern": "<(?:.*>)?"}}), &attack),
        (json!({"redact": {"pattern": r"\b\d{16}\b"}}), &digits),
        (json!({"deny-regex": "<script.*?</script>"}), &attack),
        (json!({"deny-regex": [r"\b\d{16}\b", "1.*a"]}), &digits),
        (
            json!({"deny": ["<script <scrip>", "script <script>"]}),
            &attack,
        ),
    ] {
        let guard = guard(&json!({"response": config}));
        for size in [1, 4096, text.len()] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (looked, kept) = cost(&guard, &pieces);
            let each = looked as f64 / text.len() as f64;
            assert!(each <= 4.0, "{config}, {size}: {each} steps for a byte");
            assert!(kept <= 16 * 1024, "{config}, {size}: {kept} bytes kept");
        }
    }
}

#[test]
fn reasons() {
    let guard = guard(&json!({"response": {
        "deny": [["secret", "a.b"], "Word"],
        "ignore-case": true,
        "deny-regex": r"(?i)top\s+hat",
        "json": {"max-depth": 2, "max-bytes": 40},
    }}));
    for (pieces, reason) in [
        (&[&b"a fine body"[..]][..], None),
        (&[b"a sec", b"ret"], Some("body:deny:secret")),
        (&[b"a.", b"b"], Some("body:deny:a.b")),
        (&[b"axb"], None),
        (&[b"a SECr", b"eT"], Some("body:deny:secret")),
        (&[b"wo", b"rd"], Some("body:deny:Word")),
        (&[b"a TOP  ", b"", b"Hat"], Some(r"body:deny:(?i)top\s+hat")),
        (&[b"[[", b"[", b"]]]"], Some("body:json-depth")),
        (&[b"[[1]]", b"[[2]]"], None),
        (&[&[b' '; 30], &[b' '; 11]], Some("body:max-bytes")),
    ] {
        let passed = pass(&guard, pieces);
        assert_eq!(passed.err().as_deref(), reason, "{pieces:?}");
        guard.responses.remove("c");
    }
}

#[test]
fn content_types() {
    let guard =
        guard(&json!({"status": 451, "response": {"block-content-types": "Application/X-Bad"}}));
    for (value, blocked) in [
        ("application/x-bad", true),
        ("APPLICATION/x-bad ; a=b", true),
        ("application/x-badly", false),
        ("text/plain", false),
    ] {
        let mut headers = http::HeaderMap::new();
        headers.insert(CONTENT_TYPE, value.parse().unwrap());
        let event = ResponseHeaders {
            correlation_id: "c",
            status: 200,
            headers: &headers,
            budget_left: None,
        };
        let decision = guard
            .response_headers(&event)
            .now_or_never()
            .unwrap()
            .unwrap();
        let is_blocked = matches!(decision.verdict, Verdict::Block { status: 451, .. });
        assert_eq!(is_blocked, blocked, "{value}");
    }
}

#[test]
fn a_body_whose_beginning_is_not_known_is_never_allowed() {
    let guard = guard(&json!({"response": {"deny": "x"}}));
    // Refused like what is denied, not failed at: errors would open the circuit breaker for everybody.
    let decision = guard.chunk(Direction::Response, &event(1, b"a", true));
    assert!(matches!(
        decision.verdict,
        Verdict::Block { status: 403, .. }
    ));
    let audit = decision.audit.unwrap();
    assert_eq!(audit.reason_codes, ["body:unknown-beginning"]);
    assert!(guard.responses.is_empty());
}

#[test]
fn what_is_wrong_with_a_configuration() {
    for (config, part) in [
        (json!(1), "not an object"),
        (json!({"requests": {}}), "unknown key \"requests\""),
        (
            json!({"request": {"block-content-types": "a/b"}}),
            "unknown key request \"block-content-types\"",
        ),
        (
            json!({"request": {"deny": 1}}),
            "request deny: 1 is not a text",
        ),
        (json!({"request": {"deny": ""}}), "1 to 65536 bytes"),
        (
            json!({"request": {"ignore-case": true}}),
            "there is no `deny` that it is for",
        ),
        (
            json!({"response": {"redact": {"pattern": r"\b"}}}),
            "matches where nothing is",
        ),
        (
            json!({"response": {"redact": [[{"pattern": "a"}, 1]]}}),
            "redact is not an object",
        ),
        (
            json!({"response": {"deny-regex": "("}}),
            "not a regular expression",
        ),
        (
            json!({"response": {"redact": {"pattern": "a*"}}}),
            "matches where nothing is",
        ),
        (
            json!({"response": {"redact": {"with": "a"}}}),
            "`pattern` is missing",
        ),
        (json!({"response": {"json": {"max-depth": 0}}}), "from 1 to"),
        (json!({"status": 100}), "from 200 to 599"),
    ] {
        let error = Rules::parse(&config).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
