//! `portcullis why`: explains requests that were refused or failed, and traced ones.

use super::{BOTH, Scene, TOKEN, line};
use crate::harness::{Proxy, RawClient, Response};
use serde_json::{Value, json};
use std::process::Command;

pub(super) const ADMIN: &str = "admin { address \"127.0.0.1:0\" }";

/// Exit code, standard output and standard error.
pub(super) fn why(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("why")
        .args(arguments)
        .env_remove("PORTCULLIS_CONFIG")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Waits until a request is over, and asks about it.
pub(super) fn explained(proxy: &Proxy, id: &str) -> Option<Value> {
    proxy.access_line(|line| line["request_id"] == id);
    let admin = proxy.address_of("admin").to_string();
    let (code, output, _) = why(&[id, "--admin", &admin, "--json"]);
    let answer: Value = serde_json::from_str(&output).ok()?;
    assert_eq!(code, Some(0));
    assert_eq!(answer["requests"].as_array().unwrap().len(), 1);
    Some(answer["requests"][0].clone())
}

pub(super) fn id_of(response: &Response) -> String {
    response.header("x-request-id").unwrap().to_owned()
}

fn assert_fields(of: &Value, fields: &[(&str, Value)]) {
    for (field, value) in fields {
        assert_eq!(of[field], *value, "{field} of {of}");
    }
}

/// Who changed which header, a line each.
fn changes(told: &Value) -> Vec<String> {
    let line = |change: &Value| {
        let by = change.get("agent").unwrap_or(&change["filter"]);
        let parts = [&change["of"], &change["done"], &change["name"], by];
        parts.map(|part| part.as_str().unwrap()).join(" ")
    };
    told["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(line)
        .collect()
}

/// A request that is blocked, and the id on its page.
fn blocked(proxy: &Proxy) -> String {
    let response = proxy.get_with("/judged/no?q=1", &["x-debug: 1"]);
    assert_eq!(response.status, 403);
    let page = response.text();
    page.split("request-id: ").nth(1).unwrap().trim().to_owned()
}

#[test]
fn a_blocked_request_is_found_by_the_id_on_its_page() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, ADMIN);
    let id = blocked(&proxy);
    let told = explained(&proxy, &id).unwrap();
    assert_fields(
        &told,
        &[
            ("request_id", json!(id)),
            ("client_ip", json!("127.0.0.1")),
            ("listener", json!("http")),
            ("method", json!("GET")),
            ("host", json!("test")),
            ("path", json!("/judged/no?q=1")),
            ("traced", json!(false)),
            ("upstream", json!(null)),
        ],
    );
    assert_eq!(told["route"]["id"], "judged");
    assert_fields(
        &told["route"]["why"],
        &[
            ("match", json!("path-prefix /judged")),
            ("match_block", json!(1)),
            ("match_blocks", json!(2)),
            ("priority", json!(0)),
            ("precedence_of", json!(8)),
        ],
    );
    assert_fields(
        &told["agents"][0],
        &[
            ("name", json!("judge")),
            ("phase", json!("request_headers")),
            ("verdict", json!("block")),
            ("reason", json!("rule-7")),
            ("failure", json!(null)),
        ],
    );
    assert!(told["agents"][0]["duration_ms"].as_f64().unwrap() > 0.0);
    // The filter behind the agent did not run.
    let expected = [
        "request set x-route request-headers",
        "request remove x-debug request-headers",
        "response set x-verdict judge",
    ];
    assert_eq!(changes(&told), expected);
    assert_fields(
        &told["answer"],
        &[
            ("status", json!(403)),
            ("blocked_by", json!("judge")),
            ("reason", json!("rule-7")),
            ("aborted", json!(false)),
        ],
    );
}

#[test]
fn people_are_told_in_words() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, ADMIN);
    let id = blocked(&proxy);
    proxy.access_line(|line| line["request_id"] == *id);
    let admin = proxy.address_of("admin").to_string();
    let (code, text, errors) = why(&[&id, "--admin", &admin]);
    assert_eq!((code, &*errors), (Some(0), ""));
    for part in [
        &format!("request   {id}\n"),
        "GET test/judged/no?q=1\n",
        "route     judged: match 1 of 2, path-prefix /judged\n",
        "agents    judge request_headers block: rule-7, ",
        "headers   request: set x-route by request-headers (step 1 of the filters)\n",
        "response: set x-verdict by agent judge in request_headers\n",
        "upstream  not asked\n",
        "answer    403, by agent judge, reason rule-7, after ",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn what_was_refused_or_failed_is_kept_and_what_passed_is_not() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, ADMIN);
    for (path, status, kept) in [
        ("/judged/yes", 200, false),
        ("/judged/there", 302, true),
        ("/judged/late", 504, true),
        ("/open/late", 200, true),
        ("/plain", 200, false),
        ("/lost", 502, true),
        ("/old", 302, false),
        ("/fixed", 200, false),
        ("/nowhere", 404, true),
    ] {
        let response = proxy.get(path);
        assert_eq!(response.status, status, "{path}");
        let told = explained(&proxy, &id_of(&response));
        assert_eq!(told.is_some(), kept, "{path}");
        if let Some(told) = told {
            assert_eq!(told["answer"]["status"], status, "{path}");
        }
    }
    let open = explained(&proxy, &id_of(&proxy.get("/open/late"))).unwrap();
    let agent = &open["agents"][0];
    assert_eq!(agent["failure"], "timeout");
    assert_eq!(agent["failure_mode"], "open");
    assert_eq!(open["upstream"]["status"], 200);
    let lost = explained(&proxy, &id_of(&proxy.get("/lost"))).unwrap();
    assert_eq!(lost["answer"]["reason"], "upstream_unreachable");
    assert_eq!(lost["upstream"]["address"], scene.nobody);
    let nowhere = explained(&proxy, &id_of(&proxy.get("/nowhere"))).unwrap();
    assert_eq!(nowhere["route"], json!(null));
    assert_eq!(nowhere["answer"]["reason"], "no_route");
}

