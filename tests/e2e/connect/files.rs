//! Targets that a file lists.

use super::TO_POOL;
use crate::harness::{Answer, Origin, Proxy, eventually, proxy::Builder};

const FILE: &str = "pool.txt";

fn listed(list: &str) -> Builder {
    Proxy::builder(TO_POOL)
        .upstream("pool", &format!("targets-file \"{FILE}\" interval=\"1s\""))
        .file(FILE, list)
}

/// In one step, as whoever writes such files should.
fn rewrite(proxy: &Proxy, list: &str) {
    let new = proxy.folder().join("new.txt");
    std::fs::write(&new, list).unwrap();
    std::fs::rename(new, proxy.folder().join(FILE)).unwrap();
}

#[test]
fn targets_are_those_of_the_file_whenever_it_is_another() {
    let one = Origin::answering(|_| Answer::ok("one"));
    let two = Origin::answering(|_| Answer::ok("two"));
    let proxy = listed(&format!("# ours\n{} weight=2\n", one.address())).start();
    assert_eq!(proxy.get("/").text(), "one");
    rewrite(&proxy, &format!("{}\n", two.address()));
    eventually("the other", || {
        (proxy.get("/").text() == "two").then_some(())
    });
    // Half of a list is no list.
    rewrite(&proxy, &format!("{}\n10.0.0\n", one.address()));
    let line = proxy.log_line(|line| line["message"] == "targets are not found");
    let problem = line["problem"].as_str().unwrap();
    assert!(problem.contains("pool.txt: line 2"), "{problem}");
    assert_eq!(line["kept"], 1);
    assert_eq!(proxy.get("/").text(), "two");
    rewrite(&proxy, &format!("{}\n", one.address()));
    eventually("the first", || {
        (proxy.get("/").text() == "one").then_some(())
    });
}

#[test]
fn a_file_that_was_never_good_is_said_at_the_start() {
    for (list, problem) in [("", "lists no target"), ("backend:80\n", "line 1")] {
        let (code, _, printed) = listed(list).run_to_end();
        assert_ne!(code, Some(0));
        assert!(printed.contains(problem), "{printed}");
        assert!(printed.contains(FILE), "{printed}");
    }
}
