//! Files, compression and pages for errors on one route: each knows what the others have done.

use crate::{
    harness::{Proxy, Response, http2, proxy::Builder},
    static_files::write,
};
use std::io::Read;
use tempfile::TempDir;

const PAGE: &str = "<p>{status} {status.text}</p>";
const BROWSER: &str = "accept: text/html";
const TAKES_GZIP: &str = "accept-encoding: gzip";

fn text() -> String {
    (0..400)
        .map(|line| format!("line {line} of a page\n"))
        .collect()
}

/// Files that were there long ago, so that their tags are strong.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = text();
    let files: [(&str, &[u8]); 5] = [
        ("index.html", text.as_bytes()),
        ("picture.png", &[7; 5000]),
        ("ready.js", text.as_bytes()),
        ("ready.js.gz", b"made before"),
        ("small.html", b"<p>small</p>"),
    ];
    for (name, content) in files {
        write(&folder.path().join(name), content);
    }
    folder
}

fn serving(folder: &TempDir, page: &str) -> Builder {
    let root = folder.path().display();
    Proxy::builder(format!(
        r#"
        error-pages {{ page html="page.html"; problem-json }}
        routes {{
            route "site" {{
                filters {{ compress }}
                static "{root}" {{ precompressed "gzip" }}
            }}
        }}
        "#
    ))
    .file("page.html", page)
}

fn plain(response: &Response) -> String {
    assert!(response.complete);
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(response.header("content-length"), None);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&response.body[..])
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn files_are_compressed_by_whom_it_serves() {
    let folder = folder();
    let proxy = serving(&folder, PAGE).start();
    let mut client = proxy.client();
    let page = client.get("/", &[TAKES_GZIP]);
    assert_eq!(plain(&page), text());
    assert_eq!(page.header("accept-ranges"), None);
    assert_eq!(page.header_values("vary"), ["accept-encoding"]);
    let strong = client.get("/", &[]);
    let tag = strong.header("etag").unwrap();
    assert_eq!(page.header("etag"), Some(&*format!("W/{tag}")));
    assert_eq!(strong.text(), text());
    assert_eq!(strong.header_values("vary"), ["accept-encoding"]);
    // What was compressed before, what is small and what is none of the types go as they are.
    let ready = client.get("/ready.js", &[TAKES_GZIP]);
    assert_eq!(ready.header("content-encoding"), Some("gzip"));
    assert_eq!(ready.text(), "made before");
    assert!(!ready.header("etag").unwrap().starts_with("W/"));
    for path in ["/small.html", "/picture.png"] {
        let response = client.get(path, &[TAKES_GZIP]);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-encoding"), None, "{path}");
        assert!(response.header("content-length").is_some(), "{path}");
    }
    let mut request = http2::get("/");
    let gzip = http::HeaderValue::from_static("gzip");
    request.headers_mut().insert("accept-encoding", gzip);
    let over_http2 = http2::exchange(proxy.address_of("http"), vec![request]).remove(0);
    assert_eq!(over_http2.unwrap().body(), &page.body);
}

/// A client that has the compressed form is not told the tag of the plain one, and gets no part of that.
#[test]
fn conditions_and_parts_are_about_the_right_form() {
    let folder = folder();
    let proxy = serving(&folder, PAGE).start();
    let mut client = proxy.client();
    let strong = client.get("/", &[]).header("etag").unwrap().to_owned();
    let weak = format!("W/{strong}");
    for (tag, lines) in [(&strong, [].as_slice()), (&weak, &[TAKES_GZIP])] {
        let condition = format!("if-none-match: {tag}");
        let lines = [lines, &[condition.as_str()]].concat();
        let response = client.get("/", &lines);
        assert_eq!(response.status, 304, "{tag}");
        assert_eq!(response.header("etag"), Some(tag.as_str()), "{tag}");
        assert_eq!(response.header("content-encoding"), None, "{tag}");
        assert_eq!(response.header("vary"), Some("accept-encoding"), "{tag}");
    }
    let range = "range: bytes=0-9";
    let part = client.get("/", &[TAKES_GZIP, range, &format!("if-range: {strong}")]);
    assert_eq!((part.status, part.text()), (206, text()[..10].to_owned()));
    assert_eq!(part.header("content-encoding"), None);
    let whole = client.get("/", &[TAKES_GZIP, range, &format!("if-range: {weak}")]);
    assert_eq!((whole.status, plain(&whole)), (200, text()));
}

#[test]
fn what_is_not_found_has_its_page_compressed_or_not() {
    let folder = folder();
    let long = format!("{PAGE}<!-- {} -->", "long ".repeat(400));
    for (page, is_large) in [(PAGE, false), (&long, true)] {
        let proxy = serving(&folder, page).start();
        let mut client = proxy.client();
        let missing = client.get("/nothing", &[BROWSER, TAKES_GZIP]);
        assert_eq!(missing.status, 404);
        let varies = missing.header_values("vary").join(", ");
        assert!(varies.contains("accept"), "{varies}");
        let body = match is_large {
            true => {
                assert!(varies.contains("accept-encoding"), "{varies}");
                plain(&missing)
            }
            false => missing.text(),
        };
        assert!(body.starts_with("<p>404 Not Found</p>"), "{body}");
        let problem = client.get("/nothing", &["accept: application/json", TAKES_GZIP]);
        assert_eq!(problem.json()["status"], 404);
        // Not of files: a method that there is not, in a page as well.
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\n{BROWSER}\r\ncontent-length: 0\r\n\r\n"
        ));
        let refused = client.response();
        assert_eq!(
            (refused.status, refused.header("allow")),
            (405, Some("GET, HEAD"))
        );
        assert!(refused.text().starts_with("<p>405 Method Not Allowed</p>"));
    }
}

/// The head says of a page what it would say with its body.
#[test]
fn heads_alone_are_like_those_of_plain_answers() {
    let folder = folder();
    let proxy = serving(&folder, PAGE).start();
    let mut client = proxy.client();
    for (path, status) in [("/", 200), ("/nothing", 404)] {
        client.send(format!(
            "HEAD {path} HTTP/1.1\r\nhost: test\r\n{BROWSER}\r\n{TAKES_GZIP}\r\n\r\n"
        ));
        let head = client.response_to_head();
        assert_eq!(head.status, status);
        assert_eq!(head.header("content-encoding"), None, "{path}");
        let body = client.get(path, &[BROWSER]);
        assert_eq!(
            head.header("content-length"),
            body.header("content-length"),
            "{path}"
        );
    }
}
