//! What people try first: curl, in each version of HTTP that it speaks.

use crate::harness::{Origin, Proxy};
use std::{net::SocketAddr, process::Command};

/// The version that curl says the answer had, its status, and its body.
fn curl(address: SocketAddr, arguments: &[&str], path: &str) -> (String, String) {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--noproxy",
            "*",
        ])
        .args(["--write-out", "\n%{http_version} %{http_code}"])
        .args(arguments)
        .arg(format!("http://{address}{path}"))
        .output()
        .expect("curl is there: scripts/ensure-tools.sh curl installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let (body, outcome) = text.rsplit_once('\n').unwrap();
    (outcome.to_owned(), body.to_owned())
}

#[test]
fn curl_is_answered_in_each_version_of_http() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let page = "0123456789".repeat(100_000);
    std::fs::write(folder.path().join("page.html"), &page).unwrap();
    let proxy = Proxy::builder(format!(
        r#"routes {{
            route "files" {{ match {{ path "/page.html" }}; static "{}" }}
            route "app" {{ upstream "origin" }}
        }}"#,
        folder.path().display()
    ))
    .origin(&origin)
    .start();
    let address = proxy.address_of("http");
    for (version, answered) in [
        ("--http1.0", "1.0"),
        ("--http1.1", "1.1"),
        // The offer of an upgrade is not taken, as RFC 9113 has it.
        ("--http2", "1.1"),
        ("--http2-prior-knowledge", "2"),
    ] {
        // The version of an answer to HTTP/1.0 may be 1.1 (RFC 9110 section 6.2).
        let is_answered = |outcome: &str, status: &str| {
            let versions = [answered, "1.1"];
            let accepted = if answered == "1.0" {
                &versions[..]
            } else {
                &versions[..1]
            };
            accepted
                .iter()
                .any(|version| outcome == format!("{version} {status}"))
        };
        let (outcome, body) = curl(address, &[version], "/hello");
        assert!(is_answered(&outcome, "200"), "{version}: {outcome}");
        assert_eq!(body, "ok", "{version}");
        let (outcome, body) = curl(address, &[version, "--data", "some=form"], "/form");
        assert!(is_answered(&outcome, "200"), "{version}: {outcome}");
        assert_eq!(body, "ok", "{version}");
        assert_eq!(origin.last().body, b"some=form", "{version}");
        let (outcome, body) = curl(address, &[version], "/page.html");
        assert!(is_answered(&outcome, "200"), "{version}: {outcome}");
        assert!(body == page, "{version}: another file");
        let (outcome, body) = curl(address, &[version, "--range", "5-14"], "/page.html");
        assert!(is_answered(&outcome, "206"), "{version}: {outcome}");
        assert_eq!(body, "5678901234", "{version}");
        let (outcome, _) = curl(address, &[version, "--head"], "/page.html");
        assert!(is_answered(&outcome, "200"), "{version}: {outcome}");
    }
}
