//! `ext-proc { … }` of an agent.

use super::cursor::{Block, Node};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{ExtProc, HeaderEncoding, OnClose, Overridable},
    source::{Span, Spanned},
};

/// How an agent that speaks ext-proc is spoken to, as it is written.
#[derive(Debug, Clone)]
pub(crate) struct ParsedExtProc {
    pub(crate) settings: ExtProc,
    /// Where these are written.
    pub(crate) response_trailers: Option<Span>,
    pub(crate) may_leave_out: Vec<Spanned<Overridable>>,
    pub(crate) observability: Option<Span>,
    pub(crate) on_close: Option<Span>,
    /// The first line that is about answers.
    pub(crate) about_answers: Option<Span>,
    /// That of the node.
    pub(crate) span: Span,
}

pub(super) fn ext_proc(node: &mut Node<'_>) -> ParsedExtProc {
    let span = node.span();
    node.block(|block| {
        if block.is_empty() {
            block.report(
                Diagnostic::error(code::MISSING, span, "this `ext-proc` says nothing")
                    .help("remove it: without it everything is as in Envoy"),
            );
        }
        let header_encoding = block.one("header-encoding", |node| {
            let words = [
                ("raw", HeaderEncoding::Raw),
                ("string", HeaderEncoding::String),
            ];
            node.argument("\"raw\" or \"string\"")?.choice(&words, &[])
        });
        let response_trailers = flag(block, "response-trailers");
        let observability = flag(block, "observability");
        let on_close = block.one("on-close", |node| {
            let words = [("fail", OnClose::Fail), ("allow", OnClose::Allow)];
            let value = node.argument("\"fail\" or \"allow\"")?;
            Some((value.choice(&words, &[])?, node.span()))
        });
        let max_message_timeout = block.one("max-message-timeout", |node| {
            let value = node.argument("a duration, such as \"1s\"")?;
            Some((value.timeout()?, node.span()))
        });
        let may_leave_out = block.one("allow-mode-override", |node| {
            Some((overridable(node), node.span()))
        });
        let may_leave_out =
            may_leave_out.map_or((Vec::new(), None), |(parts, span)| (parts, Some(span)));
        let on =
            |written: Option<(bool, Span)>| written.filter(|(on, _)| *on).map(|(_, span)| span);
        let about_answers = [
            on_close.map(|(_, span)| span),
            max_message_timeout.map(|(_, span)| span),
            may_leave_out.1,
        ];
        ParsedExtProc {
            settings: ExtProc {
                header_encoding: header_encoding.unwrap_or_default(),
                response_trailers: on(response_trailers).is_some(),
                may_leave_out: may_leave_out.0.iter().map(|part| part.value).collect(),
                max_message_timeout: max_message_timeout.map(|(time, _)| time),
                on_close: on_close.map(|(on_close, _)| on_close).unwrap_or_default(),
                observability: on(observability).is_some(),
            },
            response_trailers: on(response_trailers),
            may_leave_out: may_leave_out.0,
            observability: on(observability),
            on_close: on_close
                .filter(|(on_close, _)| *on_close == OnClose::Allow)
                .map(|(_, span)| span),
            about_answers: about_answers.into_iter().flatten().min(),
            span,
        }
    })
}

/// What is wrongly written was meant to be on.
fn flag(block: &mut Block<'_>, name: &'static str) -> Option<(bool, Span)> {
    block.one(name, |node| {
        Some((node.flag().unwrap_or(true), node.span()))
    })
}

fn overridable(node: &mut Node<'_>) -> Vec<Spanned<Overridable>> {
    let words = Overridable::ALL.map(|part| (part.name(), part));
    let mut parts: Vec<Spanned<Overridable>> = Vec::new();
    for value in node.arguments("what may be left out, such as \"request-body\"") {
        let Some(part) = value.choice(&words, &[]) else {
            continue;
        };
        if let Some(first) = parts.iter().find(|other| other.value == part) {
            value.report(
                value
                    .error(code::REPEATED, format!("`{}` is there twice", part.name()))
                    .also(first.span, "the first")
                    .help("remove one of them"),
            );
            continue;
        }
        parts.push(value.spanned(part));
    }
    parts
}
