//! The examples in docs/protocol.md, as bytes.

use std::collections::BTreeMap;

/// The page, as it was when the tests were compiled.
const PAGE: &str = include_str!("../../../../docs/protocol.md");

/// All examples by name. A block ```` ```json vector=NAME ```` holds JSON
/// that is broken into lines between its tokens, ```` ```text vector=NAME ````
/// holds hexadecimal digits with blanks, and comments behind semicolons.
pub(crate) fn vectors() -> BTreeMap<String, Vec<u8>> {
    let mut vectors = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let bytes = match info.split_once(" vector=") {
            Some(("json", _)) => joined(&body).into_bytes(),
            Some(("text", _)) => unhex(&body),
            // What is shown as JSON is what goes over the wire.
            _ => {
                assert!(!info.starts_with("json"), "{info} has no name: {body:?}");
                continue;
            }
        };
        let name = info.rsplit('=').next().unwrap_or_default();
        let earlier = vectors.insert(name.to_owned(), bytes);
        assert!(earlier.is_none(), "{name} appears twice");
    }
    assert!(vectors.len() > 10, "the page is not understood");
    vectors
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect()
}

fn unhex(lines: &[&str]) -> Vec<u8> {
    let digits: String = lines
        .iter()
        .filter_map(|line| line.split(';').next())
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two hexadecimal digits"))
        .collect()
}
