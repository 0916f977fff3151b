//! The configuration that everybody tries first does what its comments say.

use crate::harness::{Proxy, eventually, proxy::processes};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The file itself, on ports that are free.
fn quickstart() -> Proxy {
    let text = include_str!("../../config/quickstart.kdl");
    let text = ["8080", "9901", "9902"]
        .iter()
        .fold(text.to_owned(), |text, port| {
            text.replace(&format!("\"127.0.0.1:{port}\""), "\"127.0.0.1:0\"")
        });
    let proxy = Proxy::builder(text).verbatim().start();
    proxy.wait_ready();
    proxy
}

#[test]
fn a_request_goes_in_and_the_echo_answers() {
    let proxy = quickstart();
    let response = proxy.get("/hello");
    assert_eq!(response.status, 200);
    let echo = response.json();
    assert_eq!(echo["method"], "GET");
    assert_eq!(echo["uri"], "/hello");
    assert_eq!(echo["headers"]["host"][0], "test");
    let line = proxy.access_line_of("/hello");
    assert_eq!(line["status"], 200);
    assert_eq!(line["agents"][0]["verdict"], "allow");
}

#[test]
fn a_real_agent_decides() {
    let proxy = quickstart();
    for (path, lines, reason) in [
        ("/admin", &[][..], "path:/admin"),
        ("/%61dmin", &[], "path:/admin"),
        ("/x/../admin", &[], "path:/admin"),
        ("/hello", &["user-agent: sqlmap/1.8"], "user-agent:sqlmap"),
    ] {
        let response = proxy.get_with(path, lines);
        assert_eq!(response.status, 403, "{path}");
        let id = response.header("x-request-id").unwrap();
        let line = proxy.access_line(|line| line["request_id"] == id);
        let record = &line["agents"][0];
        assert_eq!(record["name"], "denylist");
        assert_eq!(record["phase"], "request_headers");
        assert_eq!(record["verdict"], "block");
        assert_eq!(record["reason"], reason);
        assert_eq!(line["blocked_by"], "denylist");
        assert_eq!(line["reason"], reason);
    }
    assert_eq!(proxy.get("/administrator").status, 200);
}

#[test]
fn the_agent_is_a_process_of_its_own() {
    let proxy = quickstart();
    let children = proxy.children();
    assert_eq!(children.len(), 1);
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", children[0])).unwrap();
    assert!(command.contains("denylist"), "{command:?}");
}

#[test]
fn a_killed_proxy_leaves_no_agent_behind() {
    let mut proxy = quickstart();
    let agent = proxy.children()[0];
    proxy.signal(Signal::KILL);
    let killed = Instant::now();
    proxy.wait_end();
    eventually("end of the agent", || {
        let left = processes();
        (!left.iter().any(|(process, _)| *process == agent)).then_some(())
    });
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn sigterm_ends_everything_in_order() {
    let mut proxy = quickstart();
    let agent = proxy.children()[0];
    assert_eq!(proxy.get("/hello").status, 200);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_end().code(), Some(0));
    // The agent has ended before the proxy did.
    assert!(!processes().iter().any(|(process, _)| *process == agent));
}

#[test]
fn it_passes_the_check() {
    let text = include_str!("../../config/quickstart.kdl");
    let (code, stdout, stderr) = Proxy::builder(text).verbatim().check();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("1 listener"), "{stdout}");
}
