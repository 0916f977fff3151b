//! Agents in Python behind the real proxy, which starts them.

use crate::harness::{Answer, Origin, Proxy, Response, agent_ways::tls_file, eventually};
use rustix::process::Signal;
use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

pub(crate) const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/python");
const PAGE: &str = include_str!("../../docs/agents.md");

/// The interpreter itself and not what stands for it on PATH, for the environment of agents is empty.
pub(crate) fn python() -> String {
    interpreter("python3", "sys").unwrap_or_else(|said| {
        panic!(
            "these tests need python3 on PATH; install it (Debian: apt install python3), or let \
             `scripts/ensure-tools.sh python` do it. It says: {said}"
        )
    })
}

/// One that has this module, of those that `scripts/ensure-tools.sh pytest` looks at.
pub(crate) fn python_with(module: &str) -> String {
    let installed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/tools/pytest/bin/python"
    );
    let pythons = ["python3", "/usr/bin/python3", installed];
    let found = pythons.map(|python| interpreter(python, module));
    found.into_iter().find_map(Result::ok).unwrap_or_else(|| {
        panic!(
            "this test needs a Python that has {module}, and {pythons:?} have not; let \
             `scripts/ensure-tools.sh pytest` install it"
        )
    })
}

fn interpreter(python: &str, module: &str) -> Result<String, String> {
    let print = format!("import sys, {module}; print(sys.executable)");
    let output = Command::new(python).args(["-c", &print]).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

pub(crate) fn sources() -> PathBuf {
    fs::canonicalize(Path::new(SDK).join("src")).unwrap()
}

/// What starts this program. The time is long, because an interpreter takes a while to start on a busy machine.
fn command(program: &Path, inside: &str) -> String {
    format!(
        "command \"{}\" \"{}\"; env {{ PYTHONPATH \"{}\"; PYTHONDONTWRITEBYTECODE \"1\" }}; timeout \"10s\"; {inside}",
        python(),
        program.display(),
        sources().display()
    )
}

/// A proxy that asks one of the examples about everything.
fn asking(origin: &Origin, example: &str, inside: &str) -> Proxy {
    let program = Path::new(SDK).join("examples").join(example);
    started(origin, &fs::canonicalize(program).unwrap(), inside)
}

fn started(origin: &Origin, program: &Path, inside: &str) -> Proxy {
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "python" }; upstream "origin" } }"#,
    )
    .origin(origin)
    .agent_block("python", &command(program, inside))
    .start();
    proxy.wait_ready();
    proxy
}

#[test]
fn the_denylist_allows_and_blocks() {
    let origin = Origin::start();
    let config = r#"config { paths "/admin"; user-agents "sqlmap" "nikto"; status 451 }"#;
    let proxy = asking(&origin, "denylist.py", config);
    for (path, lines, reason) in [
        ("/admin", &[][..], "path:/admin"),
        ("/x/../%61dmin", &[], "path:/admin"),
        ("/", &["user-agent: SQLMap/1.8"], "user-agent:sqlmap"),
    ] {
        let response = proxy.get_with(path, lines);
        assert_eq!(response.status, 451, "{path}");
        let id = response.header("x-request-id").unwrap();
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_eq!(line["blocked_by"], "python");
        assert_eq!(line["reason"], reason);
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(proxy.get("/administrator").status, 200);
    let line = proxy.access_line_of("/administrator");
    assert_eq!(line["agents"][0]["verdict"], "allow");
}

#[test]
fn a_wrong_configuration_keeps_it_from_being_used() {
    let origin = Origin::start();
    let program = fs::canonicalize(Path::new(SDK).join("examples/denylist.py")).unwrap();
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "python" }; upstream "origin" } }"#,
    )
    .origin(&origin)
    .agent_block("python", &command(&program, r#"config { pahts "/admin" }"#))
    .start();
    eventually("the reason", || {
        let said = proxy.log_text();
        said.contains("config.pahts is not known; did you mean `paths`?")
            .then_some(())
    });
    assert_eq!(proxy.get("/").status, 503);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn another_configuration_reaches_it_without_a_restart() {
    let origin = Origin::start();
    let program = fs::canonicalize(Path::new(SDK).join("examples/denylist.py")).unwrap();
    let denying = |path: &str| {
        let kdl = r#"routes { route "all" { filters { agent "python" }; upstream "origin" } }"#;
        let config = format!("config {{ paths \"{path}\" }}");
        Proxy::builder(kdl)
            .origin(&origin)
            .agent_block("python", &command(&program, &config))
    };
    let proxy = denying("/a").start();
    proxy.wait_ready();
    let process = proxy.children();
    assert_eq!([proxy.get("/a").status, proxy.get("/b").status], [403, 200]);
    proxy.reload(&denying("/b"));
    assert_eq!([proxy.get("/a").status, proxy.get("/b").status], [200, 403]);
    assert_eq!(proxy.children(), process);
}

#[test]
fn headers_are_stamped_in_both_directions() {
    let origin = Origin::answering(|_| {
        Answer::with(200, &[("server", "secret/1.0"), ("x-kept", "1")], b"hi")
    });
    let config = r#"config {
        request { x-edge "eu-1" }
        response { x-frame-options "DENY" }
        remove-from-request "x-debug"
        remove-from-response "server"
    }"#;
    let proxy = asking(&origin, "header_stamp.py", config);
    let response = proxy.get_with("/", &["x-debug: 1", "x-edge: mine"]);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-frame-options"), Some("DENY"));
    assert_eq!(response.header("x-kept"), Some("1"));
    assert_eq!(response.header("server"), None);
    let request = origin.last();
    assert_eq!(request.header("x-edge").as_deref(), Some("eu-1"));
    assert_eq!(request.header("x-debug"), None);
    let id = response.header("x-request-id");
    assert_eq!(request.header("x-stamped-for").as_deref(), id);
}

#[test]
fn bodies_are_redacted_across_pieces_in_both_directions() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\npay 4111\r\n").then(
            |stream| {
                // The pieces come apart, whatever the time between them is.
                std::thread::sleep(Duration::from_millis(20));
                let _ = stream.write_all(b"10\r\n111111111111 now\r\n0\r\n\r\n");
            },
        )
    });
    let inside = r##"
        inspect { request-body "buffer"; response-body "stream" }
        config { pattern #"\b\d{16}\b"#; replacement "[card]" }
    "##;
    let proxy = asking(&origin, "body_redaction.py", inside);
    let body = "card=4111111111111111&other=41111111111111112";
    let request = format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let response: Response = proxy.client().send(request).response();
    assert_eq!(response.status, 200);
    assert!(response.complete);
    assert_eq!(response.text(), "pay [card] now");
    let received = origin.last();
    assert_eq!(
        String::from_utf8_lossy(&received.body),
        "card=[card]&other=41111111111111112"
    );
    let length = received.body.len().to_string();
    assert_eq!(received.header("content-length"), Some(length));
}

