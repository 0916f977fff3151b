//! Files of a folder as answers, as clients see them.

use crate::harness::{
    Proxy, RawClient, Response, TestAgent,
    agent::{Phase, When},
    http2::{exchange, get},
    proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use std::{fs, os::unix::fs::symlink, path::Path};
use tempfile::TempDir;

/// Larger than what is read at a time, and no piece of it is like another.
fn large() -> Vec<u8> {
    (0_u32..200_000)
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

/// A folder with files that were there long ago.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("www/docs")).unwrap();
    let files: [(&str, Vec<u8>); 6] = [
        ("index.html", b"<p>start".to_vec()),
        ("docs/index.html", b"<p>docs".to_vec()),
        ("app.js", b"console.log('plain')".to_vec()),
        ("app.js.br", b"not really brotli".to_vec()),
        ("large.bin", large()),
        ("empty.txt", Vec::new()),
    ];
    for (name, content) in files {
        write(&root.join("www").join(name), &content);
    }
    fs::write(root.join("secret.txt"), "secret").unwrap();
    symlink("../secret.txt", root.join("www/out.txt")).unwrap();
    folder
}

/// Writes a file that was changed long ago.
pub(crate) fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let long_ago =
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    file.set_modified(long_ago).unwrap();
}

fn serving(folder: &TempDir, settings: &str) -> Builder {
    let root = folder.path().join("www");
    Proxy::builder(format!(
        "routes {{ route \"site\" {{ static \"{}\" {settings} }} }}",
        root.display()
    ))
}

fn ask(client: &mut RawClient, method: &str, path: &str, lines: &[&str]) -> Response {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\n{lines}\r\n"
    ));
    if method == "HEAD" {
        client.response_to_head()
    } else {
        client.response()
    }
}

#[test]
fn files_have_types_lengths_and_validators() {
    let folder = folder();
    let proxy = serving(&folder, "").start();
    let mut client = proxy.client();
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", &b"<p>start"[..]),
        ("/index.html?query", "text/html; charset=utf-8", b"<p>start"),
        ("/docs/", "text/html; charset=utf-8", b"<p>docs"),
        (
            "/app.js",
            "text/javascript; charset=utf-8",
            b"console.log('plain')",
        ),
        ("/large.bin", "application/octet-stream", &large()),
        ("/empty.txt", "text/plain; charset=utf-8", b""),
    ] {
        let response = client.get(path, &[]);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.body, body, "{path}");
        assert_eq!(response.header("content-type"), Some(kind), "{path}");
        assert_eq!(
            response.header("content-length"),
            Some(&*body.len().to_string()),
            "{path}"
        );
        assert_eq!(
            response.header("last-modified"),
            Some("Sun, 09 Sep 2001 01:46:40 GMT")
        );
        assert_eq!(response.header("accept-ranges"), Some("bytes"));
        assert_eq!(response.header("vary"), None);
        let head = ask(&mut client, "HEAD", path, &[]);
        assert_eq!(head.status, 200);
        for name in ["content-type", "content-length", "etag", "last-modified"] {
            assert_eq!(head.header(name), response.header(name), "{name} of {path}");
        }
        let over_http2 = exchange(proxy.address_of("http"), vec![get(path)]);
        let over_http2 = over_http2.into_iter().next().unwrap().unwrap();
        assert!(over_http2.into_body() == body, "{path} over HTTP/2");
    }
    let line = proxy.access_line_of("/docs/");
    assert_eq!(line["route"], "site");
    assert_eq!(line["bytes_out"], 7);
    assert_eq!(line.get("upstream"), None);
}

#[test]
fn what_is_no_file_is_not_found_and_folders_have_a_slash() {
    let folder = folder();
    let proxy = serving(&folder, "").start();
    for (path, status, location) in [
        ("/nothing", 404, None),
        ("/index.html/", 404, None),
        ("/www.html/../secret.txt", 404, None),
        ("/%2e%2e/secret.txt", 404, None),
        ("/..%2fsecret.txt", 400, None),
        ("/docs", 301, Some("/docs/")),
        ("/docs?a=b", 301, Some("/docs/?a=b")),
        ("/out.txt", 404, None),
    ] {
        let response = proxy.get(path);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("location"), location, "{path}");
        assert!(!response.text().contains("secret"), "{path}");
    }
    assert_eq!(proxy.access_line_of("/out.txt")["reason"], "static_refused");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = ask(&mut proxy.client(), method, "/", &["content-length: 0"]);
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("GET, HEAD"), "{method}");
    }
}

