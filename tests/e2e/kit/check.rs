//! `portcullis agent check`: good agents pass, and of broken ones the right line fails.

use super::{
    Running,
    broken::{self, Defect},
    config, kit, kit_json,
};
use crate::harness::{
    Sabotage, Saboteur, Tamper, TestAgent,
    agent::Dialect,
    old_agent::{OldAgent, Over, Reply},
};
use serde_json::Value;

/// What is said of a check: how it ended, and why.
fn row<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    let check = found.unwrap_or_else(|| panic!("no line about {name}: {report:#}"));
    (
        check["result"].as_str().unwrap(),
        check["reason"].as_str().unwrap(),
    )
}

/// The lines that failed.
fn failed(report: &Value) -> Vec<&str> {
    let checks = report["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["result"] == "failed");
    failed
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

/// Checks a good agent. Nothing is skipped but these.
pub(super) fn passes(target: &str, arguments: &[&str], skipped: &[&str]) -> Value {
    let all = [&["check", target, "--timeout", "10s"], arguments].concat();
    let (code, report) = kit_json(&all);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(failed(&report).len(), 0, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let left_out: Vec<&str> = checks
        .iter()
        .filter(|check| check["result"] == "skipped")
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(left_out, skipped, "{report:#}");
    report
}

const BODIES: [&str; 4] = [
    "request-body",
    "request-body-pieces",
    "response-body",
    "response-body-pieces",
];

#[test]
fn the_denylist_passes() {
    let agent = Running::start(&["denylist"]);
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), r#"{"paths": ["/admin"]}"#);
    let arguments = ["--config", &config, "--also", "/admin"];
    let skipped = [
        "request-body",
        "request-body-pieces",
        "response-headers",
        "response-body",
        "response-body-pieces",
        "websocket-frames",
        "request-complete",
        "large-body",
        "provisional",
    ];
    let report = passes(&agent.target(), &arguments, &skipped);
    assert_eq!(report["agent"]["name"], "denylist");
    assert_eq!(report["agent"]["phases"][0], "request-headers");
    // Requests are judged differently, so that answers which change places would be seen.
    let (_, remark) = row(&report, "concurrency");
    assert!(!remark.contains("alike"), "{remark}");
}

#[test]
fn the_echo_passes_in_both_dialects() {
    for arguments in [&["echo"][..], &["echo", "--legacy"]] {
        let agent = Running::start(arguments);
        let report = passes(&agent.target(), &[], &["configuration", "websocket-frames"]);
        for name in BODIES {
            assert_eq!(row(&report, name).0, "ok");
        }
        assert!(row(&report, "concurrency").1.contains("alike"));
    }
}

#[test]
fn the_guards_pass() {
    let folder = tempfile::tempdir().unwrap();
    let guards = [
        (
            "body-guard",
            r##"{"request": {"deny": ["DROP TABLE"]}, "response": {"redact": [{"pattern": "fox", "with": "cat"}]}}"##,
        ),
        (
            "frame-guard",
            r#"{"from-client": {"deny": ["DROP TABLE"]}}"#,
        ),
    ];
    for (name, text) in guards {
        let agent = Running::start(&[name]);
        let config = config(folder.path(), text);
        let all = [
            "check",
            &agent.target(),
            "--timeout",
            "10s",
            "--config",
            &config,
        ];
        let (code, report) = kit_json(&all);
        assert_eq!((code, failed(&report).len()), (Some(0), 0), "{report:#}");
        assert_eq!(row(&report, "configuration").0, "ok");
    }
}

#[test]
fn agents_of_every_dialect_pass() {
    for dialect in [
        Dialect::Binary,
        Dialect::NumberedJson,
        Dialect::Json,
        Dialect::Legacy,
    ] {
        let agent = TestAgent::named("good").speaking(dialect).quiet().start();
        let target = agent.socket().display().to_string();
        passes(&target, &[], &["configuration"]);
    }
    let (_folder, target) = broken::serve(Defect::Nothing);
    let skipped = [
        "configuration",
        "response-headers",
        "response-body",
        "response-body-pieces",
        "websocket-frames",
    ];
    let report = passes(&target, &[], &skipped);
    assert!(!row(&report, "concurrency").1.contains("alike"));
}

#[test]
fn agents_over_grpc_pass() {
    // What is written by hand cannot be written there.
    let skipped = [
        "configuration",
        "websocket-frames",
        "slow-reader",
        "disconnected",
        "garbage-frame",
        "broken-json",
        "unknown-type",
    ];
    let agent = Running::over_grpc(&["echo"]);
    let report = passes(&agent.target(), &[], &skipped);
    for name in BODIES {
        assert_eq!(row(&report, name).0, "ok");
    }
    assert!(row(&report, "handshake").1.contains("event-id"));
    assert!(row(&report, "garbage-frame").1.contains("Unix socket"));
    let agent = Running::over_grpc(&["denylist"]);
    let folder = tempfile::tempdir().unwrap();
    let rules = config(folder.path(), r#"{"paths": ["/admin"]}"#);
    let arguments = ["--config", &rules, "--also", "/admin", "--timeout", "10s"];
    let (code, report) = kit_json(&[&["check", &agent.target()], &arguments[..]].concat());
    assert_eq!((code, failed(&report).len()), (Some(0), 0), "{report:#}");
    assert_eq!(
        row(&report, "configuration"),
        ("ok", "at the start and later")
    );
    let (_, remark) = row(&report, "concurrency");
    assert!(!remark.contains("alike"), "{remark}");
}

#[test]
fn of_agents_over_grpc_the_right_line_fails() {
    let heads = &["handshake", "handshake-legacy", "ping"];
    for (arguments, line, why) in [
        (&["--needs-more"][..], "provisional", "needs_more"),
        (
            &["--fail", "error", "--phase", "response-headers"],
            "response-headers",
            "told to fail",
        ),
        (&["--fail", "overloaded"], "request-headers", "overloaded"),
    ] {
        let agent = Running::over_grpc(&[&["mock"], arguments].concat());
        fails(&agent.target(), line, why, heads);
    }
}

#[test]
fn agents_of_version_1_pass() {
    let agent = OldAgent::start(Over::Socket, |_, _| Reply::allow());
    let target = format!("v1:{}", agent.socket().display());
    let skipped = [
        "handshake-legacy",
        "configuration",
        "ping",
        "concurrency",
        "slow-reader",
        "cancelled",
        "disconnected",
        "garbage-frame",
        "broken-json",
        "unknown-type",
        "stray-answers",
    ];
    let report = passes(&target, &[], &skipped);
    assert_eq!(report["agent"]["id"], "");
    assert_eq!(row(&report, "ping").1, "version 1 has no pings");
    let (_, text, _) = kit(&["check", &target, "--only", "request-headers"]);
    assert!(text.contains("an agent without a name"), "{text}");
    let agent = OldAgent::start(Over::Socket, |kind, _| match kind {
        "response_headers" => Reply::Garbage,
        _ => Reply::allow(),
    });
    let target = format!("v1:{}", agent.socket().display());
    fails(&target, "response-headers", "", &["request-headers"]);
}

/// Checks a broken agent. This line fails, and says this; those do not.
fn fails(target: &str, line: &str, why: &str, fine: &[&str]) -> Value {
    let (code, report) = kit_json(&["check", target, "--timeout", "500ms"]);
    assert_eq!(code, Some(1), "{report:#}");
    let (result, reason) = row(&report, line);
    assert_eq!(result, "failed", "{line}: {report:#}");
    assert!(reason.contains(why), "{why}: {report:#}");
    for name in fine {
        assert_ne!(row(&report, name).0, "failed", "{name}: {report:#}");
    }
    report
}

#[test]
fn of_a_broken_agent_the_right_line_fails() {
    let heads = ["handshake", "handshake-legacy", "request-headers", "ping"];
    for (defect, line, why, fine) in [
        (
            Defect::NeverAnswers,
            "request-headers",
            "no answer within 500ms",
            &["handshake", "ping", "header-rules", "stray-answers"][..],
        ),
        (
            Defect::AnswersAnother,
            "stray-answers",
            "not outstanding",
            &["handshake", "header-rules"],
        ),
        (
            Defect::SetsHost,
            "header-rules",
            "'host' may not be",
            &heads,
        ),
        (
            Defect::ChangesWrongPhase,
            "header-rules",
            "which was not asked about",
            &heads,
        ),
        (
            Defect::ClosesWhenBusy,
            "concurrency",
            "16 requests at once: ",
            &heads,
        ),
        (Defect::MixesUp, "concurrency", "was answered", &heads),
        (Defect::NoSuccess, "handshake", "not you", &[]),
        (Defect::GarbageForHandshake, "handshake", "claims", &[]),
        (
            Defect::AllowsUnreadable,
            "broken-json",
            "it allows what cannot be read",
            &heads,
        ),
        (
            Defect::AnswersTwice,
            "stray-answers",
            "not outstanding",
            &["handshake"],
        ),
        (
            Defect::DiesOfGarbage,
            "garbage-frame",
            "on a new connection",
            &heads,
        ),
    ] {
        let (_folder, target) = broken::serve(defect);
        let report = fails(&target, line, why, fine);
        if line == "handshake" {
            assert_eq!(report["failed"], 1, "the rest is skipped: {report:#}");
            assert_eq!(report["agent"], Value::Null);
        }
    }
}

#[test]
fn what_a_man_in_the_middle_spoils_is_seen() {
    let agent = TestAgent::named("good").quiet().start();
    let saboteur = Saboteur::before(&agent);
    let target = saboteur.socket().display().to_string();
    saboteur.does(Sabotage::Answers(Tamper::WrongId));
    fails(&target, "stray-answers", "not outstanding", &["handshake"]);
    saboteur.does(Sabotage::Answers(Tamper::CutBeforeEnd(3)));
    fails(
        &target,
        "request-headers",
        "the connection was",
        &["handshake"],
    );
    saboteur.relents();
    let (code, report) = kit_json(&["check", &target, "--only", "request-headers"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["checks"].as_array().unwrap().len(), 2);
}

#[test]
fn what_the_mock_does_is_seen() {
    for (arguments, line, why) in [
        (
            &["--needs-more"][..],
            "provisional",
            "request-body: needs_more in the answer to the last piece",
        ),
        (
            &["--fail", "error", "--phase", "response-headers"],
            "response-headers",
            "the agent failed: the mock was told to fail",
        ),
        (
            &["--fail", "close", "--phase", "request-body"],
            "request-body",
            "closed by the agent",
        ),
        (
            &["--fail", "garbage", "--phase", "request-complete"],
            "request-complete",
            "a frame claims 4294967295 bytes",
        ),
        (
            &["--fail", "hang", "--phase", "response-body"],
            "response-body-pieces",
            "no answer",
        ),
        (
            &["--set-request-header", "x-forwarded-for: me"],
            "header-rules",
            "may not be changed by an agent",
        ),
        (&["--fail", "overloaded"], "request-headers", "overloaded"),
    ] {
        let agent = Running::start(&[&["mock"], arguments].concat());
        fails(&agent.target(), line, why, &["handshake", "ping"]);
    }
}

#[test]
fn people_get_a_table() {
    let agent = Running::start(&["echo"]);
    let (code, text, errors) = kit(&["check", &agent.target(), "--timeout", "10s"]);
    assert_eq!((code, &*errors), (Some(0), ""));
    for part in [
        ": echo ",
        "wants request-headers, request-body, response-headers, response-body, request-complete\n",
        "\nhandshake ",
        " with event-id, binary, error, overloaded, verdict-ttl\n",
        "\nwebsocket-frames      skipped ",
        "0 failed, 2 skipped\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn what_is_not_understood_is_said() {
    for (arguments, said) in [
        (&["check"][..], "TARGET"),
        (&["check", "smoke://signals"], "cannot be reached"),
        (&["check", "/a.sock", "--only", "beauty"], "no such check"),
        (&["check", "/a.sock", "--header", "x"], "name: value"),
        (&["check", "/a.sock", "--config", "/nowhere"], "/nowhere: "),
        (&["check", "/a.sock", "--package", "a"], "over gRPC"),
        (&["bench", "v1:/a.sock", "--package", "a"], "over gRPC"),
        (&["check", "http://a:1", "--package", "a/b"], ".proto"),
        (&["check", "http://a/agent"], "a host and a port"),
        (&["bench", "/a.sock", "--phase", "moon"], "no such phase"),
    ] {
        let (code, output, errors) = kit(arguments);
        assert_eq!((code, &*output), (Some(2), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{said}: {errors}");
    }
    let (code, text, _) = kit(&["check", "unix:/nowhere/agent.sock"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("no agent\n") && text.contains("unreachable"),
        "{text}"
    );
}
