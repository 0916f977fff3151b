//! Rules over the sources and documents that no compiler checks: who may import whom, sizes, names, and that the documents
//! say what the code does. docs/ARCHITECTURE.md has the rules in words.
#![expect(clippy::unwrap_used, reason = "a panic in here is a test that fails")]

#[path = "tidy/defects.rs"]
mod defects;
#[path = "tidy/features.rs"]
mod features;
#[path = "tidy/locks.rs"]
mod locks;

use portcullis_agent_manager::{FailureReason, Phase};
use regex::Regex;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Without tests; a longer file is two files.
const MOST_LINES: usize = 500;

/// A crate, which of ours it may depend on, and what it must not depend on.
const CRATES: [(&str, &[&str], &[&str]); 4] = [
    ("config", &[], &["pingora", "tokio", "http"]),
    ("agent-protocol", &[], &["pingora", "kdl"]),
    (
        "agent-manager",
        &["agent-protocol", "config"],
        &["pingora", "kdl"],
    ),
    (
        "proxy",
        &["agent-manager", "agent-protocol", "config"],
        &["kdl"],
    ),
];

/// What only some files of a folder may say. Each of them does say it, so that the table does not outlive the code.
const ONLY_IN: [(&str, &str, &[&str]); 11] = [
    (
        "crates/proxy/src",
        r"\bphases::",
        &["server/acceptor.rs", "server/http2.rs", "server/worker.rs"],
    ),
    (
        "crates/proxy/src",
        r"\bAgentManager\b",
        &[
            "filter/mod.rs",
            "server/mod.rs",
            "server/reload.rs",
            "snapshot.rs",
        ],
    ),
    (
        "crates/proxy/src",
        r"\bportcullis_agent_manager\b",
        &[
            "access.rs",
            "admin/mod.rs",
            "cli/agent/check/line.rs",
            "cli/spawn_agent.rs",
            "filter/agents.rs",
            "filter/bodies.rs",
            "filter/frames.rs",
            "filter/guardrail.rs",
            "filter/mod.rs",
            "filter/shadow/copies.rs",
            "filter/shadow/mod.rs",
            "filter/shadow/run.rs",
            "filter/shadow/tally.rs",
            "filter/shadow/task.rs",
            "recording/entry.rs",
            "recording/mod.rs",
            "request.rs",
            "server/agents.rs",
            "server/mod.rs",
            "server/reload.rs",
            "server/reverse/accept.rs",
            "snapshot.rs",
            "telemetry/metrics/agents.rs",
            "telemetry/metrics/pools.rs",
            "telemetry/metrics/reported.rs",
            "telemetry/metrics/verdict_cache.rs",
            "telemetry/metrics.rs",
            "trace/explain.rs",
            "trace/header.rs",
        ],
    ),
    (
        "crates/proxy/src",
        r"\.ask(_about)?\(",
        &[
            "filter/agents.rs",
            "filter/frames.rs",
            "filter/shadow/task.rs",
        ],
    ),
    ("crates/proxy/src", r"\bload_(file|str)\(", &["cli/mod.rs"]),
    (
        "crates/proxy/src",
        r"portcullis_config::(Config\b|\{[^}]*\bConfig\b)",
        &[
            "admin/listeners.rs",
            "cli/check.rs",
            "cli/run.rs",
            "server/agents.rs",
            "server/changes.rs",
            "server/mod.rs",
            "server/reload.rs",
            "snapshot.rs",
        ],
    ),
    ("crates/proxy/src", r"\brouter\s*\.find\(", &["begin.rs"]),
    (
        "crates/proxy/src",
        r"\bwrite_response_(header|body)\(",
        &["reply.rs"],
    ),
    (
        "crates/agent-manager/src",
        r"\bFailureMode::",
        &["failure.rs"],
    ),
    (
        "crates/agent-manager/src",
        r"\bon_failure\(",
        &["chain.rs", "failure.rs"],
    ),
    ("crates/config/src", r"\bfs::|\bread_dir\(", &["files.rs"]),
];

