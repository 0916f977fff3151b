//! TLS to targets: whom it takes for the target, what it shows, and that HTTP/2 is agreed upon or not spoken at all.

use super::TO_POOL;
use crate::harness::{
    Http2Answer, Http2Origin, Origin, Proxy,
    agent_ways::tls_file,
    eventually,
    proxy::Builder,
    tls_front::{Handshake, Manner, TlsFront},
};

/// The setting `tls` with files of `tests/fixtures/tls`.
fn tls(server_name: &str, ca: Option<&str>, identity: bool) -> String {
    let mut text = format!("tls server-name=\"{server_name}\"");
    if let Some(ca) = ca {
        text += &format!(" ca=\"{}\"", tls_file(ca).display());
    }
    if identity {
        let (certificate, key) = (tls_file("proxy.pem"), tls_file("proxy.key"));
        let (certificate, key) = (certificate.display(), key.display());
        text += &format!(" certificate=\"{certificate}\" key=\"{key}\"");
    }
    text
}

fn to(front: &TlsFront, settings: &str) -> Builder {
    let target = format!("target \"{}\"; {settings}", front.address());
    Proxy::builder(TO_POOL).upstream("pool", &target)
}

#[test]
fn a_target_is_asked_within_tls() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let proxy = to(&front, &tls("agent.test", Some("ca.pem"), false)).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).text(), "ok");
    }
    let shaken = Handshake {
        server_name: Some("agent.test".to_owned()),
        protocol: None,
        has_certificate: false,
        is_resumed: false,
    };
    // One connection, which was kept.
    assert_eq!(front.handshakes(), [shaken]);
}

#[test]
fn an_address_may_be_what_the_certificate_is_for() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let proxy = to(&front, &tls("127.0.0.1", Some("ca.pem"), false)).start();
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(front.handshakes()[0].server_name, None);
}

/// An address is not sent in the handshake, and nothing at all may not stand in its place.
#[test]
fn d25_what_is_not_sent_in_the_handshake_is_verified_all_the_same() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    for settings in [
        tls("127.0.0.2", Some("ca.pem"), false),
        tls("127.0.0.1", Some("other-ca.pem"), false),
        tls("127.0.0.1", None, false),
    ] {
        let proxy = to(&front, &settings).start();
        assert_eq!(proxy.get("/refused").status, 502, "{settings}");
        assert_eq!(proxy.access_line_of("/refused")["reason"], "upstream_tls");
    }
    let nameless = format!("tls ca=\"{}\"", tls_file("ca.pem").display());
    for settings in [tls("", Some("ca.pem"), false), nameless] {
        let (code, _, errors) = to(&front, &settings).run_to_end();
        assert_ne!(code, Some(0), "{settings}");
        assert!(errors.contains("server-name"), "{errors}");
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn a_certificate_that_does_not_hold_is_no_target() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    for (settings, why) in [
        (
            tls("agent.test", Some("other-ca.pem"), false),
            "UnknownIssuer",
        ),
        (tls("other.test", Some("ca.pem"), false), "other.test"),
        // The authorities of the system have not signed it.
        (tls("agent.test", None, false), "UnknownIssuer"),
    ] {
        let proxy = to(&front, &settings).start();
        assert_eq!(proxy.get("/refused").status, 502, "{settings}");
        assert_eq!(proxy.access_line_of("/refused")["reason"], "upstream_tls");
        let line = proxy.log_line(|line| line["message"] == "TLS to a target does not come about");
        assert_eq!(line["upstream"], "pool");
        assert_eq!(line["address"], front.address().to_string());
        let error = line["error"].as_str().unwrap();
        assert!(error.contains(why), "{settings}: {error}");
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn nothing_is_verified_only_where_that_is_written() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let settings = "tls server-name=\"other.test\" insecure-skip-verify=#true";
    let proxy = to(&front, settings).start();
    assert_eq!(proxy.get("/").status, 200);
    let (code, _, printed) = to(&front, settings).check();
    assert_eq!(code, Some(0));
    assert!(printed.contains("any certificate"), "{printed}");
}

#[test]
fn a_target_may_want_to_know_who_calls() {
    let origin = Origin::start();
    let manner = Manner {
        wants_certificate: true,
        ..Manner::default()
    };
    let front = TlsFront::start(origin.address(), manner);
    let proxy = to(&front, &tls("agent.test", Some("ca.pem"), true)).start();
    assert_eq!(proxy.get("/").status, 200);
    assert!(front.handshakes()[0].has_certificate);
    let proxy = to(&front, &tls("agent.test", Some("ca.pem"), false)).start();
    assert_eq!(proxy.get("/").status, 502);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn sessions_are_resumed_where_the_system_says_whom_to_believe() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let settings = format!(
        "{}; keepalive connections=0",
        tls("agent.test", None, false)
    );
    let proxy = to(&front, &settings)
        .authorities(tls_file("ca.pem"))
        .start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    let resumed: Vec<bool> = front
        .handshakes()
        .iter()
        .map(|handshake| handshake.is_resumed)
        .collect();
    assert_eq!(resumed, [false, true, true]);
}

#[test]
fn a_system_without_authorities_is_said_at_the_start() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let without = |settings: &str| to(&front, settings).authorities(tls_file("absent.pem"));
    let (code, _, printed) = without(&tls("agent.test", None, false)).run_to_end();
    assert_ne!(code, Some(0));
    assert!(printed.contains("SSL_CERT_FILE"), "{printed}");
    // Who needs none does not miss them.
    let proxy = without(&tls("agent.test", Some("ca.pem"), false)).start();
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn checks_believe_whom_requests_believe() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let passed = "portcullis_upstream_health_checks_total{result=\"success\"}";
    for (ca, authorities, check) in [
        (Some("ca.pem"), "absent.pem", "\"http\" path=\"/healthz\""),
        (Some("ca.pem"), "absent.pem", "\"tcp\""),
        (None, "ca.pem", "\"http\" path=\"/healthz\""),
    ] {
        let tls = tls("agent.test", ca, false);
        let settings = format!("{tls}; health-check {check} interval=\"50ms\"");
        let proxy = to(&front, &settings)
            .authorities(tls_file(authorities))
            .start();
        eventually("a check that passed", || {
            (proxy.metric(passed) > 0.0).then_some(())
        });
    }
}

