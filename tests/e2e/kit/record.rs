//! `portcullis agent record` and `replay`: what is recorded of one agent is told to another.

use super::{Running, command, kit, kit_json};
use crate::harness::{
    Answer, Origin, Proxy, RawClient, Response, TestAgent,
    agent::{Phase, When},
    eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Stdio},
};
use tempfile::TempDir;

const INSPECT: &str = "timeout \"10s\"; inspect { request-headers; request-body \"buffer\"; response-headers; response-body \"buffer\"; request-complete }";

/// An origin whose answers have a secret.
fn origin() -> Origin {
    Origin::answering(|_| {
        let headers = [("set-cookie", "session=sesame-cookie")];
        Answer::with(200, &headers, b"sesame-response")
    })
}

/// A proxy with an admin listener that asks this agent in all phases.
fn proxy(origin: &Origin, agent: &TestAgent) -> Proxy {
    let name = agent.name();
    let proxy = Proxy::builder(format!(
        "admin {{ address \"127.0.0.1:0\" }}\nroutes {{ route \"all\" {{ filters {{ agent \"{name}\" }}; upstream \"origin\" }} }}"
    ))
    .origin(origin)
    .agent_with(agent, INSPECT)
    .start();
    proxy.wait_ready();
    proxy
}

/// A recording that goes on.
struct Recording {
    child: Child,
    folder: TempDir,
    errors: BufReader<std::process::ChildStderr>,
}

