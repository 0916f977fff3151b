//! Logs over reloads, and log files that somebody moves.

use crate::harness::{Proxy, eventually, proxy::Builder};
use rustix::process::Signal;
use std::path::Path;

fn logging(observability: &str) -> Builder {
    Proxy::builder(format!(
        "routes {{ route \"all\" {{ respond 200 }} }}\nobservability {{ {observability} }}"
    ))
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[test]
fn d21_the_access_log_moves_with_the_configuration() {
    let to = |name: &str, format: &str| {
        logging(&format!(
            "access-log \"./{name}\" format=\"{format}\"; log format=\"json\""
        ))
    };
    let proxy = to("one.log", "json").start();
    let (one, two) = (
        proxy.folder().join("one.log"),
        proxy.folder().join("two.log"),
    );
    proxy.get("/one");
    eventually("a line", || (lines(&one) == 1).then_some(()));
    proxy.reload(&to("two.log", "combined"));
    proxy.get("/two");
    eventually("a line", || (lines(&two) == 1).then_some(()));
    let text = std::fs::read_to_string(&two).unwrap();
    assert!(text.contains("\"GET /two HTTP/1.1\" 200"), "{text}");
    assert_eq!(lines(&one), 1);
    proxy.reload_in_vain(&logging(
        "access-log \"./no/such/folder/log\"; log format=\"json\"",
    ));
    proxy.get("/three");
    eventually("a line", || (lines(&two) == 2).then_some(()));
}

#[test]
fn a_log_that_was_moved_is_opened_again() {
    let proxy = logging("access-log \"./access.log\"; log format=\"json\"").start();
    let (path, moved) = (
        proxy.folder().join("access.log"),
        proxy.folder().join("access.log.1"),
    );
    proxy.get("/one");
    eventually("a line", || (lines(&path) == 1).then_some(()));
    std::fs::rename(&path, &moved).unwrap();
    proxy.get("/two");
    eventually("a line in the moved file", || {
        (lines(&moved) == 2).then_some(())
    });
    proxy.signal(Signal::USR1);
    eventually("the new file", || path.exists().then_some(()));
    proxy.get("/three");
    eventually("a line in the new file", || {
        (lines(&path) == 1).then_some(())
    });
    assert_eq!(lines(&moved), 2);
}

#[test]
fn the_log_of_the_process_changes_level_and_format() {
    let with = |log: &str| logging(&format!("access-log \"off\"; log {log}"));
    let proxy = with("level=\"info\" format=\"json\"").start();
    with("level=\"info\" format=\"text\"").rewrite(&proxy);
    proxy.hang_up();
    let line_about = |generation: u32| {
        eventually("the reload in the log", || {
            let wanted = format!("generation={generation}");
            let log = proxy.log_text();
            log.lines()
                .find(|line| line.contains(&wanted))
                .map(str::to_owned)
        })
    };
    assert!(line_about(2).contains(" INFO configuration reloaded"));
    with("level=\"error\" format=\"text\"").rewrite(&proxy);
    proxy.hang_up();
    let generation = "portcullis_config_generation";
    proxy.wait_metric(generation, 3.0);
    with("level=\"info\" format=\"text\"").rewrite(&proxy);
    proxy.hang_up();
    proxy.wait_metric(generation, 4.0);
    line_about(4);
    assert!(!proxy.log_text().contains("generation=3"));
}

#[test]
fn no_request_waits_for_a_sink_that_takes_nothing() {
    let pipe = logging("access-log \"./pipe\" buffer=\"4KiB\"; log format=\"json\"");
    let full = logging("access-log \"/dev/full\"; log format=\"json\"");
    let proxy = full.start();
    let dropped = || proxy.metric("portcullis_access_log_dropped_total");
    for _ in 0..10 {
        assert_eq!(proxy.get("/full").status, 200);
    }
    proxy.wait_metric("portcullis_access_log_dropped_total", 10.0);
    let path = proxy.folder().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    proxy.reload(&pipe);
    // 64 KiB are in the pipe, 4 KiB wait, and as much is being written.
    let mut client = proxy.client();
    let path = format!("/{}", "x".repeat(1000));
    for _ in 0..200 {
        assert_eq!(client.get(&path, &[]).status, 200);
    }
    eventually("dropped lines", || (dropped() > 10.0).then_some(()));
    // A log that is stuck holds up neither a reload nor the end.
    proxy.reload(&logging("access-log \"./access.log\"; log format=\"json\""));
    assert_eq!(proxy.get("/after").status, 200);
    assert_eq!(proxy.access_line_of("/after")["status"], 200);
}