#[test]
fn a_traced_request_is_kept_with_all_who_changed_its_headers() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, ADMIN);
    let response = proxy.get_with("/judged/yes", &[&line(TOKEN)]);
    let told = explained(&proxy, &id_of(&response)).unwrap();
    assert_eq!(told["traced"], true);
    assert_eq!(
        changes(&told),
        [
            "request set x-route request-headers",
            "request remove x-debug request-headers",
            "request set x-user judge",
            "request remove x-client judge",
            "response set x-frame-options response-headers",
            "response set x-judged judge",
        ]
    );
}

#[test]
fn only_the_last_requests_are_kept() {
    let scene = Scene::new();
    let proxy = scene.start("recent-requests entries=2", ADMIN);
    // One after the other, so that they end in this order.
    let one = |_| {
        let id = id_of(&proxy.get("/nowhere"));
        proxy.access_line(|line| line["request_id"] == *id);
        id
    };
    let ids: Vec<String> = (0..3).map(one).collect();
    let kept = || -> Vec<bool> {
        let told = ids.iter().map(|id| explained(&proxy, id));
        told.map(|told| told.is_some()).collect()
    };
    assert_eq!(kept(), [false, true, true]);
    let admin = RawClient::connect(proxy.address_of("admin"));
    let status = { admin }.get("/status", &["host: localhost"]).json();
    assert_eq!(status["recent_requests"]["kept"], 2);
    let bytes = status["recent_requests"]["bytes"].as_u64().unwrap();
    assert!((500..20_000).contains(&bytes), "{bytes}");
    proxy.reload(&scene.builder("recent-requests entries=1", ADMIN));
    assert_eq!(kept(), [false, false, true]);
    proxy.reload(&scene.builder("recent-requests \"off\"", ADMIN));
    assert_eq!(kept(), [false, false, false]);
    assert_eq!(explained(&proxy, &id_of(&proxy.get("/nowhere"))), None);
}

#[test]
fn admin_is_found_by_the_configuration_and_over_a_socket() {
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("admin.sock");
    let socket = socket.display().to_string();
    let scene = Scene::new();
    let admin = format!("admin {{ address \"unix:{socket}\" }}");
    let proxy = scene.start("", &admin);
    let id = id_of(&proxy.get("/nowhere"));
    proxy.access_line(|line| line["request_id"] == *id);
    let config = proxy.folder().join("portcullis.kdl");
    let config = config.to_str().unwrap();
    let at_socket = format!("unix:{socket}");
    for arguments in [["-c", config], ["--admin", &at_socket]] {
        let (code, text, errors) = why(&[&[&*id], &arguments[..]].concat());
        assert_eq!((code, &*errors), (Some(0), ""), "{arguments:?}");
        assert!(text.contains("reason no_route"), "{text}");
    }
    for (arguments, expected) in [
        (
            &["no-such-id", "--admin", &at_socket][..],
            "no such request",
        ),
        (
            &["a/../status?x#y", "--admin", &at_socket],
            "no such request",
        ),
        (&["id", "--admin", "unix:/nowhere"], "no connection"),
        (
            &["id", "--admin", &proxy.address_of("probes").to_string()],
            "is it the address of admin",
        ),
    ] {
        let (code, output, errors) = why(arguments);
        assert_eq!((code, &*output), (Some(1), ""), "{arguments:?}");
        assert!(errors.contains(expected), "{expected}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn nothing_is_kept_where_nobody_can_ask() {
    let scene = Scene::new();
    let builder = scene.builder("recent-requests entries=5", "");
    let (code, _, errors) = builder.check();
    assert_eq!(code, Some(0));
    assert!(
        errors.contains("nobody can ask for recent requests"),
        "{errors}"
    );
    // With admin from now on, and from then on requests are kept.
    let proxy = scene.start("", "");
    let before = id_of(&proxy.get("/nowhere"));
    proxy.access_line(|line| line["request_id"] == *before);
    proxy.reload(&scene.builder("", ADMIN));
    let after = id_of(&proxy.get("/nowhere"));
    assert_eq!(explained(&proxy, &before), None);
    assert!(explained(&proxy, &after).is_some());
}
