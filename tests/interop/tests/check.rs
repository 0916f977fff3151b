//! `portcullis agent check` of agents that others' libraries make: it passes, or fails on the lines where the library is at fault.

use portcullis_interop::{Process, accepts, free_address, portcullis};
use serde_json::Value;
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_published-agent");
const FORK: &str = env!("CARGO_BIN_EXE_published-fork");
const OLD_AGENT: &str = env!("CARGO_BIN_EXE_published-v1-agent");
/// What two of them want to be told.
const CONFIG: &str = r#"{"greeting": "hello"}"#;

/// What can be asked of any agent of version 2 that judges heads.
const OF_HEADS: &[&str] = &[
    "handshake",
    "handshake-legacy",
    "request-headers",
    "ping",
    "concurrency",
    "cancelled",
    "header-rules",
    "stray-answers",
];

/// What is checked of an agent of version 1.
const OF_V1: &[&str] = &[
    "handshake",
    "request-headers",
    "request-body",
    "request-body-pieces",
    "response-headers",
    "response-body",
    "response-body-pieces",
    "request-complete",
    "large-body",
    "provisional",
    "header-rules",
];

/// An agent that runs.
struct Running {
    _process: Process,
    directory: TempDir,
}

impl Running {
    fn at_socket(program: &Path, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let arguments = [arguments, &[socket.to_str().unwrap()]].concat();
        let log = directory.path().join("agent.log");
        let mut process = Process::start(program, &arguments, log);
        process.wait_until(|| accepts(&socket));
        Self {
            _process: process,
            directory,
        }
    }

    fn over_grpc(program: &str) -> (Self, SocketAddr) {
        let directory = tempfile::tempdir().unwrap();
        let place = free_address();
        let log = directory.path().join("agent.log");
        let mut process = Process::start(Path::new(program), &[&place.to_string()], log);
        process.wait_until(|| TcpStream::connect(place).is_ok());
        let running = Self {
            _process: process,
            directory,
        };
        (running, place)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn config(&self) -> String {
        let path = self.directory.path().join("config.json");
        fs::write(&path, CONFIG).unwrap();
        path.display().to_string()
    }
}

/// The exit code and the report.
fn checked(target: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(portcullis())
        .args(["agent", "check", target, "--json", "--timeout", "10s"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        report.unwrap_or_else(|_| panic!("{said}")),
    )
}

/// The names of the checks that ended like this, and what is said of the first.
fn ended<'a>(report: &'a Value, result: &str) -> (Vec<&'a str>, &'a str) {
    let checks = report["checks"].as_array().unwrap();
    let checks: Vec<_> = checks
        .iter()
        .filter(|check| check["result"] == result)
        .collect();
    let names = checks.iter().map(|check| check["name"].as_str().unwrap());
    let said = checks.first().and_then(|check| check["reason"].as_str());
    (names.collect(), said.unwrap_or_default())
}

/// These lines fail and no other, and these are among those that are fine.
#[track_caller]
fn fails(report: &(Option<i32>, Value), failed: &[&str], fine: &[&str]) {
    let (code, report) = report;
    assert_eq!(ended(report, "failed").0, failed, "{report:#}");
    assert_eq!(*code, Some(i32::from(!failed.is_empty())), "{report:#}");
    let (ok, _) = ended(report, "ok");
    for name in fine {
        assert!(ok.contains(name), "{name}: {report:#}");
    }
}

#[test]
fn a_published_agent_lets_pass_what_it_cannot_read() {
    let agent = Running::at_socket(Path::new(AGENT), &[]);
    let target = format!("unix:{}", agent.socket().display());
    let report = checked(&target, &["--config", &agent.config(), "--also", "/block"]);
    // The library answers an event that is no JSON with its default, which is to allow (0.6.54, `v2/uds_server.rs`,
    // "Failed to deserialize RequestHeaders").
    fails(&report, &["broken-json"], OF_HEADS);
    let by_hand = [
        "configuration",
        "slow-reader",
        "disconnected",
        "garbage-frame",
        "unknown-type",
    ];
    fails(&report, &["broken-json"], &by_hand);
    let (_, why) = ended(&report.1, "failed");
    assert!(why.contains("it allows what cannot be read"), "{why}");
}

#[test]
fn a_published_agent_passes_over_grpc() {
    let (agent, place) = Running::over_grpc(AGENT);
    let arguments = ["--config", &agent.config(), "--also", "/block"];
    let report = checked(&format!("grpc:{place}"), &arguments);
    fails(&report, &[], OF_HEADS);
    fails(&report, &[], &["configuration"]);
    assert_eq!(report.1["agent"]["name"], "Published agent");
}

#[test]
fn a_published_fork_passes_in_its_package() {
    let (_agent, place) = Running::over_grpc(FORK);
    let target = format!("http://{place}");
    let report = checked(
        &target,
        &["--package", "grapsus.agent.v2", "--also", "/block"],
    );
    fails(&report, &[], OF_HEADS);
    let report = checked(&target, &[]);
    fails(&report, &["handshake"], &[]);
    let (_, why) = ended(&report.1, "failed");
    assert!(why.contains("Unimplemented"), "{why}");
}

#[test]
fn an_old_agent_passes() {
    let agent = Running::at_socket(Path::new(OLD_AGENT), &[]);
    let target = format!("v1:{}", agent.socket().display());
    let report = checked(&target, &["--config", &agent.config()]);
    fails(&report, &[], OF_V1);
    fails(&report, &[], &["configuration", "websocket-frames"]);
}

#[test]
fn the_published_program_passes_but_for_what_is_newer_than_it() {
    let installed = "target/published/bin/sentinel-denylist-agent";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(installed);
    assert!(program.exists(), "`make test-interop` installs {installed}");
    let agent = Running::at_socket(&program, &["--block-paths", "/admin", "--socket"]);
    let target = format!("v1:{}", agent.socket().display());
    let report = checked(&target, &["--also", "/admin"]);
    // Its library, sentinel-agent-protocol 0.1.0, knows no frames of WebSockets, and nothing is announced in version 1.
    fails(&report, &["websocket-frames"], OF_V1);
}
