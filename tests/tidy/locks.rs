//! The lock files of the workspaces apart, which nothing that is built every day would touch.

use super::{captures, files, read};
use std::{collections::BTreeSet, path::Path};

const CRATE: &str = "portcullis-agent-protocol";

/// What the lock file says that the agent protocol depends on; `None` where it does not have it.
fn locked(lock: &str) -> Option<BTreeSet<String>> {
    let mut packages = lock.split("\n[[package]]\n");
    let package = packages.find(|it| it.starts_with(&format!("name = \"{CRATE}\"\n")))?;
    Some(captures(r#"(?m)^ "([^" ]+)(?: [^"]*)?",$"#, package))
}

/// Where another version of the agent protocol is locked, `--locked` refuses, and everything else changes the file.
#[test]
fn lock_files_apart_know_what_the_agent_protocol_depends_on() {
    let manifest = read("crates/agent-protocol/Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = rest.split("\n[").next().unwrap();
    let dependencies = captures(r"(?m)^([a-z0-9_-]+)\.workspace", section);
    let mut apart = 0;
    for path in files("", "Cargo.lock") {
        // That of the workspace has what tests depend on, too, and is written by every build.
        if path == Path::new("Cargo.lock") {
            continue;
        }
        if let Some(locked) = locked(&read(&path)) {
            assert_eq!(locked, dependencies, "{}", path.display());
            apart += 1;
        }
    }
    assert!(apart >= 2, "those of interoperability and of fuzzing");
}