impl Recording {
    /// Begins one, and waits until the proxy records.
    fn begin(proxy: &Proxy, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = proxy.address_of("admin").to_string();
        let mut command = command(&["record", "--admin", &admin, "--output"]);
        command.arg(folder.path().join("recording")).args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        assert!(line.contains("recording"), "{line}");
        Self {
            child,
            folder,
            errors,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("recording")
    }

    /// Waits for its end; what was written, and what is said about it.
    fn ended(&mut self) -> (Vec<Value>, String) {
        let status = eventually("end of the recording", || self.child.try_wait().unwrap());
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        let text = std::fs::read_to_string(self.file()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        (lines.collect(), said)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request that is full of secrets.
fn post(proxy: &Proxy, path: &str) -> Response {
    let request = format!(
        "POST {path}?token=sesame-query&page=7 HTTP/1.1\r\nhost: test\r\nauthorization: Bearer sesame-bearer\r\n\
         cookie: a=sesame-crumb\r\nx-api-key: sesame-key\r\ncontent-length: 11\r\n\r\nsesame-body"
    );
    proxy.client().send(request).response()
}

/// Three requests in all phases, recorded.
fn recorded(arguments: &[&str]) -> (Recording, Vec<Value>) {
    let origin = origin();
    let waf = TestAgent::named("waf")
        .on(
            "/no",
            Decision::block(403).with_header("set-cookie", "b=sesame-block"),
        )
        .on(
            "/set",
            Decision::allow().set_request_header("authorization", "sesame-set"),
        )
        .then(
            Phase::RequestBody,
            When::Always.on("/set"),
            Decision::allow().set_request_header("x-seen", "yes"),
        )
        .start();
    let proxy = proxy(&origin, &waf);
    // Not recorded, because nobody has asked for it yet.
    assert_eq!(post(&proxy, "/before").status, 200);
    let three = [
        "--requests",
        "3",
        "--redact",
        "X-Api-Key",
        "--redact",
        "token",
    ];
    let mut recording = Recording::begin(&proxy, &[&three, arguments].concat());
    for (path, status) in [("/yes", 200), ("/no", 403), ("/set", 200), ("/after", 200)] {
        assert_eq!(post(&proxy, path).status, status, "{path}");
        let line = format!("{path}?token=sesame-query&page=7");
        proxy.access_line_of(&line);
    }
    let (lines, said) = recording.ended();
    assert!(said.contains("of 3 requests recorded, 0 dropped"), "{said}");
    (recording, lines)
}

/// The lines about one phase.
fn of<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

#[test]
fn what_is_recorded_has_every_phase_and_no_secret() {
    let (recording, lines) = recorded(&[]);
    let text = std::fs::read_to_string(recording.file()).unwrap();
    let end = text.find("sesame").unwrap_or(text.len());
    assert_eq!(&text[end..], "", "a secret");
    let heads = of(&lines, "request_headers");
    let uris: Vec<&str> = heads
        .iter()
        .map(|line| line["event"]["uri"].as_str().unwrap())
        .collect();
    assert_eq!(uris.len(), 3, "{text}");
    for (uri, path) in uris.iter().zip(["/yes", "/no", "/set"]) {
        assert!(
            uri.starts_with(&format!("{path}?token=[redacted:")),
            "{uri}"
        );
        assert!(uri.ends_with("]&page=7"), "{uri}");
    }
    let headers = &heads[0]["event"]["headers"];
    for name in ["authorization", "cookie", "x-api-key"] {
        let value = headers[name][0].as_str().unwrap();
        assert!(value.starts_with("[redacted:"), "{name}: {value}");
        // The same value, the same mark.
        assert_eq!(headers[name], heads[1]["event"]["headers"][name]);
    }
    assert_eq!(headers["content-length"][0], "11");
    assert_eq!(heads[1]["answer"]["decision"]["block"]["status"], 403);
    assert_eq!(heads[0]["agent"], "waf");
    for (kind, count, left_out) in [
        ("request_body_chunk", 2, 11),
        ("response_headers", 2, 0),
        ("response_body_chunk", 2, 15),
    ] {
        let found = of(&lines, kind);
        assert_eq!(found.len(), count, "{kind}: {text}");
        assert_eq!(found[0]["left_out_bytes"], left_out, "{kind}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(recording.file()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn another_agent_is_told_the_same_and_its_verdicts_are_compared() {
    let (recording, lines) = recorded(&["--bodies", "1000", "--agent", "waf"]);
    let body = of(&lines, "request_body_chunk")[0];
    assert_eq!(body["event"]["data"], json!("c2VzYW1lLWJvZHk="));
    let file = recording.file().display().to_string();
    // One that does the same, whatever its reasons are.
    let set = Decision::allow().set_request_header("authorization", "another secret");
    let same = TestAgent::named("same")
        .on(
            "/no",
            Decision::block(403)
                .with_header("set-cookie", "b=other")
                .reason("r"),
        )
        .on("/set", set.clone())
        .then(
            Phase::RequestBody,
            When::Always.on("/set"),
            Decision::allow().set_request_header("x-seen", "yes"),
        )
        .start();
    let target = same.socket().display().to_string();
    let (code, report) = kit_json(&["replay", &file, &target, "--timeout", "10s"]);
    assert_eq!(
        (code, &report["differ"]),
        (Some(0), &json!(0)),
        "{report:#}"
    );
    assert_eq!(report["requests"], 3);
    assert_eq!(report["events"], lines.len());
    // In the order in which they were recorded.
    let told: Vec<Value> = same.record();
    let told: Vec<&str> = told
        .iter()
        .map(|it| it["event"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = lines
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    assert_eq!(told, expected);
    // One that has another verdict about one path, and does not change what the first one does.
    let other = TestAgent::named("other")
        .on("/yes", Decision::block(451).reason("law"))
        .on(
            "/no",
            Decision::block(403).with_header("set-cookie", "b=other"),
        )
        .on("/set", set)
        .start();
    let target = other.socket().display().to_string();
    let (code, text, _) = kit(&["replay", &file, &target, "--timeout", "10s"]);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "request-headers POST /yes?token=",
        "recorded  allow\n",
        "now       block 451, (law)\n",
        "request-body piece 0",
        "recorded  allow, request: set x-seen: yes\n",
        "now       allow\n",
        "of 3 requests told, 2 verdicts differ",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn bodies_that_were_not_recorded_are_not_told() {
    let (recording, lines) = recorded(&[]);
    let file = recording.file().display().to_string();
    let agent = TestAgent::named("strict")
        .then(Phase::RequestBody, When::Always, Decision::block(400))
        .then(Phase::ResponseBody, When::Always, Decision::block(400))
        .start();
    let target = agent.socket().display().to_string();
    let (code, report) = kit_json(&["replay", &file, &target, "--timeout", "10s"]);
    // The block of /no, and the change of /set.
    assert_eq!(
        (code, &report["differ"]),
        (Some(1), &json!(2)),
        "{report:#}"
    );
    assert_eq!(report["left_out"], 4, "{report:#}");
    assert_eq!(agent.seen("request_body_chunk").len(), 0);
    assert_eq!(report["events"], lines.len() - 4);
    agent.says("unhealthy");
    for (arguments, said) in [
        (&["replay", "/nowhere", &target][..], "/nowhere: "),
        (&["replay", &file, "/nowhere.sock"], "unreachable"),
        (&["replay", "/proc/self/status", &target], "line 1: "),
    ] {
        let (code, output, errors) = kit(arguments);
        assert_eq!((code, &*output), (Some(2), ""), "{arguments:?}");
        assert!(errors.contains(said), "{said}: {errors}");
    }
}

#[test]
fn a_recording_is_told_over_grpc() {
    let (recording, lines) = recorded(&["--bodies", "1000"]);
    let file = recording.file().display().to_string();
    let agent = Running::over_grpc(&["mock"]);
    let (code, report) = kit_json(&["replay", &file, &agent.target(), "--timeout", "10s"]);
    assert_eq!(report["events"], lines.len());
    // The mock blocks and changes nothing.
    assert_eq!(
        (code, &report["differ"]),
        (Some(1), &json!(3)),
        "{report:#}"
    );
}

#[test]
fn only_what_the_agent_is_told_is_recorded() {
    let origin = origin();
    let waf = TestAgent::named("waf").quiet().start();
    let proxy = Proxy::builder(
        "admin { address \"127.0.0.1:0\" }\nroutes { route \"all\" { filters { agent \"waf\" }; upstream \"origin\" } }",
    )
    .origin(&origin)
    .agent_with(&waf, "timeout \"10s\"; send-headers { only \"x-told\" }")
    .start();
    proxy.wait_ready();
    let mut recording = Recording::begin(&proxy, &["--requests", "1", "--sample", "1.0"]);
    proxy.get_with("/", &["x-told: yes", "x-other: no"]);
    let (lines, _) = recording.ended();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event"]["headers"], json!({"x-told": ["yes"]}));
}

/// What `admin` says to a request that is written by hand.
fn said(proxy: &Proxy, request: &str) -> (u16, String) {
    let mut client = RawClient::connect(proxy.address_of("admin"));
    let response = client.send(request.replace('\n', "\r\n")).response();
    (response.status, response.text())
}

const JSON: &str = "content-type: application/json\n";

fn settings() -> Value {
    json!({"agent": "waf", "sample": 1.0, "requests": 5, "duration_ms": 60000, "redact": [], "body_bytes": 0})
}

fn begin(lines: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /recordings HTTP/1.1\nhost: localhost\n{lines}content-length: {length}\n\n{body}")
}

#[test]
fn a_recording_is_begun_by_who_may_with_settings_in_their_bounds() {
    let origin = origin();
    let waf = TestAgent::named("waf").quiet().start();
    let proxy = proxy(&origin, &waf);
    let json = JSON;
    let settings = settings();
    let with = |member: &str, value: Value| {
        let mut settings = settings.clone();
        settings[member] = value;
        settings.to_string()
    };
    let good = settings.to_string();
    for (request, status, why) in [
        (
            "GET /recordings HTTP/1.1\nhost: localhost\n\n".to_owned(),
            405,
            "POST",
        ),
        (begin("", &good), 415, "application/json"),
        (
            begin(&format!("{json}origin: http://localhost\n"), &good),
            403,
            "web pages",
        ),
        (
            begin(json, &good).replace("localhost", "example.com"),
            403,
            "Host",
        ),
        (begin(json, "{}"), 400, "missing field"),
        (begin(json, &with("sample", json!(7))), 400, "`sample`"),
        (
            begin(json, &with("redacted", json!([]))),
            400,
            "unknown field",
        ),
        (
            begin(json, &with("agent", json!("wafs"))),
            404,
            "there are waf",
        ),
        (begin(json, &"x".repeat(20_000)), 413, "too large"),
        (
            "POST /recordings/1/take HTTP/1.1\nhost: localhost\ncontent-length: 0\n\n".to_owned(),
            404,
            "no such recording",
        ),
        (
            "DELETE /recordings/1 HTTP/1.1\nhost: localhost\n\n".to_owned(),
            404,
            "no such recording",
        ),
        (
            "POST /status HTTP/1.1\nhost: localhost\ncontent-length: 0\n\n".to_owned(),
            405,
            "only GET",
        ),
    ] {
        let (code, text) = said(&proxy, &request);
        assert_eq!(code, status, "{request}: {text}");
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[test]
fn only_one_recording_goes_on() {
    let origin = origin();
    let waf = TestAgent::named("waf").quiet().start();
    let proxy = proxy(&origin, &waf);
    let good = settings().to_string();
    let (code, text) = said(&proxy, &begin(JSON, &good));
    assert_eq!(code, 201, "{text}");
    let status: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(said(&proxy, &begin(JSON, &good)).0, 409);
    let admin = proxy.address_of("admin").to_string();
    let (code, _, errors) = kit(&["record", "--admin", &admin]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("there is a recording already"), "{errors}");
    let id = status["id"].as_str().unwrap();
    let end = format!("DELETE /recordings/{id} HTTP/1.1\nhost: localhost\n\n");
    assert_eq!(said(&proxy, &end).0, 200);
    assert_eq!(said(&proxy, &begin(JSON, &good)).0, 201);
}

#[test]
fn it_ends_when_its_time_is_over() {
    let origin = origin();
    let waf = TestAgent::named("waf").quiet().start();
    let proxy = proxy(&origin, &waf);
    let mut recording = Recording::begin(&proxy, &["--duration", "300ms"]);
    let (lines, said) = recording.ended();
    assert!(lines.is_empty());
    assert!(said.contains("0 answers of 0 requests"), "{said}");
    let admin = proxy.address_of("admin").to_string();
    let (code, _, errors) = kit(&["record", "--admin", &admin, "--agent", "wafs"]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("there is no such agent; there are waf"),
        "{errors}"
    );
    // What is there is not written over, and nothing goes on recording.
    let file = recording.file().display().to_string();
    for _ in 0..2 {
        let (code, _, errors) = kit(&["record", "--admin", &admin, "-o", &file]);
        assert_eq!(code, Some(1));
        assert!(errors.contains("File exists"), "{errors}");
    }
}