/// Parts of the proxy that know little of the rest.
const APART: [(&str, &str); 2] = [
    (
        "crates/proxy/src/router",
        r"\bcrate::|\bpingora\b|\btokio\b|\bportcullis_agent",
    ),
    (
        "crates/proxy/src/agents",
        r"\bcrate::|\bpingora\b|\bportcullis_(config|agent_manager)\b",
    ),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder whose names end so, with their paths from the root, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // What others wrote, and what is no part of the sources; in a work tree of its own `.git` is a file.
            if ["target", "vendor", ".git"].contains(&&*name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() && name.ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The sources of a folder without tests and comments, by their path in the folder.
fn sources(folder: &str) -> Vec<(String, String)> {
    files(folder, ".rs")
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            (name, code_of(&read(&path)))
        })
        .collect()
}

fn code_of(source: &str) -> String {
    let lines = without_tests(source).lines();
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// Tests stand at the end of a file.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]").next().unwrap_or_default()
}

fn captures(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let found = pattern.captures_iter(text);
    found.map(|captures| captures[1].to_owned()).collect()
}

/// What stands between a heading and the next of the same level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("\n{heading}\n")).expect(heading) + 1;
    let level = heading.split(' ').next().unwrap();
    let rest = &page[start + heading.len()..];
    let end = rest.find(&format!("\n{level} ")).unwrap_or(rest.len());
    &rest[..end]
}

/// The rows of the tables in a text whose first cell is code: what is in the cell, and the whole row.
fn rows(text: &str) -> Vec<(BTreeSet<String>, &str)> {
    text.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cell = line.split(" |").next().unwrap();
            (captures("`([^`]+)`", cell), line)
        })
        .collect()
}

fn first_cells(text: &str) -> BTreeSet<String> {
    rows(text)
        .into_iter()
        .flat_map(|(cells, _)| cells)
        .collect()
}

