//! Settings that the tests of their features do not come by: for each of them what it does, with it and without.

use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, RawClient, TestAgent,
    agent::{Phase, Reaction, When},
    authz::{self, AuthzService, allowed},
    eventually,
    proxy::Builder,
};
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// A proxy that sends everything to these targets; `settings` are those of the upstream.
fn before(targets: &[&Origin], settings: &str) -> Builder {
    let targets: String = targets
        .iter()
        .map(|origin| format!("target \"{}\"; ", origin.address()))
        .collect();
    Proxy::builder(r#"routes { route "all" { upstream "app" } }"#)
        .upstream("app", &(targets + settings))
}

#[test]
fn a_header_that_is_there() {
    let kdl = r#"routes {
        route "there" { match { header "x-there" present=#true }; respond 200 "there" }
        route "rest" { respond 200 "rest" }
    }"#;
    let proxy = Proxy::builder(kdl).start();
    assert_eq!(proxy.get_with("/", &["x-there: any"]).text(), "there");
    assert_eq!(proxy.get("/").text(), "rest");
}

#[test]
fn names_with_a_dot_are_found_where_that_is_written() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".well-known")).unwrap();
    for name in [".env", ".well-known/security.txt"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let root = folder.path().display();
    for (written, status) in [
        ("", 404),
        ("dot-files=#false", 404),
        ("dot-files=#true", 200),
    ] {
        let kdl = format!("routes {{ route \"site\" {{ static \"{root}\" {written} }} }}");
        let proxy = Proxy::builder(kdl).start();
        assert_eq!(proxy.get("/.env").status, status, "{written}");
        let known = proxy.get("/.well-known/security.txt");
        assert_eq!(known.text(), ".well-known/security.txt", "{written}");
    }
}

