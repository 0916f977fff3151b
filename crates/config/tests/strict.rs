//! Nothing is accepted and ignored: whatever is added to a good file is refused or means something, whatever is taken
//! away is missed, and no value is read as another type than it has.
//!
//! The good files are those of `tests/fixtures/valid`. What stands in `config` and `env` blocks belongs to agents and is
//! left alone.

mod fixtures;

use kdl::{KdlDocument, KdlDocumentFormat, KdlEntry, KdlNode, KdlNodeFormat, KdlValue};
use portcullis_config::{Config, Diagnostics, Span, diagnostic::code, load_str};
use std::{collections::BTreeSet, path::Path};

const FOLDER: &str = "../../tests/fixtures/valid";
/// One that this language does not have, and that is like none that it has.
const SURPLUS: &str = "qqqqqq";
const FREE_FORM: [&str; 2] = ["config", "env"];

/// Lines and properties that say what would hold without them.
const SAID_ANYWAY: [&str; 7] = [
    "balance \"round-robin\"",
    "deflate \"refuse\"",
    "dialect \"v2\"",
    "h2c #false",
    "header present",
    "inspect {\nrequest-headers\n}",
    "request-headers #false",
];

#[test]
fn d20_an_unknown_property_is_refused_wherever_it_is_written() {
    for (name, document) in documents() {
        let text = changed_everywhere(&document, &mut |node| {
            node.push(KdlEntry::new_prop(SURPLUS, 1));
        });
        assert_all_refused(&name, &text, |node| {
            let property = node.entry(SURPLUS).map(KdlEntry::span);
            property.into_iter().map(span).collect()
        });
    }
}

#[test]
fn d20_an_unknown_setting_is_refused_wherever_it_is_written() {
    for (name, document) in documents() {
        let text = changed_everywhere(&document, &mut |node| {
            node.ensure_children()
                .nodes_mut()
                .push(KdlNode::new(SURPLUS));
        });
        assert_all_refused(&name, &text, |node| match node.children() {
            // It takes no block, or an empty one: whatever is wrong with it is about what was added.
            Some(block) if block.nodes().len() == 1 => vec![span(node.span())],
            Some(block) => block
                .nodes()
                .last()
                .map(|surplus| span(surplus.span()))
                .into_iter()
                .collect(),
            None => Vec::new(),
        });
    }
}

#[test]
fn d20_a_value_of_another_type_is_refused_wherever_it_is_written() {
    for (name, document) in documents() {
        let text = changed_everywhere(&document, &mut |node| {
            for entry in node.entries_mut() {
                let other = match entry.value() {
                    KdlValue::String(_) => KdlValue::Integer(12_345),
                    _ => KdlValue::String(SURPLUS.to_owned()),
                };
                entry.set_value(other);
                entry.clear_format();
            }
        });
        assert_all_refused(&name, &text, |node| {
            let entries = node.entries().iter();
            entries.map(|entry| span(entry.span())).collect()
        });
    }
}

#[test]
fn d20_a_further_argument_is_refused_or_means_something() {
    let mut seen = BTreeSet::new();
    for (name, document) in documents() {
        let before = config(&document.to_string()).expect("it is a valid file");
        each_node(&document, &mut |changed, path| {
            if !seen.insert(signature(changed, path)) {
                return;
            }
            node_at(changed, path).push(KdlEntry::new(SURPLUS));
            let text = changed.to_string();
            if let Ok(after) = config(&text) {
                assert_ne!(after, before, "{name}: no effect:\n{text}");
            }
        });
    }
}

#[test]
fn d20_every_line_and_property_of_a_configuration_is_missed_when_it_is_gone() {
    let mut without_effect = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (_, document) in documents() {
        let before = config(&document.to_string()).expect("it is a valid file");
        let mut try_without = |removed: String, changed: &KdlDocument| {
            if config(&changed.to_string()).is_ok_and(|after| after == before) {
                without_effect.insert(removed);
            }
        };
        each_node(&document, &mut |changed, path| {
            if !seen.insert(signature(changed, path)) {
                return;
            }
            let node = node_at(changed, path).clone();
            for key in node.entries().iter().filter_map(KdlEntry::name) {
                let mut changed = changed.clone();
                node_at(&mut changed, path)
                    .entries_mut()
                    .retain(|entry| entry.name() != Some(key));
                try_without(format!("{} {key}", node.name().value()), &changed);
            }
            let (last, parents) = path.split_last().expect("a path has an end");
            let siblings = match parents {
                [] => changed.nodes_mut(),
                parents => node_at(changed, parents).ensure_children().nodes_mut(),
            };
            siblings.remove(*last);
            try_without(node.to_string().trim().to_owned(), changed);
        });
    }
    let without_effect: Vec<&str> = without_effect.iter().map(String::as_str).collect();
    assert_eq!(without_effect, SAID_ANYWAY);
}

