//! `error-pages { … }`, at the top of a file and in a route.

use super::{
    cursor::{Block, Node},
    value::Value,
};
use crate::{
    diagnostic::{code, list},
    files,
    model::{ErrorPage, ErrorPages, PagePart},
    source::Span,
};
use std::{collections::HashMap, sync::Arc};

/// A page is in memory, and sent whole.
const MOST_BYTES: usize = 1 << 20;

/// What can stand between braces in a page.
const VARIABLES: [(&str, PagePart); 3] = [
    ("status", PagePart::Status),
    ("status.text", PagePart::StatusText),
    ("request.id", PagePart::RequestId),
];

pub(super) fn error_pages(node: &mut Node<'_>) -> ErrorPages {
    let problem = node.error(code::MISSING, "`error-pages` changes nothing");
    node.block(|block| {
        if block.is_empty() {
            block.report(problem.help(
                "add lines such as `page 404 html=\"404.html\"` or `problem-json`, or remove the block",
            ));
        }
        ErrorPages {
            problem_json: block.one("problem-json", |node| node.flag()),
            pages: pages(block),
        }
    })
}

fn pages(block: &mut Block<'_>) -> Vec<ErrorPage> {
    // Where each status has its page; 0 is all others.
    let mut known: HashMap<u16, Span> = HashMap::new();
    let mut pages = Vec::new();
    block.each(&["page"], |node| {
        let Some(page) = page(node) else { return };
        let others = [0];
        let statuses = match page.statuses.as_slice() {
            [] => &others[..],
            statuses => statuses,
        };
        for status in statuses {
            let Some(first) = known.insert(*status, node.span()) else {
                continue;
            };
            let message = match status {
                0 => "two pages are for all other statuses".to_owned(),
                status => format!("two pages are for the status {status}"),
            };
            node.report(
                node.error(code::REPEATED, message)
                    .label("the second")
                    .also(first, "the first")
                    .help("keep one of them"),
            );
        }
        pages.push(page);
    });
    pages
}

fn page(node: &mut Node<'_>) -> Option<ErrorPage> {
    let html = node.property("html");
    let mut statuses = Vec::new();
    while let Some(value) = node.optional_argument() {
        statuses.push(value.integer(400..=599_u16));
    }
    let Some(html) = html else {
        node.report(
            node.error(code::MISSING, "this `page` has no file")
                .help("write html=\"…\" with the path of a file of HTML"),
        );
        return None;
    };
    let text = read(html)?;
    let html = parse(html, &text)?;
    Some(ErrorPage {
        statuses: statuses.into_iter().collect::<Option<_>>()?,
        html,
    })
}

fn read(value: Value<'_>) -> Option<String> {
    let path = value.path()?;
    let error = match files::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) if text.len() <= MOST_BYTES => return Some(text),
        Ok(Ok(_)) => "it is larger than 1MiB".to_owned(),
        Ok(Err(_)) => "it is not UTF-8".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot read the page in `{}`: {error}", path.display());
    value.report(
        value
            .error(code::FILE, message)
            .help("write a page of HTML into this file"),
    );
    None
}

/// Pages have braces of their own, in styles and scripts. So a variable is a word in braces and nothing else is.
fn parse(value: Value<'_>, text: &str) -> Option<Arc<[PagePart]>> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        literal.push_str(before);
        let word = after.split_once('}').filter(|(word, _)| is_word(word));
        let Some((word, behind)) = word else {
            literal.push('{');
            rest = after;
            continue;
        };
        let Some((_, part)) = VARIABLES.iter().find(|(name, _)| *name == word) else {
            let names = VARIABLES.iter().map(|(name, _)| *name);
            let message =
                format!("the page has `{{{word}}}`, and there is no such variable in pages");
            value.report(value.error(code::UNKNOWN_VARIABLE, message).help(format!(
                "there are {}; if it is no variable, put a space behind its brace",
                list(names, "and")
            )));
            return None;
        };
        if !literal.is_empty() {
            parts.push(PagePart::Literal(std::mem::take(&mut literal)));
        }
        parts.push(part.clone());
        rest = behind;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(PagePart::Literal(literal));
    }
    Some(parts.into())
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'-' | b'_'))
}