#[test]
fn d08_one_that_raises_refuses() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("broken.py");
    let text = "
from portcullis_agent import Agent, Decision, serve

class Broken(Agent):
    def request_headers(self, event):
        if event.path == '/none':
            return None
        return Decision.allow().set_request_header('x-missing', event.headers.get('x-missing'))

serve(Broken())
";
    fs::write(&program, text).unwrap();
    let proxy = started(&origin, &program, "");
    for (path, why) in [("/", "TypeError"), ("/none", "returned NoneType")] {
        assert_eq!(proxy.get(path).status, 502);
        let line = proxy.access_line_of(path);
        assert_eq!(line["agents"][0]["failure"], "protocol_error");
        let reason = line["agents"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{reason}");
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(proxy.get_with("/", &["x-missing: 1"]).status, 200);
}

#[test]
fn it_ends_when_the_proxy_does() {
    let origin = Origin::start();
    let mut proxy = asking(&origin, "header_stamp.py", "");
    assert_eq!(proxy.get("/").status, 200);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_end().code(), Some(0));
    // By itself, since it was asked to.
    let said = proxy.log_text();
    assert!(!said.contains("killing it"), "{said}");
}

/// The blocks of the section in which an agent in Python is made, in one language.
fn blocks_of(language: &str) -> Vec<String> {
    let section = PAGE.split("\n## An agent in Python\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let opening = format!("\n```{language}\n");
    let blocks = section.split(&*opening).skip(1);
    blocks
        .map(|block| block.split("\n```").next().unwrap().to_owned() + "\n")
        .collect()
}

/// Commands behind `$`, and what they print.
fn console(block: &str) -> (Vec<String>, String) {
    let (mut commands, mut output) = (Vec::new(), String::new());
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push(command.to_owned()),
            None => output += &format!("{line}\n"),
        }
    }
    (commands, output)
}

/// What curl would ask for: the path, and the header lines.
fn asked_by(command: &str) -> (String, Vec<String>) {
    let quoted = command.split('\'').skip(1).step_by(2);
    let lines = quoted.map(str::to_owned).collect();
    let url = command.rsplit(' ').next().unwrap();
    let path = url.strip_prefix("http://127.0.0.1:8080").unwrap();
    (path.to_owned(), lines)
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const DIALLING: &str = r#"
import sys
from dataclasses import dataclass

from portcullis_agent import Agent, Decision, Tls, serve_reverse


@dataclass
class Config:
    path: str


class Gate(Agent):
    name = "gate"
    config_type = Config

    def request_headers(self, event):
        if event.path == self.config.path:
            return Decision.block(451).reason("gate")
        return Decision.allow().set_request_header("x-judged", "yes")


tls = Tls(*sys.argv[3:], server_name="proxy.test") if sys.argv[3:] else None
serve_reverse(Gate(), sys.argv[1], agent_id="python", token=sys.argv[2], tls=tls)
"#;

#[test]
fn an_agent_that_dials_registers_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let door = folder.path().join("reverse.sock");
    let door = door.to_str().unwrap();
    registers_and_comes_back(door, &[], &format!("reverse \"{door}\""), "");
}

