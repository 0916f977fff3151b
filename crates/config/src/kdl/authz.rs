//! `ext-authz { … }` and `forward-auth { … }` of an agent.

use super::{
    cursor::{Block, Node},
    header,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{Authz, ByteSize, Dialect},
    source::{Span, Spanned},
};

/// More of an answer is no text for a person any more.
const MOST_BODY: ByteSize = ByteSize::mib(16);

/// One of the two blocks as it is written.
pub(crate) struct ParsedAuthz {
    /// Of the block's name.
    pub(crate) dialect: Dialect,
    pub(crate) settings: Authz,
    pub(crate) copy_headers: Vec<Spanned<String>>,
    /// What means something over gRPC alone: the name of the node and its place.
    pub(crate) of_grpc: Vec<(&'static str, Span)>,
    /// The same over HTTP.
    pub(crate) of_http: Vec<(&'static str, Span)>,
    /// Where `body-as-bytes` is written.
    pub(crate) body_as_bytes: Option<Span>,
    pub(crate) span: Span,
}

/// The blocks of an agent; at most one of them has an effect.
pub(super) fn blocks(block: &mut Block<'_>) -> Vec<ParsedAuthz> {
    [
        ("ext-authz", Dialect::ExtAuthz),
        ("forward-auth", Dialect::ForwardAuth),
    ]
    .into_iter()
    .filter_map(|(name, dialect)| block.one(name, |node| Some(authz(node, dialect))))
    .collect()
}

fn authz(node: &mut Node<'_>, dialect: Dialect) -> ParsedAuthz {
    let span = node.span();
    let mut parsed = ParsedAuthz {
        dialect,
        settings: Authz::default(),
        copy_headers: Vec::new(),
        of_grpc: Vec::new(),
        of_http: Vec::new(),
        body_as_bytes: None,
        span,
    };
    node.block(|block| {
        let ParsedAuthz {
            settings,
            of_grpc,
            of_http,
            copy_headers,
            body_as_bytes,
            ..
        } = &mut parsed;
        if let Some((patterns, span)) = block.one("copy-headers", |node| {
            Some((header::owned(node), node.span()))
        }) {
            settings.copy_headers = patterns.iter().map(|it| it.value.clone()).collect();
            of_http.push(("copy-headers", span));
            *copy_headers = patterns;
        }
        if let Some((patterns, span)) = block.one("copy-to-client", |node| {
            Some((header::changeable(node, header::Change::Set), node.span()))
        }) {
            settings.copy_to_client = patterns.into_iter().map(|it| it.value).collect();
            of_http.push(("copy-to-client", span));
        }
        if let Some((size, span)) = block.one("max-body", |node| {
            let value = node.argument("a size such as \"64KiB\"")?;
            Some((value.size(ByteSize(1)..=MOST_BODY)?, node.span()))
        }) {
            settings.max_body = size;
            of_http.push(("max-body", span));
        }
        match dialect {
            Dialect::ExtAuthz => {
                if let Some((context, span)) =
                    block.one("context", |node| Some((context(node), node.span())))
                {
                    settings.context = context;
                    of_grpc.push(("context", span));
                }
                if let Some((as_bytes, span)) =
                    block.one("body-as-bytes", |node| Some((node.flag()?, node.span())))
                {
                    settings.body_as_bytes = as_bytes;
                    *body_as_bytes = Some(span);
                    of_grpc.push(("body-as-bytes", span));
                }
            }
            _ => {
                settings.relay_failures =
                    block.one("relay-failures", Node::flag).unwrap_or_default();
            }
        }
    });
    parsed
}

/// Each node is a name with its value.
fn context(node: &mut Node<'_>) -> Vec<(String, String)> {
    let context = node.context();
    let raw = node.take_raw();
    for entry in raw.entries() {
        context.report.add(
            Diagnostic::error(
                code::EXTRA_ARGUMENT,
                context.span(entry.span()),
                "`context` takes a block",
            )
            .help("write `context { name \"value\" }`"),
        );
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    for child in raw.children().map_or(&[][..], ::kdl::KdlDocument::nodes) {
        Node::read(context, child, |node| {
            let name = node.name().to_owned();
            let value = node
                .argument("a value in quotation marks")
                .and_then(|value| value.text());
            if pairs.iter().any(|(known, _)| *known == name) {
                node.report(
                    Diagnostic::error(
                        code::REPEATED,
                        node.name_span(),
                        format!("`{name}` is written twice"),
                    )
                    .help("remove one of them"),
                );
                return;
            }
            if let Some(value) = value {
                pairs.push((name, value));
            }
        });
    }
    pairs
}