#[test]
fn a_client_that_has_it_already_is_told_so() {
    let folder = folder();
    let proxy = serving(&folder, "").start();
    let mut client = proxy.client();
    let response = client.get("/large.bin", &[]);
    let tag = response.header("etag").unwrap().to_owned();
    let modified = response.header("last-modified").unwrap().to_owned();
    for (line, status) in [
        (format!("if-none-match: \"other\", {tag}"), 304),
        (format!("if-modified-since: {modified}"), 304),
        ("if-none-match: \"other\"".to_owned(), 200),
        ("if-match: \"other\"".to_owned(), 412),
        (
            "if-unmodified-since: Sun, 09 Sep 2001 01:46:39 GMT".to_owned(),
            412,
        ),
    ] {
        let response = client.get("/large.bin", &[&line]);
        assert_eq!(response.status, status, "{line}");
        if status == 304 {
            assert_eq!(response.header("etag"), Some(&*tag));
            assert!(response.body.is_empty());
        }
    }
    // Another content is another state.
    write(&folder.path().join("www/large.bin"), b"other");
    let line = format!("if-none-match: {tag}");
    let response = client.get("/large.bin", &[&line]);
    assert_eq!(
        (response.status, response.text()),
        (200, "other".to_owned())
    );
}

#[test]
fn slices_come_one_or_several_at_a_time() {
    let folder = folder();
    let proxy = serving(&folder, "").start();
    let mut client = proxy.client();
    let whole = large();
    let length = whole.len();
    let response = client.get("/large.bin", &["range: bytes=1000-300999"]);
    assert_eq!(response.status, 206);
    assert_eq!(response.body, &whole[1000..301_000]);
    assert_eq!(
        response.header("content-range"),
        Some(&*format!("bytes 1000-300999/{length}"))
    );
    let tag = response.header("etag").unwrap().to_owned();
    let if_range = format!("if-range: {tag}");
    let response = client.get("/large.bin", &["range: bytes=-5", &if_range]);
    assert_eq!(
        (response.status, &*response.body),
        (206, &whole[length - 5..])
    );
    let response = client.get("/large.bin", &["range: bytes=-5", "if-range: \"other\""]);
    assert_eq!((response.status, response.body.len()), (200, length));
    let response = client.get("/large.bin", &[&format!("range: bytes={length}-")]);
    assert_eq!(response.status, 416);
    assert_eq!(
        response.header("content-range"),
        Some(&*format!("bytes */{length}"))
    );
    let response = client.get("/large.bin", &["range: bytes=0-3,150000-299999"]);
    assert_eq!(response.status, 206);
    let kind = response.header("content-type").unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let mut expected = Vec::new();
    for (start, end) in [(0, 3), (150_000, 299_999)] {
        expected.extend_from_slice(
            format!(
                "{}--{boundary}\r\ncontent-type: application/octet-stream\r\n\
                 content-range: bytes {start}-{end}/{length}\r\n\r\n",
                if start == 0 { "" } else { "\r\n" }
            )
            .as_bytes(),
        );
        expected.extend_from_slice(&whole[start..=end]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(response.body == expected, "the parts are others");
}

#[test]
fn files_that_were_compressed_before_are_for_those_who_take_them() {
    let folder = folder();
    let proxy = serving(&folder, "{ precompressed \"br\" \"gzip\" }").start();
    let mut client = proxy.client();
    let plain = client.get("/app.js", &[]);
    let brotli = client.get("/app.js", &["accept-encoding: gzip, br"]);
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(brotli.header("content-encoding"), Some("br"));
    assert_eq!(brotli.text(), "not really brotli");
    assert_ne!(plain.header("etag"), brotli.header("etag"));
    for response in [&plain, &brotli] {
        assert_eq!(response.header("vary"), Some("accept-encoding"));
        assert_eq!(
            response.header("content-type"),
            Some("text/javascript; charset=utf-8")
        );
    }
    let gzip = client.get("/app.js", &["accept-encoding: gzip"]);
    assert_eq!(gzip.header("content-encoding"), None, "it is not there");
}

#[test]
fn an_application_with_its_own_routes_has_a_fallback() {
    let folder = folder();
    let proxy = serving(&folder, "fallback=\"index.html\"").start();
    let mut client = proxy.client();
    for path in ["/users/7", "/docs/nothing"] {
        let response = client.get(path, &[]);
        assert_eq!(
            (response.status, response.text()),
            (200, "<p>start".to_owned())
        );
    }
    assert_eq!(client.get("/docs/", &[]).text(), "<p>docs");
    // A symbolic link that leads out is not mistaken for nothing.
    assert_eq!(client.get("/out.txt", &[]).status, 404);
}

#[test]
fn a_file_that_is_cut_off_is_never_shown_as_complete() {
    let folder = folder();
    let path = folder.path().join("www/huge.bin");
    let file = fs::File::create(&path).unwrap();
    // Far more than sockets hold.
    file.set_len(1 << 30).unwrap();
    let proxy = serving(&folder, "").start();
    let mut client = proxy.client();
    client.send("GET /huge.bin HTTP/1.1\r\nhost: test\r\n\r\n");
    let head = client.read_head().unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-length: 1073741824"), "{head}");
    file.set_len(1 << 10).unwrap();
    let got = client.read_to_end().len();
    assert!(got < 1 << 30, "all of it came");
    let line = proxy.access_line_of("/huge.bin");
    assert_eq!(line["reason"], "static_unavailable");
    assert_eq!(line["aborted"], true);
}

#[test]
fn filters_and_a_rewrite_hold_for_files() {
    let folder = folder();
    let root = folder.path().join("www");
    let agent = TestAgent::named("judge")
        .on("/assets/app.js", Decision::block(403))
        .start();
    let proxy = Proxy::builder(format!(
        r#"routes {{
            route "assets" {{
                match {{ path-prefix "/assets" }}
                filters {{ agent "judge"; response-headers {{ set "cache-control" "max-age=60" }} }}
                rewrite {{ path-prefix "/assets" to="/" }}
                static "{}"
            }}
        }}"#,
        root.display()
    ))
    .agent(&agent)
    .start();
    proxy.wait_ready();
    let response = proxy.get("/assets/docs/");
    assert_eq!(
        (response.status, response.text()),
        (200, "<p>docs".to_owned())
    );
    assert_eq!(response.header("cache-control"), Some("max-age=60"));
    assert_eq!(
        proxy.get("/assets/docs").header("location"),
        Some("/assets/docs/")
    );
    assert_eq!(proxy.get("/assets/app.js").status, 403);
    assert_eq!(proxy.get("/assets").text(), "<p>start");
}

