//! The table of what takes the place of features of other proxies points to tests that exist, or says why there are none.

use super::{read, root};
use regex::Regex;

#[test]
fn every_feature_of_others_has_a_test_or_a_reason() {
    let page = read("docs/agents.md");
    let (_, tables) = page
        .split_once("\n## From other proxies of the family\n")
        .expect("the section is there");
    let tables = tables.split("\n## ").next().unwrap();
    let path = Regex::new(r"`((?:crates|tests)/[a-z0-9_/-]+\.rs)`").unwrap();
    let rows: Vec<&str> = tables
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| theirs |"))
        .collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [theirs, _, shown] = cells[..] else {
            panic!("not three cells: {row}");
        };
        assert!(!theirs.trim().is_empty(), "{row}");
        let named: Vec<&str> = path
            .captures_iter(shown)
            .map(|found| found.get(1).unwrap().as_str())
            .collect();
        for file in &named {
            assert!(root().join(file).is_file(), "{file} does not exist: {row}");
        }
        let has_reason = shown.trim().starts_with("not here");
        assert!(
            !named.is_empty() || has_reason,
            "neither test nor reason: {row}"
        );
    }
}
