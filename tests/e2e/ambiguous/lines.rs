//! Lines of heads: their ends, their spaces, their bytes (RFC 9112 sections 2 to 5).

use super::{Case, Expected::*, check, line, with};

#[expect(clippy::too_many_lines, reason = "a table")]
#[rustfmt::skip]
pub(super) fn cases() -> Vec<Case> {
    const GET: &str = "GET /x HTTP/1.1";
    let raw = |text: &str| text.as_bytes().to_vec();
    vec![
        // What stands before the first line.
        ("an empty line first", raw("\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n"), Message(GET, "")),
        ("two empty lines first", raw("\r\n\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n"), Message(GET, "")),
        ("LF first", raw("\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n"), Refused(400)),
        ("a space first", raw(" GET /x HTTP/1.1\r\nhost: a\r\n\r\n"), Refused(400)),
        ("a header first", raw("host: a\r\nGET /x HTTP/1.1\r\n\r\n"), Refused(400)),
        // The first line.
        ("two spaces", line("GET  /x HTTP/1.1"), Refused(400)),
        ("two spaces behind the target", line("GET /x  HTTP/1.1"), Message("GET /x%20 HTTP/1.1", "")),
        ("tabs", line("GET\t/x\tHTTP/1.1"), Refused(400)),
        ("a tab behind the target", line("GET /x\tHTTP/1.1"), Refused(400)),
        ("a space at the end", line("GET /x HTTP/1.1 "), Refused(400)),
        ("a tab at the end", line("GET /x HTTP/1.1\t"), Refused(400)),
        ("something behind the version", line("GET /x HTTP/1.1 x"), Refused(400)),
        ("no version", line("GET /x"), Refused(400)),
        ("no target", line("GET HTTP/1.1"), Refused(400)),
        ("no target but a space", line("GET  HTTP/1.1"), Refused(400)),
        ("a line end as CR", raw("GET /x HTTP/1.1\rhost: a\r\n\r\n"), Refused(400)),
        ("a line end as LF", raw("GET /x HTTP/1.1\nhost: a\r\n\r\n"), Refused(400)),
        ("a form feed", line("GET\x0c/x HTTP/1.1"), Refused(400)),
        // Versions.
        ("a version in small letters", line("GET /x http/1.1"), Refused(400)),
        ("version 1.10", line("GET /x HTTP/1.10"), Refused(400)),
        ("version 01.1", line("GET /x HTTP/01.1"), Refused(400)),
        ("version 1.2", line("GET /x HTTP/1.2"), Refused(400)),
        ("version 1", line("GET /x HTTP/1"), Refused(400)),
        ("version 0.9", line("GET /x HTTP/0.9"), Refused(400)),
        ("version 2.0", line("GET /x HTTP/2.0"), Refused(400)),
        ("version 3.0", line("GET /x HTTP/3.0"), Refused(400)),
        ("version 1.1 with a space", line("GET /x HTTP/ 1.1"), Refused(400)),
        ("version 1,1", line("GET /x HTTP/1,1"), Refused(400)),
        ("another protocol", line("GET /x ICAP/1.1"), Refused(400)),
        ("a protocol cut short", line("GET /x HTT/1.1"), Refused(400)),
        // Methods.
        ("a method of one's own", line("QUERY /x HTTP/1.1"), Message("QUERY /x HTTP/1.1", "")),
        ("a method with a hyphen", line("M-SEARCH /x HTTP/1.1"), Message("M-SEARCH /x HTTP/1.1", "")),
        ("a method in small letters", line("get /x HTTP/1.1"), Refused(400)),
        ("a method in both", line("Get /x HTTP/1.1"), Refused(400)),
        ("a method with NUL", line("GET\0 /x HTTP/1.1"), Refused(400)),
        ("a method with a colon", line("GET: /x HTTP/1.1"), Refused(400)),
        ("a method in brackets", line("(GET) /x HTTP/1.1"), Refused(400)),
        ("a method with a letter of another alphabet", line("G\u{c9}T /x HTTP/1.1"), Refused(400)),
        ("a method with a comma", line("GET,POST /x HTTP/1.1"), Refused(400)),
        ("TRACE", line("TRACE /x HTTP/1.1"), Refused(405)),
        ("TRACK", line("TRACK /x HTTP/1.1"), Refused(405)),
        ("CONNECT", line("CONNECT a:80 HTTP/1.1"), Refused(405)),
        ("CONNECT of a path", line("CONNECT /x HTTP/1.1"), Refused(405)),
        ("connect in small letters", line("connect a:80 HTTP/1.1"), Refused(400)),
        ("the preface of HTTP/2, cut short", raw("PRI * HTTP/2.0\r\n\r\n"), Refused(400)),
        // Names.
        ("a space behind a name", with("x-a : 1"), Refused(400)),
        ("a tab behind a name", with("x-a\t: 1"), Refused(400)),
        ("a space in a name", with("x a: 1"), Refused(400)),
        ("no name", with(": 1"), Refused(400)),
        ("no colon", with("x-a"), Refused(400)),
        ("a name with NUL", with("x\0a: 1"), Refused(400)),
        ("a name with CR", with("x\ra: 1"), Refused(400)),
        ("a name with a letter of another alphabet", with("x-\u{e4}: 1"), Refused(400)),
        ("a name with brackets", with("x(a): 1"), Refused(400)),
        ("a name with a slash", with("x/a: 1"), Refused(400)),
        ("a name in quotes", with("\"x\": 1"), Refused(400)),
        ("a name with an at", with("x@a: 1"), Refused(400)),
        ("a name of a pseudo-field", with(":path: /y"), Refused(400)),
        ("a name with DEL", with("x\x7fa: 1"), Refused(400)),
        // Values.
        ("no value", with("x-a:"), Message(GET, "")),
        ("a value of spaces", with("x-a:    "), Message(GET, "")),
        ("a value with tabs", with("x-a: 1\t2"), Message(GET, "")),
        ("a value with bytes beyond ASCII", with(b"x-a: \xff\xfe"), Message(GET, "")),
        ("a value with NUL", with("x-a: 1\0 2"), Refused(400)),
        ("a value with CR", with("x-a: 1\r2"), Refused(400)),
        ("a value with two CR at its end", with("x-a: 1\r"), Refused(400)),
        ("a value with LF", with("x-a: 1\nx-b: 2"), Refused(400)),
        ("a value with BEL", with("x-a: \x07"), Refused(400)),
        ("a value with ESC", with("x-a: \x1b[31m"), Refused(400)),
        ("a value with DEL", with("x-a: \x7f"), Refused(400)),
        ("a value with a vertical tab", with("x-a: \x0b"), Refused(400)),
        ("a value that is folded", with("x-a: 1\r\n 2"), Refused(400)),
        ("a value that is folded by a tab", with("x-a: 1\r\n\t2"), Refused(400)),
        ("a value that is folded first", raw("GET /x HTTP/1.1\r\n host: a\r\n\r\n"), Refused(400)),
        ("a value that begins behind a line end", with("x-a:\r\n 1"), Refused(400)),
        // Ends.
        ("a head that ends with LF", raw("GET /x HTTP/1.1\r\nhost: a\r\n\n"), Refused(400)),
        ("a head that ends with two LF", raw("GET /x HTTP/1.1\r\nhost: a\n\n"), Refused(400)),
        ("a head of lines with LF alone", raw("GET /x HTTP/1.1\nhost: a\n\n"), Refused(400)),
        ("a head with a line of a space", raw("GET /x HTTP/1.1\r\nhost: a\r\n \r\n\r\n"), Refused(400)),
        ("a head that ends with CR", raw("GET /x HTTP/1.1\r\nhost: a\r\n\r\r\n"), Refused(400)),
        ("empty lines behind a request", raw("GET /x HTTP/1.1\r\nhost: a\r\n\r\n\r\n\r\n"), Message(GET, "")),
    ]
}

#[test]
fn lines_of_heads_have_one_meaning() {
    check(&cases());
}
