//! What is asked for: the four forms of a target, and paths that can be read in two ways (RFC 9112 section 3.2, RFC 3986).

use super::{Case, Expected::*, check, get, line};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<Case> {
    let asked = |line: &'static str| Message(line, "");
    vec![
        // Forms.
        ("with a scheme and a host", get("http://a/x"), asked("GET /x HTTP/1.1")),
        ("with another scheme", get("https://a/x"), asked("GET /x HTTP/1.1")),
        ("with a scheme in capitals", get("HTTP://a/x"), asked("GET /x HTTP/1.1")),
        ("with a host in capitals", get("http://A/x"), Refused(400)),
        ("with a host and no path", get("http://a"), asked("GET / HTTP/1.1")),
        ("with a host and a query", get("http://a?x"), Refused(400)),
        ("with a host and a fragment", get("http://a#x"), Refused(400)),
        ("with another host", get("http://b/x"), Refused(400)),
        ("with a port that the host has not", get("http://a:81/x"), Refused(400)),
        ("with a user", get("http://me@a/x"), Refused(400)),
        ("with the host as a user", get("http://a@b/x"), Refused(400)),
        ("with no host", get("http:///x"), Refused(400)),
        ("with one slash", get("http:/a/x"), Refused(400)),
        ("with a scheme of its own", get("ftp://a/x"), Refused(400)),
        ("with a scheme and a path alone", get("http:x"), Refused(400)),
        ("a host alone", get("a:80"), Refused(400)),
        ("a word", get("x"), Refused(400)),
        ("a query alone", get("?x"), Refused(400)),
        ("a star", get("*"), Refused(400)),
        ("a star of OPTIONS", line("OPTIONS * HTTP/1.1"), asked("OPTIONS * HTTP/1.1")),
        ("a star and more of OPTIONS", line("OPTIONS *x HTTP/1.1"), Refused(400)),
        ("a star as a path of OPTIONS", line("OPTIONS /* HTTP/1.1"), asked("OPTIONS /* HTTP/1.1")),
        ("a host behind two slashes", get("//b/x"), asked("GET /b/x HTTP/1.1")),
        ("a host behind a slash and a backslash", get("/\\b/x"), Refused(400)),
        ("a host in a path", get("/http://b/x"), asked("GET /http:/b/x HTTP/1.1")),
        ("a host in a query", get("/x?http://b/"), asked("GET /x?http://b/ HTTP/1.1")),
        // Segments.
        ("dots", get("/y/../x"), asked("GET /x HTTP/1.1")),
        ("a dot", get("/./x"), asked("GET /x HTTP/1.1")),
        ("dots beyond the top", get("/../../x"), asked("GET /x HTTP/1.1")),
        ("dots at the end", get("/x/.."), asked("GET / HTTP/1.1")),
        ("encoded dots", get("/y/%2e%2E/x"), asked("GET /x HTTP/1.1")),
        ("one encoded dot", get("/y/.%2e/x"), asked("GET /x HTTP/1.1")),
        ("dots with a parameter", get("/y/..;a/x"), Refused(400)),
        ("three dots", get("/y/.../x"), asked("GET /y/.../x HTTP/1.1")),
        ("two slashes", get("/y//x"), asked("GET /y/x HTTP/1.1")),
        ("many slashes", get("////x"), asked("GET /x HTTP/1.1")),
        ("slashes and dots", get("/y//../x"), asked("GET /x HTTP/1.1")),
        ("a parameter", get("/x;a=b"), asked("GET /x;a=b HTTP/1.1")),
        ("a backslash", get("/y\\x"), Refused(400)),
        ("dots with backslashes", get("/y\\..\\x"), Refused(400)),
        // Percent signs.
        ("an encoded letter", get("/%78"), asked("GET /x HTTP/1.1")),
        ("an encoded tilde", get("/%7ex"), asked("GET /~x HTTP/1.1")),
        ("an encoded space", get("/y%20x"), asked("GET /y%20x HTTP/1.1")),
        ("an encoded percent sign", get("/%252e%252e/x"), asked("GET /%252e%252e/x HTTP/1.1")),
        ("an encoded slash", get("/y%2fx"), Refused(400)),
        ("an encoded slash in capitals", get("/y%2Fx"), Refused(400)),
        ("an encoded backslash", get("/y%5cx"), Refused(400)),
        ("an encoded NUL", get("/x%00"), Refused(400)),
        ("an encoded line end", get("/x%0d%0ay:%20z"), Refused(400)),
        ("an encoded question mark", get("/x%3fy"), asked("GET /x%3Fy HTTP/1.1")),
        ("an encoded number sign", get("/x%23y"), asked("GET /x%23y HTTP/1.1")),
        ("half a percent sign", get("/x%"), Refused(400)),
        ("half an encoded byte", get("/x%2"), Refused(400)),
        ("no encoded byte", get("/x%zz"), Refused(400)),
        ("a percent sign and u", get("/%u0078"), Refused(400)),
        ("a slash that is longer than it has to be", get("/y%c0%afx"), asked("GET /y%C0%AFx HTTP/1.1")),
        // Bytes.
        ("a space", get("/y x"), asked("GET /y%20x HTTP/1.1")),
        ("a space in a query", get("/x?y x"), asked("GET /x?y%20x HTTP/1.1")),
        ("a version in a target", get("/x HTTP/1.1"), Refused(400)),
        ("a tab", get("/y\tx"), Refused(400)),
        ("NUL", get("/y\0x"), Refused(400)),
        ("CR", get("/y\rx"), Refused(400)),
        ("DEL", get("/y\x7fx"), Refused(400)),
        ("a letter of another alphabet", get("/\u{e4}"), asked("GET /%C3%A4 HTTP/1.1")),
        ("quotes", get("/\"x\""), asked("GET /%22x%22 HTTP/1.1")),
        ("angle brackets", get("/<x>"), Refused(400)),
        ("braces and bars", get("/{x|y}^"), asked("GET /%7Bx%7Cy%7D%5E HTTP/1.1")),
        ("a backtick", get("/x`"), Refused(400)),
        ("square brackets", get("/[x]"), asked("GET /%5Bx%5D HTTP/1.1")),
        ("a fragment", get("/x#y"), Refused(400)),
        ("a fragment of a query", get("/x?y#z"), Refused(400)),
        ("two question marks", get("/x?y?z"), asked("GET /x?y?z HTTP/1.1")),
        ("a question mark and nothing", get("/x?"), asked("GET /x? HTTP/1.1")),
        ("dots in a query", get("/x?/../y"), asked("GET /x?/../y HTTP/1.1")),
        ("an encoded slash in a query", get("/x?y%2fz"), asked("GET /x?y%2fz HTTP/1.1")),
        ("a backslash in a query", get("/x?y\\z"), asked("GET /x?y%5Cz HTTP/1.1")),
    ]
}

#[test]
fn targets_have_one_meaning() {
    check(&cases());
}