#[test]
fn d20_what_no_release_has_served_yet_is_never_left_out_in_silence() {
    for listener in ["h3", "quic", "http3 #true"] {
        let text = format!(
            "schema-version \"1\"\nlisteners {{ listener \"l\" {{ address \"127.0.0.1:1\"; {listener} }} }}\n\
             routes {{ route \"r\" {{ respond 200 }} }}\n"
        );
        let Err(diagnostics) = config(&text) else {
            panic!("accepted: {listener}")
        };
        let codes: Vec<_> = diagnostics.iter().map(|found| found.code).collect();
        assert!(
            codes == [code::UNKNOWN_NODE] || codes == [code::NOT_SUPPORTED_YET],
            "{listener}: {diagnostics}"
        );
    }
}

/// The good files that stand for themselves and have nothing commented out.
fn documents() -> Vec<(String, KdlDocument)> {
    let documents: Vec<_> = fixtures::files(FOLDER)
        .into_iter()
        .filter_map(|name| {
            let text = std::fs::read_to_string(Path::new(FOLDER).join(&name)).ok()?;
            // Warnings are about lines without effect, so one file is all such lines.
            let whole =
                !text.contains("include ") && !text.contains("/-") && name != "warnings.kdl";
            whole.then(|| {
                let mut document: KdlDocument = text.parse().expect("it is a valid file");
                spread(&mut document);
                (name, document)
            })
        })
        .collect();
    assert!(documents.len() >= 8, "only {} files", documents.len());
    documents
}

/// Puts each node on a line of its own, so that a new one does not run into its neighbours. Values stay as they are
/// written: a raw text is something else than one in quotation marks.
fn spread(document: &mut KdlDocument) {
    document.set_format(KdlDocumentFormat::default());
    for node in document.nodes_mut() {
        node.set_format(KdlNodeFormat {
            leading: "\n".to_owned(),
            before_children: " ".to_owned(),
            terminator: "\n".to_owned(),
            ..KdlNodeFormat::default()
        });
        if let Some(children) = node.children_mut() {
            spread(children);
        }
    }
}

fn config(text: &str) -> Result<Config, Diagnostics> {
    load_str(
        "strict.kdl",
        text,
        Path::new("/etc"),
        &fixtures::environment,
    )
    .map(|loaded| loaded.config)
}

/// The text after a change of every node.
fn changed_everywhere(document: &KdlDocument, change: &mut dyn FnMut(&mut KdlNode)) -> String {
    fn go(document: &mut KdlDocument, change: &mut dyn FnMut(&mut KdlNode)) {
        for node in document.nodes_mut() {
            if FREE_FORM.contains(&node.name().value()) {
                continue;
            }
            if let Some(children) = node.children_mut() {
                go(children, change);
            }
            change(node);
        }
    }
    let mut document = document.clone();
    go(&mut document, change);
    document.to_string()
}

/// There is a mistake in each of the places that `wrong` names for the nodes of the text.
fn assert_all_refused(name: &str, text: &str, wrong: impl Fn(&KdlNode) -> Vec<Span>) {
    let Err(diagnostics) = config(text) else {
        panic!("{name}: accepted:\n{text}")
    };
    let document: KdlDocument = text.parse().expect("the change leaves it KDL");
    let mut places = 0;
    each_node(&document, &mut |changed, path| {
        for place in wrong(node_at(changed, path)) {
            places += 1;
            assert!(
                diagnostics.iter().any(|found| {
                    let span = found.labels[0].span;
                    place.start <= span.start && span.end <= place.end
                }),
                "{name}: accepted: {}",
                &text[place.start as usize..place.end as usize]
            );
        }
    });
    assert!(places > 0, "{name}: nothing was changed");
}

fn span(span: miette::SourceSpan) -> Span {
    let at = |offset: usize| u32::try_from(offset).expect("fixtures are short");
    Span {
        source: 0,
        start: at(span.offset()),
        end: at(span.offset() + span.len()),
    }
}

/// Calls `act` with a copy of the document and the way to a node, for every node.
fn each_node(document: &KdlDocument, act: &mut dyn FnMut(&mut KdlDocument, &[usize])) {
    fn paths(document: &KdlDocument, before: &[usize], found: &mut Vec<Vec<usize>>) {
        for (index, node) in document.nodes().iter().enumerate() {
            if FREE_FORM.contains(&node.name().value()) {
                continue;
            }
            let path = [before, &[index]].concat();
            if let Some(children) = node.children() {
                paths(children, &path, found);
            }
            found.push(path);
        }
    }
    let mut found = Vec::new();
    paths(document, &[], &mut found);
    for path in found {
        act(&mut document.clone(), &path);
    }
}

/// The names on the way to a node and its text: what is alike in two files is tried in one of them.
fn signature(document: &mut KdlDocument, path: &[usize]) -> String {
    let mut names: Vec<String> = (1..path.len())
        .map(|depth| node_at(document, &path[..depth]).name().value().to_owned())
        .collect();
    names.push(node_at(document, path).to_string());
    names.join("/")
}

fn node_at<'a>(document: &'a mut KdlDocument, path: &[usize]) -> &'a mut KdlNode {
    let (first, rest) = path.split_first().expect("a path has a beginning");
    let node = &mut document.nodes_mut()[*first];
    if rest.is_empty() {
        node
    } else {
        node_at(node.ensure_children(), rest)
    }
}