#[test]
fn checks_speak_http2_where_requests_do() {
    let origin = Http2Origin::answering(|_| Http2Answer::with(200, &[], ""));
    let manner = |protocols| Manner {
        protocols,
        ..Manner::default()
    };
    let tls = tls("agent.test", Some("ca.pem"), false);
    let check = "health-check \"http\" path=\"/healthz?x\" interval=\"50ms\"";
    let passed = "portcullis_upstream_health_checks_total{result=\"success\"}";
    let front = TlsFront::start(origin.address(), manner(&["h2"]));
    for (address, settings, scheme) in [
        (
            front.address(),
            &*format!("protocol \"h2\"; {tls}"),
            "https",
        ),
        (origin.address(), "protocol \"h2c\"", "http"),
    ] {
        let before = origin.connections();
        let kdl = format!("target \"{address}\"; {settings}; {check}");
        let proxy = Proxy::builder(TO_POOL).upstream("pool", &kdl).start();
        eventually("checks that passed", || {
            (proxy.metric(passed) > 2.0).then_some(())
        });
        // Each of them finds out whether connections are taken.
        assert!(origin.connections() > before + 2);
        let asked = origin.take().pop().unwrap().head.uri;
        assert_eq!(asked.to_string(), format!("{scheme}://{address}/healthz?x"));
        drop(proxy);
        origin.take();
    }
    // It would answer, but no request is sent to it.
    let plain = Origin::start();
    let front = TlsFront::start(plain.address(), manner(&[]));
    let proxy = to(&front, &format!("protocol \"h2\"; {tls}; {check}")).start();
    let line = proxy.log_line(|line| line["message"] == "target is unhealthy");
    assert_eq!(line["problem"], "the target does not agree to HTTP/2");
    assert!(plain.requests().is_empty());
}

#[test]
fn authorities_of_the_system_are_read_once() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("authorities.pem");
    std::fs::copy(tls_file("ca.pem"), &authorities).unwrap();
    let tls = tls("agent.test", None, false);
    let proxy = to(&front, &tls).authorities(authorities.clone()).start();
    assert_eq!(proxy.get("/").status, 200);
    // Whoever opens it now waits for somebody who writes into it.
    std::fs::remove_file(&authorities).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(&authorities)
        .status();
    assert!(made.unwrap().success());
    proxy.reload(&to(&front, &format!("{tls}; balance \"random\"")));
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn http2_is_agreed_upon_or_not_spoken() {
    let origin = Http2Origin::answering(|_| Http2Answer::with(200, &[], "over h2"));
    let manner = |protocols| Manner {
        protocols,
        ..Manner::default()
    };
    let h2 = format!(
        "protocol \"h2\"; {}",
        tls("agent.test", Some("ca.pem"), false)
    );
    let front = TlsFront::start(origin.address(), manner(&["h2"]));
    let proxy = to(&front, &h2).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).text(), "over h2");
    }
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "over h2");
    assert_eq!(front.handshakes().len(), 1);
    let asked = origin.take();
    assert_eq!(asked[0].head.uri.scheme_str(), Some("https"));
    assert_eq!(asked[3].body, b"hello");
    // One that agrees to something else, and one that agrees to nothing: neither is asked over HTTP/1.1.
    let plain = Origin::start();
    for protocols in [&["http/1.1"][..], &[]] {
        let front = TlsFront::start(plain.address(), manner(protocols));
        let proxy = to(&front, &h2).start();
        assert_eq!(proxy.get("/refused").status, 502, "{protocols:?}");
        assert_eq!(proxy.access_line_of("/refused")["reason"], "upstream_tls");
    }
    assert!(plain.requests().is_empty());
}

#[test]
fn files_are_read_again_at_a_reload_and_retire_connections() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let read = |name| std::fs::read_to_string(tls_file(name)).unwrap();
    let settings = "tls server-name=\"agent.test\" ca=\"authority.pem\"";
    let with = |text: &str| to(&front, settings).file("authority.pem", text);
    let proxy = with(&read("ca.pem")).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/", &[]).status, 200);
    proxy.reload_in_vain(&with("nothing\n"));
    let line = proxy.log_line(|line| line["level"] == "ERROR" && line["error"].is_string());
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("authority.pem"), "{error}");
    assert!(error.contains("no certificate in PEM"), "{error}");
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(front.handshakes().len(), 1);
    // The configuration is the same, and what it means is not.
    proxy.reload(&with(&read("other-ca.pem")));
    assert_eq!(proxy.get("/").status, 502);
    proxy.reload(&with(&read("ca.pem")));
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn a_file_that_cannot_be_used_is_said_before_anything_is_served() {
    let origin = Origin::start();
    let front = TlsFront::start(origin.address(), Manner::default());
    let broken = || to(&front, "tls server-name=\"agent.test\" ca=\"absent.pem\"");
    for (code, _, printed) in [broken().check(), broken().run_to_end()] {
        assert_ne!(code, Some(0));
        assert!(printed.contains("upstream pool"), "{printed}");
        assert!(printed.contains("absent.pem"), "{printed}");
    }
}
