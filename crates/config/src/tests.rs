//! Every setting of the language is in an example of docs/configuration.md, and some test shows what it does.
//!
//! The list of settings is what the cursor is asked for while the fixtures and samples are read, so it cannot be out of date.
//! Who adds a setting writes an example into the reference, with the rest of the block around it, and a test in tests/e2e
//! that has it in a configuration. Where another kind of test is better, it is named in [`SHOWN_ELSEWHERE`].

use crate::kdl::asked::{ASKED, Asked};
use ::kdl::KdlDocument;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What is read to learn what there is. Each block of the language is in one of them.
const READ: [&str; 3] = ["tests/fixtures/valid", "tests/fixtures/invalid", "config"];

/// Blocks in which the same is read as in another, by the same function: one example and one test do for both.
const READ_ALIKE: [(&str, &str); 2] = [("chain", "filters"), ("not", "match")];

/// Settings whose effect is shown where it is not seen at once: by tests that are not end to end, or whose configurations are put
/// together from pieces. What they are in, their name, and the file of the test.
const SHOWN_ELSEWHERE: [(&str, &str, &str); 10] = [
    ("guardrail", "failure-mode", "tests/e2e/guardrail.rs"),
    ("guardrail", "status", "tests/e2e/guardrail.rs"),
    ("guardrail", "timeout", "tests/e2e/guardrail.rs"),
    ("pool", "warm-up", "crates/agent-manager/src/pool/tests.rs"),
    ("request-body", "encoded", "tests/e2e/bodies/codings.rs"),
    ("request-body", "max-ratio", "tests/e2e/bodies/codings.rs"),
    ("response-body", "encoded", "tests/e2e/bodies/codings.rs"),
    ("response-body", "max-ratio", "tests/e2e/bodies/codings.rs"),
    ("reverse", "mode", "tests/e2e/reverse.rs"),
    ("reverse", "token-file", "tests/e2e/settings.rs"),
];

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
    // What is new has to be in an example, and so what is in a new block is known, too.
    for block in examples() {
        let block = format!("schema-version \"1\"\n{block}");
        let _ = crate::load_str("example", &block, Path::new("."), &nothing_set);
    }
    ASKED.take().into_iter().map(known_as).collect()
}

/// The blocks of KDL of the reference.
fn examples() -> Vec<String> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/configuration.md")).unwrap();
    let blocks = page.split("\n```kdl\n").skip(1);
    let texts = blocks.map(|block| block.split("\n```").next().unwrap());
    texts.map(str::to_owned).collect()
}

/// The setting under the name of the block that stands for all that are read alike.
fn known_as(mut asked: Asked) -> Asked {
    if let Some((_, owner)) = READ_ALIKE.iter().find(|(owner, _)| *owner == asked.owner) {
        (*owner).clone_into(&mut asked.owner);
    }
    asked
}

/// What is in a piece of KDL.
fn written(document: &KdlDocument, owner: &str, found: &mut BTreeSet<Asked>) {
    for node in document.nodes() {
        let name = node.name().value();
        let mut note = |owner: &str, is_node, name: &str| {
            found.insert(known_as(Asked {
                owner: owner.to_owned(),
                is_node,
                name: name.to_owned(),
            }));
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
    let mut shown = BTreeSet::new();
    for block in examples() {
        written(&block.parse().unwrap(), "", &mut shown);
    }
    let settings = settings();
    assert!(settings.len() > 100, "only {} were found", settings.len());
    let missing: Vec<_> = settings.difference(&shown).collect();
    assert!(missing.is_empty(), "in no example:\n{}", show(missing));
}

/// How far the name of a property may be from the name of its node: configurations of tests are put together from pieces.
const NEAR: usize = 3;

/// Where this source has the name as a configuration would have it.
fn places_of<'a>(source: &'a str, asked: &'a Asked) -> impl Iterator<Item = usize> + 'a {
    source.match_indices(&asked.name).filter_map(|(at, name)| {
        let (before, after) = (&source[..at], &source[at + name.len()..]);
        let is_there = if asked.is_node {
            // At the beginning of a statement of KDL, which may be that of a string.
            let before = before.trim_end_matches(' ');
            let begins = before.is_empty() || before.ends_with(['\n', '{', ';', '"', '#', '(']);
            begins && (after.is_empty() || after.starts_with([' ', '\n', ';', '}', '"', '#']))
        } else {
            !before.ends_with(is_of_a_name) && after.starts_with('=')
        };
        is_there.then_some(at)
    })
}

fn is_of_a_name(sign: char) -> bool {
    sign.is_ascii_lowercase() || sign == '-'
}

/// So many lines of a text around this place.
fn around(source: &str, at: usize) -> &str {
    let mut lines_before = source[..at].rmatch_indices('\n').map(|(at, _)| at);
    let mut lines_after = source[at..]
        .match_indices('\n')
        .map(|(behind, _)| at + behind);
    let start = lines_before.nth(NEAR).unwrap_or(0);
    let end = lines_after.nth(NEAR).unwrap_or(source.len());
    &source[start..end]
}

/// Whether this source has it in a configuration. Of a name that several blocks have it is not enough alone.
fn has(source: &str, asked: &Asked, is_ambiguous: bool) -> bool {
    let names_owner = |text: &str| {
        text.match_indices(&asked.owner).any(|(at, owner)| {
            let behind = &text[at + owner.len()..];
            !text[..at].ends_with(is_of_a_name) && !behind.starts_with(is_of_a_name)
        })
    };
    let mut places = places_of(source, asked);
    places.any(|at| {
        let text = if asked.is_node {
            source
        } else {
            around(source, at)
        };
        !is_ambiguous || names_owner(text)
    })
}

#[test]
fn every_setting_has_a_test_that_shows_its_effect() {
    let sources: Vec<String> = files("tests/e2e", ".rs")
        .into_iter()
        .chain(files("tests/harness", ".rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let settings = settings();
    for (owner, name, file) in SHOWN_ELSEWHERE {
        let is_known = |asked: &Asked| asked.owner == owner && asked.name == name;
        assert!(settings.iter().any(is_known), "no `{name}` in `{owner}`");
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        let is_there = text.contains(name) || text.contains(&name.replace('-', "_"));
        assert!(is_there, "{file} knows nothing of `{name}`");
    }
    let is_shown = |asked: &Asked| {
        let mut elsewhere = SHOWN_ELSEWHERE.iter();
        let with_that_name = settings.iter().filter(|other| other.name == asked.name);
        let is_ambiguous = with_that_name.count() > 1;
        sources
            .iter()
            .any(|source| has(source, asked, is_ambiguous))
            || elsewhere.any(|(owner, name, _)| *owner == asked.owner && *name == asked.name)
    };
    let missing: Vec<_> = settings.iter().filter(|asked| !is_shown(asked)).collect();
    assert!(missing.is_empty(), "in no test:\n{}", show(missing));
}
