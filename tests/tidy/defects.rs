//! The page of defects points to the tests that show their absence.

use super::{code_of, files, read, sources, without_tests};
use regex::Regex;
use std::collections::BTreeSet;

#[test]
fn the_page_of_defects_has_every_test_with_a_number() {
    let page = read("tests/defects.md");
    let entry = Regex::new(r"`([a-z0-9_/.-]+\.rs)::d(\d\d)_\*`").unwrap();
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| D")) {
        let number = &row[3..5];
        for found in entry.captures_iter(row) {
            assert_eq!(&found[2], number, "{row}");
            listed.insert((number.to_owned(), found[1].to_owned()));
        }
        let points = entry.is_match(row);
        let says_so = row.contains("not built |");
        assert!(points || says_so, "{row}");
    }
    assert_eq!(listed, numbered());
}

/// The numbers that names of tests have, with the files of these tests as the page writes them.
fn numbered() -> BTreeSet<(String, String)> {
    let test = Regex::new(r"(?m)^\s*(?:async )?fn d(\d\d)_[a-z0-9_]+\(").unwrap();
    let mut found = BTreeSet::new();
    for folder in ["tests", "crates"] {
        for path in files(folder, ".rs") {
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            let text = read(&path);
            let numbers = test.captures_iter(&text);
            found.extend(numbers.map(|number| (number[1].to_owned(), name.clone())));
        }
    }
    found
}

/// Where it is queued for a connection, once, and for a socket straight into the buffer that is written to it.
#[test]
fn d15_an_event_is_encoded_once_for_each_connection() {
    let encodes = Regex::new(r"::(encode_event|encode_event_head)\(").unwrap();
    let mut calls = Vec::new();
    for folder in ["agent-protocol", "agent-manager", "proxy"] {
        for (name, code) in sources(&format!("crates/{folder}/src")) {
            // The kit for authors asks agents itself, and no request.
            if name.starts_with("cli/") {
                continue;
            }
            let count = encodes.find_iter(&code).count();
            calls.extend(std::iter::repeat_n(name, count));
        }
    }
    // Once for each encoding, once for version 1, and once more when the operator has it recorded.
    let v2 = "dialect/v2/outbox.rs";
    assert_eq!(calls, ["codec/v1.rs", v2, v2, v2, "recording/entry.rs"]);
    let copies =
        Regex::new(r"\b(serde_json::to_|format!|to_string\(|to_vec\(|to_value\()").unwrap();
    for name in [
        "json/body_chunk.rs",
        "json/event.rs",
        "json/headers.rs",
        "json/request_complete.rs",
        "json/request_headers.rs",
        "json/response_headers.rs",
        "json/write.rs",
        "binary/body_chunk.rs",
        "binary/event.rs",
        "binary/request_complete.rs",
        "binary/request_headers.rs",
        "binary/response_headers.rs",
        "binary/write.rs",
    ] {
        let text = read(format!("crates/agent-protocol/src/codec/{name}"));
        let found = copies
            .find(&code_of(without_tests(&text)))
            .map(|found| found.start());
        assert_eq!(found, None, "{name} makes a copy");
    }
}
