//! `static "FOLDER" …`: files of a folder.

use super::{cursor::Node, value::Value};
use crate::{
    diagnostic::code,
    model::{Precompressed, StaticFiles},
};
use std::path::{Component, Path};

const INDEX: &str = "index.html";

pub(super) fn static_files(node: &mut Node<'_>) -> Option<StaticFiles> {
    let root = node.argument("a folder, such as \"/srv/www\"");
    let index = node.property("index");
    let fallback = node.property("fallback");
    let dot_files = node.property("dot-files");
    let precompressed = node.block(|block| block.one("precompressed", precompressed));
    let root = root.map(|value| value.path());
    let index = index.map_or_else(|| Some(INDEX.to_owned()), |value| below(value, true));
    let fallback = fallback.map(|value| below(value, false));
    let dot_files = dot_files.map_or(Some(false), |value| value.boolean());
    Some(StaticFiles {
        root: root??,
        index: index?,
        fallback: match fallback {
            Some(fallback) => Some(fallback?),
            None => None,
        },
        precompressed: precompressed.unwrap_or_default(),
        dot_files: dot_files?,
    })
}

/// The name of a file in a folder, or its path below it.
fn below(value: Value<'_>, is_name: bool) -> Option<String> {
    let text = value.nonempty_text()?;
    let mut parts = Path::new(&text).components();
    let all_names = parts.all(|part| matches!(part, Component::Normal(_)));
    let is_clean = all_names && !text.ends_with('/') && !text.contains('\0');
    if is_clean && !(is_name && text.contains('/')) {
        return Some(text);
    }
    let help = if is_name {
        "write the name of a file without its folder, such as \"index.html\""
    } else {
        "write the path of a file below the folder that is served, such as \"index.html\""
    };
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` is not a file of this folder"),
            )
            .help(help),
    );
    None
}

fn precompressed(node: &mut Node<'_>) -> Option<Vec<Precompressed>> {
    let choices = [
        ("br", Precompressed::Brotli),
        ("zstd", Precompressed::Zstd),
        ("gzip", Precompressed::Gzip),
    ];
    let mut found = Vec::new();
    for value in node.arguments("codings, such as \"br\" \"gzip\"") {
        let Some(coding) = value.choice(&choices, &[]) else {
            continue;
        };
        if found.contains(&coding) {
            value.report(
                value
                    .error(code::REPEATED, "this coding is written twice")
                    .help("remove one of them"),
            );
            continue;
        }
        found.push(coding);
    }
    Some(found)
}
