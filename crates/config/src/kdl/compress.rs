//! `compress` in `filters`.

use super::{
    cursor::{Block, Node},
    header,
    value::Value,
};
use crate::{
    diagnostic::code,
    model::{Algorithm, ByteSize, Compress, CompressLevels},
    source::Spanned,
};
use std::ops::RangeInclusive;

/// More is a slip of the unit.
const MOST_MIN_SIZE: ByteSize = ByteSize::mib(1 << 10);

/// What is text under whatever name, and what is known to become smaller.
const DEFAULT_TYPES: [&str; 12] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/xml",
    "application/*+xml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/otf",
    "font/ttf",
    "image/svg+xml",
    "image/x-icon",
];

pub(super) fn compress(node: &mut Node<'_>) -> Option<Spanned<Compress>> {
    let min_size = node
        .property("min-size")
        .map_or(Some(ByteSize::kib(1)), |value| {
            value.size(ByteSize(0)..=MOST_MIN_SIZE)
        });
    let span = node.span();
    let (algorithms, types, levels) = node.block(|block| {
        (
            block.one("algorithms", algorithms),
            block.one("types", types),
            levels(block),
        )
    });
    let default_types = || DEFAULT_TYPES.map(str::to_owned).into();
    let default_algorithms = || vec![Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip];
    Some(Spanned {
        value: Compress {
            min_size: min_size?,
            algorithms: algorithms.unwrap_or_else(default_algorithms),
            types: types.unwrap_or_else(default_types),
            levels,
        },
        span,
    })
}

fn algorithms(node: &mut Node<'_>) -> Option<Vec<Algorithm>> {
    let names = [
        ("zstd", Algorithm::Zstd),
        ("br", Algorithm::Br),
        ("gzip", Algorithm::Gzip),
    ];
    let values = node.arguments("one or more of \"zstd\", \"br\" and \"gzip\"");
    let mut algorithms = Vec::with_capacity(values.len());
    for value in values {
        let Some(algorithm) = value.choice(&names, &[]) else {
            continue;
        };
        if algorithms.contains(&algorithm) {
            report_twice(value, algorithm.name());
        } else {
            algorithms.push(algorithm);
        }
    }
    (!algorithms.is_empty()).then_some(algorithms)
}

fn types(node: &mut Node<'_>) -> Option<Vec<String>> {
    let values = node.arguments("media types, such as \"text/*\" or \"application/json\"");
    let mut types: Vec<String> = Vec::with_capacity(values.len());
    for value in values {
        let Some(written) = media_type(value) else {
            continue;
        };
        if types.contains(&written) {
            report_twice(value, &written);
        } else {
            types.push(written);
        }
    }
    (!types.is_empty()).then_some(types)
}

fn report_twice(value: Value<'_>, what: &str) {
    value.report(
        value
            .error(code::REPEATED, format!("`{what}` is written twice"))
            .help("keep one of the two"),
    );
}

/// `text/html`, `text/*` or `application/*+json`.
fn media_type(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?.to_ascii_lowercase();
    let is_type = |(kind, subtype): (&str, &str)| {
        let stars = subtype.matches('*').count();
        !kind.contains('*') && stars <= 1 && header::is_token(kind) && header::is_token(subtype)
    };
    if text.split_once('/').is_some_and(is_type) {
        return Some(text);
    }
    value.report(
        value
            .error(
                code::INVALID_VALUE,
                format!("`{text}` is not a media type without parameters"),
            )
            .help("write it such as \"application/json\", \"text/*\" or \"application/*+json\""),
    );
    None
}

fn levels(block: &mut Block<'_>) -> CompressLevels {
    let default = CompressLevels::default();
    let levels = block.one("levels", |node| {
        let mut level = |name, default, range: RangeInclusive<u8>| {
            node.property(name)
                .map_or(Some(default), |value| value.integer(range))
        };
        let levels = (
            level("zstd", default.zstd, 1..=12),
            level("br", default.br, 0..=9),
            level("gzip", default.gzip, 1..=9),
        );
        Some(CompressLevels {
            zstd: levels.0?,
            br: levels.1?,
            gzip: levels.2?,
        })
    });
    levels.unwrap_or(default)
}