#[test]
fn crates_depend_on_what_they_may() {
    for (name, ours, never) in CRATES {
        let manifest = read(format!("crates/{name}/Cargo.toml"));
        let dependencies = captures(r"(?m)^([a-z0-9-]+)(?:\.workspace|\s*=\s*\{)", &manifest);
        let dependencies: Vec<&str> = dependencies.iter().map(String::as_str).collect();
        for dependency in dependencies {
            if let Some(own) = dependency.strip_prefix("portcullis-") {
                assert!(ours.contains(&own), "{name} must not depend on {own}");
            }
            assert!(
                !never.contains(&dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn modules_import_what_they_may() {
    for (folder, pattern, allowed) in ONLY_IN {
        let regex = Regex::new(pattern).unwrap();
        let found: Vec<String> = sources(folder)
            .into_iter()
            .filter(|(_, code)| regex.is_match(code))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(found, allowed, "who says {pattern} in {folder}");
    }
    for (folder, pattern) in APART {
        let regex = Regex::new(pattern).unwrap();
        for (name, code) in sources(folder) {
            let found = regex.find(&code).map(|found| found.as_str());
            assert_eq!(found, None, "in {folder}/{name}");
        }
    }
}

#[test]
fn files_are_short_and_have_an_owner() {
    for folder in ["crates", "bench", "tests"] {
        for path in files(folder, ".rs") {
            let lines = without_tests(&read(&path)).lines().count();
            let name = path.display();
            assert!(lines <= MOST_LINES, "{name} has {lines} lines");
            for part in path.with_extension("").components() {
                let part = part.as_os_str().to_string_lossy();
                let vague = ["common", "utils", "util", "helpers", "misc"];
                assert!(!vague.contains(&&*part), "{name}: whose is it?");
            }
        }
    }
}

#[test]
fn no_test_is_left_out() {
    // Put together here, so that this file does not say them.
    for left_out in [["#[ign", "ore"], ["#[should_", "panic"]].map(|parts| parts.concat()) {
        for path in files("crates", ".rs").iter().chain(&files("tests", ".rs")) {
            assert!(!read(path).contains(&left_out), "{}", path.display());
        }
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let places = [["/wo", "rk/"], ["/fa", "rm/"]].map(|parts| parts.concat());
    for path in files("", "") {
        // Not text, and nobody reads it.
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for place in &places {
            assert!(!text.contains(place), "{} has {place}", path.display());
        }
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for manifest in files("crates", "Cargo.toml")
        .iter()
        .chain(&files("bench", "Cargo.toml"))
    {
        let text = read(manifest);
        assert!(
            text.contains("[lints]\nworkspace = true\n"),
            "{}",
            manifest.display()
        );
    }
}

#[test]
fn every_invalid_fixture_has_a_snapshot() {
    let names = |folder: &str, ending: &str| -> BTreeSet<String> {
        let found = files(folder, ending).into_iter();
        let here = found.filter(|path| path.parent() == Some(Path::new(folder)));
        here.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(
        names("tests/fixtures/invalid", ".kdl"),
        names("crates/config/tests/snapshots/invalid", ".snap")
    );
}

#[test]
fn the_documents_list_every_metric() {
    let source = [
        "metrics.rs",
        "metrics/agents.rs",
        "metrics/config.rs",
        "metrics/mirror.rs",
        "metrics/connections.rs",
        "metrics/discovery.rs",
        "metrics/filters.rs",
        "metrics/reported.rs",
        "metrics/shadow.rs",
        "metrics/sockets.rs",
        "metrics/upstreams.rs",
        "metrics/pools.rs",
        "metrics/verdict_cache.rs",
    ]
    .map(|name| read(format!("crates/proxy/src/telemetry/{name}")))
    .concat();
    let plain = captures(r#"register\(\s*"([a-z_]+)""#, &source);
    let with_unit = Regex::new(r#"register_with_unit\(\s*"([a-z_]+)"[^;]*?Unit::(\w+)"#).unwrap();
    let with_unit = with_unit
        .captures_iter(&source)
        .map(|found| format!("{}_{}", &found[1], found[2].to_ascii_lowercase()));
    let registered: BTreeSet<String> = plain
        .into_iter()
        .chain(with_unit)
        .map(|name| format!("portcullis_{name}"))
        .collect();
    let page = read("docs/operations.md");
    let listed = first_cells(section(&page, "## Metrics"));
    // The library adds the ending that says the kind.
    let kindless = |name: &String| {
        let name = name.strip_suffix("_total").unwrap_or(name);
        name.strip_suffix("_info").unwrap_or(name).to_owned()
    };
    let listed: BTreeSet<String> = listed.iter().map(kindless).collect();
    assert!(registered.len() > 10, "the sources are not understood");
    assert_eq!(listed, registered);
}

#[test]
fn the_documents_list_every_member_of_the_access_log() {
    let mut written = BTreeSet::new();
    for name in ["access.rs", "telemetry/access_log.rs"] {
        let source = code_of(&read(format!("crates/proxy/src/{name}")));
        written.extend(captures(r#"\\"([a-z_]+)\\":"#, &source));
    }
    let page = read("docs/operations.md");
    assert_eq!(first_cells(section(&page, "## Logs")), written);
}

#[test]
fn the_documents_list_every_reason_with_its_status() {
    let mut given = BTreeSet::new();
    let mut with_status = Vec::new();
    let pairs = Regex::new(r#"\b([45]\d\d), "([a-z_]+)""#).unwrap();
    for name in [
        "begin.rs",
        "exchange/tunnel.rs",
        "exchange/tunnel/half.rs",
        "files/mod.rs",
        "filter/addresses.rs",
        "filter/limit/concurrency.rs",
        "filter/limit/rate.rs",
        "strict.rs",
        "phases.rs",
        "reply.rs",
        "rewrite.rs",
        "router/target.rs",
        "telemetry/mod.rs",
        "upstream/attempts.rs",
        "upstream/mod.rs",
    ] {
        let source = code_of(&read(format!("crates/proxy/src/{name}")));
        given.extend(captures(r#""([a-z]+(?:_[a-z]+)+|refused)""#, &source));
        let found = pairs.captures_iter(&source);
        with_status.extend(found.map(|pair| (pair[1].to_owned(), pair[2].to_owned())));
    }
    let page = read("docs/security.md");
    let rows = rows(section(&page, "## What is refused"));
    let listed: BTreeSet<String> = rows.iter().flat_map(|(cells, _)| cells.clone()).collect();
    assert_eq!(listed, given);
    assert!(with_status.len() > 10, "the sources are not understood");
    for (status, reason) in with_status {
        let row = rows.iter().find(|(cells, _)| cells.contains(&reason));
        let has = row.is_some_and(|(_, row)| row.contains(&format!("| {status}")));
        assert!(has, "{reason} is answered with {status}");
    }
}

#[test]
fn the_documents_list_every_failure_of_agents() {
    let page = read("docs/agents.md");
    let table = section(&page, "## Failures");
    for reason in FailureReason::ALL {
        let start = format!("| `{reason}` | ");
        let row = table.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("{reason} is not in docs/agents.md"));
        for phase in [Phase::RequestBody, Phase::ResponseBody] {
            let status = reason.status(phase).to_string();
            assert!(row.contains(&status), "{reason} is {status}: {row}");
        }
        assert_eq!(
            row.contains("retry-after"),
            reason.retry_after().is_some(),
            "{row}"
        );
    }
    let names: BTreeSet<&str> = FailureReason::ALL.map(FailureReason::name).into();
    assert_eq!(first_cells(table).len(), names.len());
}

#[test]
fn the_documents_list_every_header_that_agents_cannot_change() {
    let source = read("crates/config/src/protected_header.rs");
    let list = source.split("PROTECTED").nth(1).unwrap();
    let list = list.split("];").next().unwrap();
    let page = read("docs/agents.md");
    let page = section(&page, "## Header operations");
    let names = captures(r#""([a-z0-9-]+)""#, list);
    assert!(names.len() > 10, "the sources are not understood");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name} is missing");
    }
}

#[test]
fn the_documents_list_every_check_of_an_agent() {
    let source = code_of(&read("crates/proxy/src/cli/agent/check/mod.rs"));
    let checks = captures(r#"\("([a-z-]+)", \|it\|"#, &source);
    assert!(checks.len() > 10, "the sources are not understood");
    let page = read("docs/agents.md");
    let mut listed = first_cells(section(&page, "## Testing an agent"));
    // There is a table of flags as well.
    listed.retain(|name| !name.starts_with("--"));
    assert_eq!(listed, checks);
}

#[test]
fn the_agent_in_the_documents_is_the_example() {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let page = read("docs/agents.md");
    let shown = page.split("```rust\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let example = code_of(&read("crates/agent-protocol/examples/maintenance.rs"));
    assert!(dense(&example).contains(&dense(shown)));
}

#[test]
fn the_map_has_every_module() {
    let map = read("docs/ARCHITECTURE.md");
    for (name, _, _) in CRATES {
        let part = section(&map, &format!("### crates/{name}"));
        let named = captures("`([a-z0-9_]+)", part);
        for path in files(&format!("crates/{name}/src"), ".rs") {
            let is_whole = ["lib.rs", "mod.rs", "tests.rs"]
                .iter()
                .any(|whole| path.ends_with(whole));
            let inner = path.strip_prefix(format!("crates/{name}/src")).unwrap();
            // In the folders of the language and of the codecs there is a file per block or message.
            let per_block = [
                "kdl",
                "model",
                "check",
                "diagnostic",
                "codec/json",
                "codec/binary",
                "codec/protobuf",
            ];
            if is_whole || per_block.iter().any(|folder| inner.starts_with(folder)) {
                continue;
            }
            if name == "proxy"
                && ["cli", "agents"]
                    .iter()
                    .any(|folder| inner.starts_with(folder))
            {
                continue;
            }
            let stem = path.file_stem().unwrap().to_string_lossy();
            assert!(
                named.contains(&*stem),
                "{} is not in docs/ARCHITECTURE.md",
                path.display()
            );
        }
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)").unwrap();
    for page in files("", ".md") {
        let text = read(&page);
        for found in link.captures_iter(&text) {
            let (target, anchor) = (&found[1], found.get(2).map(|anchor| anchor.as_str()));
            if target.contains("://") {
                continue;
            }
            let path = match target {
                "" => page.clone(),
                _ => page.parent().unwrap().join(target),
            };
            let whole = &found[0];
            assert!(root().join(&path).exists(), "{}: {whole}", page.display());
            if let Some(anchor) = anchor {
                let anchors = anchors(&read(&path));
                assert!(anchors.contains(anchor), "{}: {whole}", page.display());
            }
        }
    }
}

/// The names by which the headings of a page are linked to.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let texts = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    texts
        .map(|text| {
            let kept = text
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_decision_is_in_the_index() {
    let index = read("docs/adr/README.md");
    for path in files("docs/adr", ".md") {
        let name = path.file_name().unwrap().to_string_lossy();
        let listed = index.contains(&format!("({name})"));
        assert!(listed || name == "README.md", "{name} is not in the index");
    }
}
