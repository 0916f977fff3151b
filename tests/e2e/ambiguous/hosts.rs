//! Who is asked (RFC 9112 section 3.2).

use super::{Case, Expected::*, check};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<Case> {
    const GET: &str = "GET /x HTTP/1.1";
    let of = |lines: &str| format!("GET /x HTTP/1.1\r\n{lines}\r\n\r\n").into_bytes();
    let full = |host: &str, lines: &str| {
        format!("GET http://{host}/x HTTP/1.1\r\n{lines}\r\n\r\n").into_bytes()
    };
    vec![
        ("a name", of("host: a"), Message(GET, "")),
        ("a name without a space", of("host:a"), Message(GET, "")),
        ("a name in capitals", of("HOST: A"), Message(GET, "")),
        ("a name with a port", of("host: a:80"), Message(GET, "")),
        ("a name with a colon", of("host: a:"), Message(GET, "")),
        ("a name with a dot", of("host: a."), Message(GET, "")),
        ("a name with a line", of("host: a_b"), Message(GET, "")),
        ("an address", of("host: 127.0.0.1"), Message(GET, "")),
        ("an address of version 6", of("host: [::1]:80"), Message(GET, "")),
        ("none", of("x-a: 1"), Refused(400)),
        ("an empty one", of("host:"), Refused(400)),
        ("one of spaces", of("host:   "), Refused(400)),
        ("two that are the same", of("host: a\r\nhost: a"), Refused(400)),
        ("two", of("host: a\r\nhost: b"), Refused(400)),
        ("two, one of them empty", of("host: a\r\nhost:"), Refused(400)),
        ("two in one line", of("host: a, b"), Refused(400)),
        ("two with a space", of("host: a b"), Refused(400)),
        ("two with a tab", of("host: a\tb"), Refused(400)),
        ("a folded one", of("host: a\r\n b"), Refused(400)),
        ("one that begins behind a line end", of("host:\r\n a"), Refused(400)),
        ("a space behind its name", of("host : a"), Refused(400)),
        ("a second with a space behind its name", of("host: a\r\nhost : b"), Refused(400)),
        ("a second behind a space", of("host: a\r\n host: b"), Refused(400)),
        ("a second first", of(" host: b\r\nhost: a"), Refused(400)),
        ("a slash", of("host: a/b"), Refused(400)),
        ("a question mark", of("host: a?b"), Refused(400)),
        ("a number sign", of("host: a#b"), Refused(400)),
        ("a user", of("host: me@a"), Refused(400)),
        ("a scheme", of("host: http://a"), Refused(400)),
        ("a percent sign", of("host: %61"), Refused(400)),
        ("a backslash", of("host: a\\b"), Refused(400)),
        ("quotes", of("host: \"a\""), Refused(400)),
        ("a letter of another alphabet", of("host: \u{e4}"), Refused(400)),
        ("two dots", of("host: a..b"), Refused(400)),
        ("a dot first", of("host: .a"), Refused(400)),
        ("a port that is too large", of("host: a:99999"), Refused(400)),
        ("a port with a sign", of("host: a:+80"), Refused(400)),
        ("a port that is a word", of("host: a:http"), Refused(400)),
        ("two ports", of("host: a:80:80"), Refused(400)),
        ("half a bracket", of("host: [::1"), Refused(400)),
        ("brackets of a name", of("host: [a]"), Refused(400)),
        ("brackets and more", of("host: [::1]a"), Refused(400)),
        ("an address of version 6 without brackets", of("host: ::1"), Refused(400)),
        ("NUL", of("host: a\0"), Refused(400)),
        ("the target's, too", full("a", "host: a"), Message(GET, "")),
        ("the target's alone", full("a", "x-a: 1"), Refused(400)),
        ("the target's and an empty one", full("a", "host:"), Refused(400)),
        ("another than the target's", full("a", "host: b"), Refused(400)),
        ("the target's and another", full("a", "host: a\r\nhost: b"), Refused(400)),
        ("the target's with a port", full("a:80", "host: a"), Refused(400)),
        ("none in HTTP/1.0", b"GET /x HTTP/1.0\r\n\r\n".to_vec(), Last(GET, "")),
        ("two in HTTP/1.0", b"GET /x HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n".to_vec(), Refused(400)),
    ]
}

#[test]
fn hosts_have_one_meaning() {
    check(&cases());
}