#[test]
fn an_agent_that_dials_over_tls_registers_and_comes_back() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = free.local_addr().unwrap().to_string();
    drop(free);
    let file = |name: &str| fs::canonicalize(tls_file(name)).unwrap();
    let shown = [file("ca.pem"), file("agent.pem"), file("agent.key")];
    let tls = format!(
        "tls certificate=\"{}\" key=\"{}\" ca=\"{}\";",
        file("proxy.pem").display(),
        file("proxy.key").display(),
        file("ca.pem").display()
    );
    let way = format!("reverse \"{door}\" certificate-name=\"agent.test\"");
    registers_and_comes_back(&door, &shown, &way, &tls);
}

/// An agent dials this place with these files, and is known in this way.
fn registers_and_comes_back(door: &str, files: &[PathBuf], way: &str, tls: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("gate.py");
    fs::write(&program, DIALLING).unwrap();
    let dial = |token: &str| {
        let mut command = Command::new(python());
        command.arg(&program).arg(door).arg(token).args(files);
        command.env("PYTHONPATH", sources());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Running(command.spawn().unwrap())
    };
    let (token, guess) = ("a-token-that-is-long-enough", "a-guess-that-is-long-enough");
    let origin = Origin::start();
    let way =
        format!("{way} token=\"{token}\"; {tls} timeout \"10s\"; config {{ path \"/secret\" }}");
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "python" }; upstream "origin" } }"#,
    )
    .origin(&origin)
    .agent_block("python", &way)
    .start();
    let guessing = dial(guess);
    let refused = proxy.log_line(|line| line["message"] == "a registration came to nothing");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("has not shown the token"), "{error}");
    assert_eq!(proxy.get("/").status, 503);
    drop(guessing);
    // Twice, because one that has ended has to leave its place.
    for _ in 0..2 {
        let running = dial(token);
        proxy.wait_ready();
        eventually("verdicts", || {
            (proxy.get("/secret").status == 451).then_some(())
        });
        // Each worker has to hear of it.
        eventually("an allow", || (proxy.get("/").status == 200).then_some(()));
        assert_eq!(origin.last().header("x-judged").as_deref(), Some("yes"));
        drop(running);
        eventually("refusals", || (proxy.get("/").status == 503).then_some(()));
    }
}

#[test]
fn the_steps_of_the_page_work() {
    let folder = tempfile::tempdir().unwrap();
    let [agent, test] = blocks_of("python").try_into().unwrap();
    fs::write(folder.path().join("my_agent.py"), agent).unwrap();
    fs::write(folder.path().join("test_my_agent.py"), test).unwrap();
    let sources = sources();
    let here = |text: &str| {
        text.replace(
            "/opt/portcullis/sdk/python/src",
            &sources.display().to_string(),
        )
        .replace("/etc/portcullis", &folder.path().display().to_string())
        .replace("/usr/bin/python3", &python())
        .replace("127.0.0.1:8080", "127.0.0.1:0")
    };
    let [tested, tried] = blocks_of("console").try_into().unwrap();

    let (commands, expected) = console(&tested);
    let output = Command::new("sh")
        .args(["-ec", &here(&commands.join("\n"))])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{said}");

    let [config] = blocks_of("kdl").try_into().unwrap();
    let patient = "config { word \"sesame\" }; timeout \"10s\"";
    let config = here(&config).replace("config { word \"sesame\" }", patient);
    let config = format!(
        "{config}\nprobes {{ address \"127.0.0.1:0\" }}\nobservability {{ log level=\"info\" format=\"json\" }}\n"
    );
    let proxy = Proxy::builder(config).verbatim().start();
    proxy.wait_ready();
    let mut answers = Vec::new();
    for part in tried.split("$ ").skip(1) {
        let (command, expected) = part.split_once('\n').unwrap();
        let (path, lines) = asked_by(command);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let answer = proxy.get_with(&path, &lines);
        assert!(answer.text().starts_with(expected), "{command}: {answer:?}");
        answers.push(answer);
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [403, 200]);
    let received = &answers[1].json()["headers"];
    assert_eq!(received["x-admitted"][0], "yes");
    assert!(received.get("x-word").is_none());
}
