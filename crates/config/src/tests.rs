//! Every setting of the language is in an example of docs/configuration.md, and some test shows what it does.
//!
//! The list of settings is what the cursor is asked for while the fixtures and samples are read, so it cannot be out of date.
//! Who adds a setting writes an example into the reference, with the rest of the block around it, and a test in tests/e2e
//! that has it in a configuration. Where another kind of test is better, it is named in [`SHOWN_ELSEWHERE`].

use crate::kdl::asked::{ASKED, Asked};
use ::kdl::KdlDocument;
use regex::Regex;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What is read to learn what there is. Each block of the language is in one of them.
const READ: [&str; 3] = ["tests/fixtures/valid", "tests/fixtures/invalid", "config"];

/// Settings whose effect tests show that are not end to end: what they are in, their name, and the file of the test.
const SHOWN_ELSEWHERE: [(&str, &str, &str); 0] = [];

/// Settings that are in no example.
const IN_NO_EXAMPLE: [(&str, &str); 0] = [];

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// All settings that there are.
fn settings() -> BTreeSet<Asked> {
    let nothing_set = |_: &str| None;
    for folder in READ {
        for path in files(folder, ".kdl") {
            // Mistakes are no matter: what comes behind them is asked for all the same.
            let _ = crate::load_file(&path, &nothing_set);
        }
    }
    ASKED.take()
}

/// What is in a piece of KDL.
fn written(document: &KdlDocument, owner: &str, found: &mut BTreeSet<Asked>) {
    for node in document.nodes() {
        let name = node.name().value();
        let mut note = |owner: &str, is_node, name: &str| {
            found.insert(Asked {
                owner: owner.to_owned(),
                is_node,
                name: name.to_owned(),
            });
        };
        note(owner, true, name);
        for entry in node.entries() {
            if let Some(property) = entry.name() {
                note(name, false, property.value());
            }
        }
        if let Some(children) = node.children() {
            written(children, name, found);
        }
    }
}

fn show(settings: Vec<&Asked>) -> String {
    let mut lines: Vec<String> = settings
        .iter()
        .map(|asked| {
            let kind = if asked.is_node { "node" } else { "property" };
            format!("the {kind} `{}` of `{}`", asked.name, asked.owner)
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn every_setting_is_in_an_example_of_the_reference() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/configuration.md")).unwrap();
    let mut examples = BTreeSet::new();
    for block in page.split("\n```kdl\n").skip(1) {
        let block = block.split("\n```").next().unwrap();
        written(&block.parse().unwrap(), "", &mut examples);
    }
    let settings = settings();
    assert!(settings.len() > 100, "only {} were found", settings.len());
    let is_excused =
        |asked: &Asked| IN_NO_EXAMPLE.contains(&(asked.owner.as_str(), asked.name.as_str()));
    let missing = settings.difference(&examples);
    let missing: Vec<_> = missing.filter(|asked| !is_excused(asked)).collect();
    assert!(missing.is_empty(), "in no example:\n{}", show(missing));
}

#[test]
fn every_setting_has_a_test_that_shows_its_effect() {
    let tests: Vec<String> = files("tests/e2e", ".rs")
        .into_iter()
        .chain(files("tests/harness", ".rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let uses = |asked: &Asked| {
        let (owner, name) = (regex::escape(&asked.owner), regex::escape(&asked.name));
        let pattern = match asked.is_node {
            // At the beginning of a statement of KDL, which may be that of a string.
            true => format!(r##"(?m)(^|[{{;"#(])\s*{name}([\s;}}"#]|$)"##),
            false => format!(r#"\b{owner}\b[^\n]*[\s\\]{name}="#),
        };
        let pattern = Regex::new(&pattern).unwrap();
        let owner = Regex::new(&format!(r"(^|[^a-z-]){owner}([^a-z-]|$)")).unwrap();
        tests
            .iter()
            .any(|test| owner.is_match(test) && pattern.is_match(test))
    };
    for (_, name, file) in SHOWN_ELSEWHERE {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(text.contains(name), "{file} knows nothing of `{name}`");
    }
    let is_elsewhere = |asked: &Asked| {
        let mut known = SHOWN_ELSEWHERE.iter();
        known.any(|(owner, name, _)| *owner == asked.owner && *name == asked.name)
    };
    let settings = settings();
    let missing = settings
        .iter()
        .filter(|asked| !uses(asked) && !is_elsewhere(asked));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "in no test:\n{}", show(missing));
}