/// A target that was slow once is left alone for as long as that is remembered.
#[test]
fn a_slow_answer_is_forgotten() {
    for (settings, is_forgotten) in [
        (r#"balance "p2c-ewma" decay="1ms""#, true),
        (r#"balance "p2c-ewma" decay="24h""#, false),
    ] {
        let was_slow = AtomicBool::new(false);
        let slow_once = Origin::answering(move |_| {
            if !was_slow.swap(true, SeqCst) {
                // How slow it is, is the test's subject.
                thread::sleep(Duration::from_millis(700));
            }
            Answer::ok("slow once")
        });
        let quick = Origin::start();
        let proxy = before(&[&slow_once, &quick], settings).start();
        eventually("answers of both", || {
            proxy.get("/");
            let is_asked = |origin: &Origin| !origin.requests().is_empty();
            (is_asked(&slow_once) && is_asked(&quick)).then_some(())
        });
        let asked = slow_once.requests().len();
        if is_forgotten {
            eventually("another question", || {
                proxy.get("/");
                (slow_once.requests().len() > asked).then_some(())
            });
        } else {
            for _ in 0..50 {
                assert_eq!(proxy.get("/").text(), "ok");
            }
        }
    }
}

const EJECTIONS: &str = "portcullis_upstream_target_ejections_total";

#[test]
fn as_many_targets_may_be_ejected_as_is_written() {
    for (settings, ejected) in [
        (r#"outlier failures=1 eject="1h""#, 1.0),
        (r#"outlier failures=1 eject="1h" max-ejected="100%""#, 2.0),
    ] {
        let broken = [(); 2].map(|()| Origin::answering(|_| Answer::with(503, &[], b"")));
        let proxy = before(&broken.each_ref(), settings).start();
        for _ in 0..10 {
            assert_eq!(proxy.get("/").status, 503);
        }
        assert_eq!(proxy.metric(EJECTIONS), ejected, "{settings}");
    }
}

#[test]
fn ejections_grow_up_to_their_limit() {
    let broken = Origin::answering(|_| Answer::with(503, &[], b""));
    let good = Origin::start();
    let settings = r#"outlier failures=1 eject="200ms" max-eject="300ms""#;
    let proxy = before(&[&broken, &good], settings).start();
    let lasted = || -> Vec<f64> {
        let lines = proxy.log_lines().into_iter();
        lines
            .filter(|line| line["message"] == "target is ejected because of its answers")
            .map(|line| line["seconds"].as_f64().unwrap())
            .collect()
    };
    eventually("a longer ejection", || {
        proxy.get("/");
        lasted().contains(&0.3).then_some(())
    });
    assert_eq!(lasted()[0], 0.2);
    assert!(lasted().iter().all(|seconds| *seconds <= 0.3));
}

/// What is spoken to an agent has the name of a package in it.
#[test]
fn an_agent_may_have_another_package() {
    for (written, package) in [
        ("", "zentinel.agent.v2"),
        (r#"package="fork.agent.v2""#, "fork.agent.v2"),
    ] {
        let agent = Http2Origin::answering(|_| Http2Answer::with(404, &[], ""));
        let way = format!("grpc \"http://{}\" {written}", agent.address());
        let kdl = r#"routes { route "all" { filters { agent "remote" }; respond 200 } }"#;
        let proxy = Proxy::builder(kdl).agent_block("remote", &way).start();
        let called = eventually("a call", || agent.take().into_iter().next());
        let expected = format!("/{package}.");
        assert!(
            called.target().starts_with(&expected),
            "{}",
            called.target()
        );
        drop(proxy);
    }
}

/// An agent that takes no news of the end of requests has so much of it wait, and no more.
#[test]
fn news_of_the_end_waits_up_to_its_limit() {
    const DROPPED: &str = r#"portcullis_agent_completions_dropped_total{agent="told"}"#;
    // An agent works on 32 of them at once.
    const REQUESTS: usize = 40;
    let origin = Origin::start();
    for (told, least, most) in [
        ("request-complete queue=1", 1.0, 7.0),
        ("request-complete queue=100", 0.0, 0.0),
    ] {
        let agent = TestAgent::named("told")
            .then(Phase::Complete, When::Always, Reaction::Hang)
            .start();
        let proxy = Proxy::builder(
            r#"system { worker-threads 1 }
            routes { route "all" { filters { agent "told" }; upstream "origin" } }"#,
        )
        .origin(&origin)
        .agent_with(
            &agent,
            &format!("timeout \"60s\"; inspect {{ request-headers; {told} }}"),
        )
        .start();
        proxy.wait_ready();
        let mut client = proxy.client();
        for _ in 0..REQUESTS {
            assert_eq!(client.get("/", &[]).status, 200);
        }
        agent.wait_seen("request_complete", 32);
        let dropped = proxy.metric(DROPPED);
        assert!((least..=most).contains(&dropped), "{told}: {dropped}");
    }
}

#[test]
fn a_service_may_want_bodies_as_bytes() {
    let origin = Origin::start();
    let inspect =
        r#"inspect { request-headers; request-body "buffer" limit="64B" on-oversize="truncate" }"#;
    for (written, is_text) in [("", true), ("ext-authz { body-as-bytes }", false)] {
        let service = AuthzService::answering(|_| allowed(&[]).into());
        let way = format!("grpc \"http://{}\"", service.address());
        let more = format!("{inspect}; {written}");
        let proxy = authz::before(&way, "ext-authz", &origin, &more).start();
        proxy.wait_ready();
        let mut client = proxy.client();
        client.send("POST /told HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(client.response().status, 200);
        let told = service.told("/told");
        let expected: (&str, &[u8]) = match is_text {
            true => ("hello", b""),
            false => ("", b"hello"),
        };
        assert_eq!((&*told.body, &*told.raw_body), expected, "{written}");
    }
}

#[test]
fn an_answer_of_a_service_may_be_so_long() {
    let origin = Origin::start();
    let service = Origin::answering(|_| Answer::with(403, &[], b"no entry"));
    for (written, status) in [
        ("", 403),
        (r#"ext-authz { max-body "8B" }"#, 403),
        (r#"ext-authz { max-body "7B" }"#, 502),
    ] {
        let way = format!("http \"http://{}/check\"", service.address());
        let proxy = authz::before(&way, "ext-authz", &origin, written).start();
        proxy.wait_ready();
        assert_eq!(proxy.get("/").status, status, "{written}");
    }
}

/// The secret of whoever dials, and that of whoever wants verdicts, may be in files.
#[test]
fn secrets_may_be_in_files() {
    const TOKEN: &str = "a-token-that-is-long-enough";
    let agent = TestAgent::named("inside").dialling(TOKEN).start();
    let origin = Origin::start();
    let builder = |in_file: &str| {
        Proxy::builder(
            r#"
            observability {
                access-log "./access.log"
                log level="info" format="json"
                verdict-trace token-file="new" previous-token-file="old"
            }
            routes { route "all" { filters { agent "inside" }; upstream "origin" } }
            "#,
        )
        .origin(&origin)
        .file("secret", in_file)
        .file("new", "the-current-token-is-secret\n")
        .file("old", "the-previous-token-is-secret\n")
        .agent_block(
            "inside",
            &format!("{} token-file=\"secret\"; timeout \"10s\"", agent.way()),
        )
    };
    let stranger = builder("another-token-as-long\n").start();
    let line = stranger.log_line(|line| line["message"] == "a registration came to nothing");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("has not shown the token"), "{error}");
    drop(stranger);
    let proxy = builder(&format!("{TOKEN}\n")).start();
    proxy.wait_ready();
    for (token, is_told) in [
        ("the-current-token-is-secret", true),
        ("the-previous-token-is-secret", true),
        ("the-token-before-it-is-secret", false),
    ] {
        let response = proxy.get_with("/", &[&format!("x-agent-trace-token: {token}")]);
        assert_eq!(response.status, 200);
        let told = response.header("x-agent-trace");
        assert_eq!(told.is_some(), is_told, "{token}");
    }
}

/// A target that says nothing to a check is not in order when its time is over, and counts as healthy until then.
#[test]
fn a_check_has_its_time() {
    let up = |origin: &Origin| {
        let target = origin.address();
        format!("portcullis_upstream_target_up{{target=\"{target}\"}}")
    };
    for (timeout, is_over) in [("100ms", true), ("60s", false)] {
        let silent = Origin::answering(|_| {
            Answer::raw("").then(|stream| {
                let _ = std::io::Read::read(stream, &mut [0]);
            })
        });
        let good = Origin::start();
        let settings =
            format!(r#"health-check "http" interval="50ms" timeout="{timeout}" unhealthy=1"#);
        let proxy = before(&[&silent, &good], &settings).start();
        if is_over {
            proxy.wait_metric(&up(&silent), 0.0);
        }
        // The other one is asked again and again meanwhile.
        eventually("checks", || (good.requests().len() > 5).then_some(()));
        let is_up = if is_over { 0.0 } else { 1.0 };
        assert_eq!(proxy.metric(&up(&silent)), is_up, "{timeout}");
        assert_eq!(proxy.metric(&up(&good)), 1.0, "{timeout}");
    }
}

#[test]
fn what_is_kept_of_requests_takes_so_much_memory() {
    for (written, keeps_all) in [
        (r#"recent-requests bytes="64KiB""#, false),
        (r#"recent-requests bytes="1MiB""#, true),
    ] {
        let proxy = Proxy::builder(format!(
            r#"
            admin {{ address "127.0.0.1:0" }}
            observability {{ access-log "./access.log"; log level="info" format="json"; {written} }}
            routes {{ route "fixed" {{ match {{ path "/fixed" }}; respond 200 }} }}
            "#
        ))
        .start();
        // What goes well without anybody asked is not kept at all.
        let mut client = proxy.client();
        for _ in 0..300 {
            assert_eq!(client.get("/nowhere", &[]).status, 404);
        }
        client.get("/last", &[]);
        proxy.access_line_of("/last");
        let status = RawClient::connect(proxy.address_of("admin"))
            .get("/status", &["host: localhost"])
            .json();
        let recent = &status["recent_requests"];
        let (kept, bytes) = (&recent["kept"], &recent["bytes"]);
        assert_eq!(*kept == 301, keeps_all, "{written}: {recent}");
        assert!(keeps_all || bytes.as_u64().unwrap() <= 64 << 10, "{recent}");
        assert!(kept.as_u64().unwrap() > 5, "{recent}");
    }
}

#[test]
fn the_key_of_cookies_may_be_in_the_configuration() {
    let origins = ["a", "b"].map(|name| Origin::answering(move |_| Answer::ok(name)));
    let with = |key: &str| {
        let settings = format!("sticky cookie=\"at\" key=\"{key}\"");
        before(&origins.each_ref(), &settings).start()
    };
    let key = "0123456789abcdef0123456789abcdef";
    let first = with(key).get("/");
    let cookie = first.header("set-cookie").unwrap();
    let line = format!("cookie: {}", cookie.split(';').next().unwrap());
    let same = with(key);
    for _ in 0..6 {
        let response = same.get_with("/", &[&line]);
        assert_eq!(response.text(), first.text());
        assert_eq!(response.header("set-cookie"), None);
    }
    let other = with(&key.replace('0', "1"));
    let response = other.get_with("/", &[&line]);
    assert!(response.header("set-cookie").is_some());
}