#[test]
fn agents_see_files_as_they_see_responses() {
    let folder = folder();
    let root = folder.path().join("www");
    let agent = TestAgent::named("reader")
        .then(
            Phase::ResponseBody,
            When::Holds("docs".into()),
            Decision::block(451),
        )
        .then(
            Phase::ResponseHeaders,
            When::Always,
            Decision::allow().set_response_header("x-judged", "yes"),
        )
        .start();
    let proxy = Proxy::builder(format!(
        "routes {{ route \"site\" {{ filters {{ agent \"reader\" }}; static \"{}\" }} }}",
        root.display()
    ))
    .agent_with(
        &agent,
        "timeout \"10s\"; inspect { request-headers; response-headers; response-body \"buffer\" limit=\"2MiB\" }",
    )
    .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    // A slice would pass by.
    let response = client.get("/large.bin", &["range: bytes=0-3"]);
    assert_eq!(response.status, 200);
    assert!(response.body == large());
    assert_eq!(response.header("x-judged"), Some("yes"));
    let shown = agent.seen("response_body_chunk").len();
    assert!(shown > 0, "no piece of the body was shown");
    let response = client.get("/", &[]);
    assert_eq!(
        (response.status, response.text()),
        (200, "<p>start".to_owned())
    );
    let head = ask(&mut client, "HEAD", "/", &[]);
    assert_eq!((head.status, head.header("x-judged")), (200, Some("yes")));
    let tag = response.header("etag").unwrap().to_owned();
    let response = client.get("/", &[&format!("if-none-match: {tag}")]);
    assert_eq!(
        (response.status, response.header("x-judged")),
        (304, Some("yes"))
    );
    assert_eq!(client.get("/docs/", &[]).status, 451);
    // What is not about a file is our own answer.
    assert_eq!(proxy.get("/docs").status, 301);
    assert_eq!(proxy.get("/nothing").header("x-judged"), None);
}

/// The file itself, on a port that is free and with the folder where it is.
#[test]
fn the_sample_does_what_its_comments_say() {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/site");
    let text = include_str!("../../config/static.kdl")
        .replace("\"127.0.0.1:8080\"", "\"127.0.0.1:0\"")
        .replace("static \"site\"", &format!("static \"{}\"", site.display()));
    let proxy = Proxy::builder(text).verbatim().start();
    let page = proxy.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("This page came out of a folder."));
    let tag = format!("if-none-match: {}", page.header("etag").unwrap());
    assert_eq!(proxy.get_with("/", &[&tag]).status, 304);
    let style = proxy.get("/assets/style.css");
    assert_eq!(style.header("cache-control"), Some("public, max-age=3600"));
    assert_eq!(
        style.header("content-type"),
        Some("text/css; charset=utf-8")
    );
    assert_eq!(proxy.get("/guide/first-steps").text(), page.text());
    assert_eq!(proxy.get("/assets/nothing").status, 404);
    assert_eq!(proxy.get("/api/users/7").json()["uri"], "/users/7");
}

#[test]
fn a_reload_serves_another_folder() {
    let folder = folder();
    let proxy = serving(&folder, "").start();
    assert_eq!(proxy.get("/").text(), "<p>start");
    proxy.reload(&serving(&folder, "index=\"app.js\""));
    assert_eq!(proxy.get("/").text(), "console.log('plain')");
}
