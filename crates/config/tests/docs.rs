//! What the documents say about the language is true: every block of KDL in them loads, every setting and every code is
//! in the reference, and every sample, those to deploy included, is loaded.
#![expect(clippy::unwrap_used, reason = "a panic in here is a test that fails")]

mod fixtures;

use portcullis_config::{Config, Loaded, diagnostic::code, load_file, load_str};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = "../..";
const REFERENCE: &str = "../../docs/configuration.md";
const SAMPLES: &str = "../../config";
const DEPLOY: &str = "../../deploy";

/// What fragments refer to, for those that do not define it themselves.
const SUPPLIED: [(&str, &str); 4] = [
    (
        "listener ",
        "listeners { listener \"supplied\" { address \"127.0.0.1:8080\" } }",
    ),
    (
        "upstream \"backend\" {",
        "upstreams { upstream \"backend\" { target \"127.0.0.1:3000\" } }",
    ),
    (
        "agent \"auth\" {",
        "agents { agent \"auth\" { unix-socket \"/run/auth.sock\" } }",
    ),
    (
        "agent \"waf\" {",
        "agents { agent \"waf\" { unix-socket \"/run/waf.sock\" } }",
    ),
];

/// Lower-case words in the sources of the language that are no settings: parts of messages, and spellings that are
/// answered with a hint.
const NOT_SETTINGS: [&str; 23] = [
    "a",
    "and",
    "b",
    "empty",
    "g",
    "h",
    "hosts",
    "hour",
    "k",
    "limit",
    "localhost",
    "m",
    "milli",
    "minute",
    "ms",
    "msec",
    "or",
    "paths",
    "rule",
    "s",
    "sec",
    "second",
    "unknown",
];

#[test]
fn every_block_of_kdl_in_the_documents_loads() {
    let mut blocks = 0;
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for (line, block) in blocks_of(&text) {
            let name = format!("{}:{line}", path.display());
            if let Err(errors) = load(&name, &completed(&block)) {
                panic!("{name} does not load:\n{errors}");
            }
            blocks += 1;
        }
    }
    assert!(blocks >= 12, "only {blocks} blocks were found");
}

#[test]
fn the_defaults_of_the_reference_are_those_of_the_program() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let section = reference.split("## Everything at its default").nth(1);
    let (_, written) = blocks_of(section.unwrap()).into_iter().next().unwrap();
    let shortest = r#"
        schema-version "1"
        listeners { listener "http" { address "127.0.0.1:8080" } }
        routes { route "all" { filters { agent "rules" }; upstream "app" } }
        upstreams { upstream "app" { target "127.0.0.1:3000" } }
        agents { agent "rules" { unix-socket "/run/portcullis/agents/rules.sock" } }
    "#;
    let config = |text: &str| -> Config { load("defaults.kdl", text).unwrap().config };
    assert_eq!(config(&written), config(shortest));
}

#[test]
fn the_reference_names_every_setting() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let named = words_in_code(&reference);
    let mut missing = BTreeSet::new();
    for entry in fs::read_dir("src/kdl").unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        missing.extend(
            quoted_words(source)
                .filter(|word| !NOT_SETTINGS.contains(&word.as_str()))
                .filter(|word| !named.contains(word.as_str())),
        );
    }
    assert!(missing.is_empty(), "not in {REFERENCE}: {missing:?}");
}

#[test]
fn the_reference_lists_every_code() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let section = reference.split("## Mistakes and their codes").nth(1);
    let listed: BTreeSet<&str> = section
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let known: BTreeSet<&str> = code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, known);
}

#[test]
fn every_sample_loads_without_a_warning_and_is_listed() {
    let listed = fs::read_to_string(Path::new(SAMPLES).join("README.md")).unwrap();
    let samples = fixtures::files(SAMPLES);
    for name in &samples {
        match load_file(&Path::new(SAMPLES).join(name), &fixtures::environment) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{name}:\n{}", loaded.warnings),
            Err(errors) => panic!("{name} does not load:\n{errors}"),
        }
        assert!(
            listed.contains(&format!("| [{name}]({name}) |")),
            "{name} is not in config/README.md"
        );
    }
    let rows = listed.lines().filter(|line| line.starts_with("| ["));
    assert_eq!(
        rows.count(),
        samples.len(),
        "a sample is listed that is not there"
    );
}

#[test]
fn every_configuration_to_deploy_loads_without_a_warning() {
    let mut found = 0;
    let mut folders = vec![PathBuf::from(DEPLOY)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            let extension = path.extension().unwrap_or_default();
            let text = match extension.to_str().unwrap() {
                "kdl" => fs::read_to_string(&path).unwrap(),
                "yaml" => match in_yaml(&fs::read_to_string(&path).unwrap()) {
                    Some(text) => text,
                    None => continue,
                },
                _ if path.is_dir() => {
                    folders.push(path);
                    continue;
                }
                _ => continue,
            };
            match load(&name, &text) {
                Ok(loaded) => assert!(loaded.warnings.is_empty(), "{name}:\n{}", loaded.warnings),
                Err(errors) => panic!("{name} does not load:\n{errors}"),
            }
            found += 1;
        }
    }
    assert_eq!(found, 3, "configurations in {DEPLOY}");
}

/// The text of `portcullis.kdl: |` in a ConfigMap.
fn in_yaml(text: &str) -> Option<String> {
    let block = text.split("  portcullis.kdl: |\n").nth(1)?;
    let lines = block
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    Some(lines.map(|line| format!("{}\n", line.trim())).collect())
}

fn load(name: &str, text: &str) -> Result<Loaded, portcullis_config::Diagnostics> {
    // What is told to be there has to be there when it is read.
    let text = &text
        .replace("/run/secrets/", "../../tests/fixtures/secrets/")
        .replace("file=\"lists/", "file=\"../../tests/fixtures/lists/")
        .replace("file=\"pages/", "file=\"../../tests/fixtures/pages/")
        .replace("html=\"pages/", "html=\"../../config/pages/");
    load_str(name, text, Path::new("."), &fixtures::environment)
}

/// A fragment as a whole file: the version, and what it refers to and does not define.
fn completed(block: &str) -> String {
    if block.contains("schema-version") {
        return block.to_owned();
    }
    let mut text = format!("schema-version \"1\"\n{block}");
    for (definition, supplied) in SUPPLIED {
        if !block.contains(definition) {
            text.push_str(supplied);
            text.push('\n');
        }
    }
    text
}

/// README.md and all pages of docs.
fn documents() -> Vec<PathBuf> {
    let mut pages = vec![Path::new(ROOT).join("README.md")];
    let mut folders = vec![Path::new(ROOT).join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The texts between ```` ```kdl ```` and ```` ``` ````, with the number of their first line.
fn blocks_of(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            None if line == "```kdl" => open = Some((index + 2, String::new())),
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block of KDL has no end");
    blocks
}

/// Every word in the code of a page: between backticks, and in its blocks.
fn words_in_code(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c| !is_word(c)))
        .collect()
}

/// Strings that are a word of lower-case letters, digits and dashes.
fn quoted_words(source: &str) -> impl Iterator<Item = String> {
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|word| {
            word.bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
        .map(str::to_owned)
}
