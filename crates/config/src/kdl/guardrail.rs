//! `guardrail … { … }` of a route's filters.

use super::{
    cursor::{Block, Later, Node},
    filter::{self, ParsedAgentUse},
    inspect::{self, MAX_RATIO, MOST_RATIO},
    value::Value,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{
        AgentId, BodyEncoding, BodyInspection, BodyMode, ByteSize, GuardedBody, Inspection,
        JsonPointer, OnDetect, OnOversize, Otherwise, PointerToken,
    },
    source::{Span, Spanned},
};

/// A guardrail as it is written.
#[derive(Debug, Clone)]
pub(crate) struct ParsedGuardrail {
    pub(crate) used: ParsedAgentUse,
    pub(crate) inspection: Inspection,
    pub(crate) on_detect: OnDetect,
    /// The places are those of the nodes.
    pub(crate) request: Option<Spanned<GuardedBody>>,
    pub(crate) response: Option<Spanned<GuardedBody>>,
    pub(crate) model: Option<JsonPointer>,
    pub(crate) categories: Vec<String>,
}

impl ParsedGuardrail {
    /// The bodies that it sees, with the names that they have for agents.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = (&'static str, &Spanned<GuardedBody>)> {
        let request = self
            .request
            .iter()
            .map(|body| (inspect::REQUEST_BODY, body));
        let response = self.response.iter();
        request.chain(response.map(|body| (inspect::RESPONSE_BODY, body)))
    }
}

/// A text has to fit a message of the protocol, also when it is written in JSON.
const MOST_BYTES: ByteSize = ByteSize::mib(8);
const LEAST_BYTES: ByteSize = ByteSize(1);
const BODY_BYTES: ByteSize = ByteSize::mib(1);
/// One body is many questions, one after the other.
const MOST_TEXTS: u32 = 1024;
const MAX_TEXTS: usize = 64;
const MOST_POINTERS: usize = 64;
const MOST_TOKENS: usize = 32;

const STATUS: u16 = 403;
const REPLACEMENT: &str = "[redacted]";

const LATER: &[Later] = &[Later::with_remedy(
    "mode",
    "leave it out: a guardrail is not asked in the shadow; `on-detect=\"log\"` asks it and lets everything pass",
)];

pub(super) fn guardrail(node: &mut Node<'_>) -> Option<ParsedGuardrail> {
    node.later_properties(LATER);
    let agent = required(node, "agent", "agent=\"pii\"")
        .and_then(|value| Some(value.spanned(AgentId::from(value.text()?))));
    let inspection = required(node, "inspect", "inspect=\"prompt-injection\"").and_then(inspection);
    let timeout = node.property("timeout").and_then(|value| value.timeout());
    let failure_mode = node.property("failure-mode").and_then(filter::failure_mode);
    let on_detect = on_detect(node);
    let span = node.span();
    let (request, response, model, categories) = node.block(|block| {
        let request = block.one("request", |node| body(node, OF_REQUEST));
        let response = block.one("response", |node| body(node, OF_RESPONSE));
        if request.is_none() && response.is_none() {
            missing_bodies(block, span);
        }
        (
            request,
            response,
            block.one("model", model),
            block.one("categories", |node| Some(categories(node))),
        )
    });
    Some(ParsedGuardrail {
        used: ParsedAgentUse {
            agent: agent?,
            timeout,
            failure_mode,
            shadow: None,
        },
        inspection: inspection?,
        on_detect: on_detect?,
        // One that is wrongly written was reported.
        model,
        categories: categories.unwrap_or_default(),
        request: request.flatten(),
        response: response.flatten(),
    })
}

const OF_REQUEST: &str = "where its texts are, such as \"/messages/*/content\"";
const OF_RESPONSE: &str = "where its texts are, such as \"/choices/*/message/content\"";

fn missing_bodies(block: &Block<'_>, span: Span) {
    block.report(
        Diagnostic::error(code::MISSING, span, "this guardrail sees nothing")
            .label("has no `request` and no `response`")
            .help("write such as `{ request \"/messages/*/content\" }` behind it"),
    );
}

fn required<'a>(node: &mut Node<'a>, name: &'static str, such_as: &str) -> Option<Value<'a>> {
    let value = node.property(name);
    if value.is_none() {
        node.report(
            Diagnostic::error(
                code::MISSING,
                node.name_span(),
                format!("`guardrail` needs `{name}`"),
            )
            .help(format!("add such as `{such_as}`")),
        );
    }
    value
}

fn inspection(value: Value<'_>) -> Option<Inspection> {
    value.choice(
        &[
            ("prompt-injection", Inspection::PromptInjection),
            ("pii-detection", Inspection::PiiDetection),
        ],
        &[],
    )
}

#[derive(Clone, Copy, PartialEq)]
enum Consequence {
    Block,
    Redact,
    Log,
}

fn on_detect(node: &mut Node<'_>) -> Option<OnDetect> {
    let choices = [
        ("block", Consequence::Block),
        ("redact", Consequence::Redact),
        ("log", Consequence::Log),
    ];
    let written = node.property("on-detect");
    let chosen = match written {
        Some(value) => value.choice(&choices, &[]),
        None => Some(Consequence::Block),
    };
    let status = node.property("status");
    let replacement = node.property("replacement");
    // All that is written is read, so that all mistakes show.
    let own_status = status.and_then(|value| value.integer(400..=599));
    let own_replacement = replacement.and_then(|value| value.text());
    let chosen = chosen?;
    for (value, useless) in [
        (status, chosen == Consequence::Log),
        (replacement, chosen != Consequence::Redact),
    ] {
        if let (Some(value), true) = (value, useless) {
            let mut diagnostic = value
                .error(code::CONTRADICTION, "this has no effect here")
                .help("remove it, or write another `on-detect`");
            if let Some(written) = written {
                diagnostic = diagnostic.also(written.span(), "this is what happens");
            }
            value.report(diagnostic);
        }
    }
    let status = own_status.unwrap_or(STATUS);
    Some(match chosen {
        Consequence::Block => OnDetect::Block { status },
        Consequence::Redact => OnDetect::Redact {
            replacement: own_replacement.unwrap_or_else(|| REPLACEMENT.to_owned()),
            status,
        },
        Consequence::Log => OnDetect::Log,
    })
}

/// The inner one is None when a place in it is wrong, which was reported.
fn body(node: &mut Node<'_>, what: &str) -> Option<Option<Spanned<GuardedBody>>> {
    let oversize = [("fail", OnOversize::Fail), ("skip", OnOversize::Skip)];
    let otherwise = [("fail", Otherwise::Fail), ("pass", Otherwise::Pass)];
    let written = node.arguments(what);
    if let Some(one_more) = written.get(MOST_POINTERS) {
        one_more.report(
            one_more
                .error(code::OUT_OF_RANGE, "there are too many places")
                .help(format!("write {MOST_POINTERS} at most")),
        );
    }
    let texts: Vec<Option<JsonPointer>> = written.into_iter().map(pointer).collect();
    let body = BodyInspection {
        mode: BodyMode::Buffer,
        limit: node
            .property("limit")
            .and_then(|value| value.size(LEAST_BYTES..=MOST_BYTES))
            .or(Some(BODY_BYTES)),
        on_oversize: node
            .property("on-oversize")
            .and_then(|value| value.choice(&oversize, &[]))
            .unwrap_or_default(),
        encoding: BodyEncoding::Decode,
        max_ratio: node
            .property("max-ratio")
            .and_then(|value| value.integer(1..=MOST_RATIO))
            .unwrap_or(MAX_RATIO),
        read_only: false,
    };
    let max_texts = node
        .property("max-texts")
        .and_then(|value| value.count(1..=MOST_TEXTS));
    let mut choice = |name| {
        node.property(name)
            .and_then(|value| value.choice(&otherwise, &[]))
    };
    let (not_json, unmatched) = (choice("not-json"), choice("unmatched"));
    let texts: Option<Vec<JsonPointer>> = texts.into_iter().collect();
    let texts = texts.filter(|texts| !texts.is_empty());
    Some(texts.map(|texts| Spanned {
        value: GuardedBody {
            texts,
            body,
            max_texts: max_texts.unwrap_or(MAX_TEXTS),
            not_json: not_json.unwrap_or(Otherwise::Fail),
            unmatched: unmatched.unwrap_or(Otherwise::Pass),
        },
        span: node.span(),
    }))
}

fn model(node: &mut Node<'_>) -> Option<JsonPointer> {
    let value = node.argument("where a body names its model, such as \"/model\"")?;
    let pointer = pointer(value)?;
    if pointer.0.contains(&PointerToken::Any) {
        value.report(
            value
                .error(code::INVALID_VALUE, "a body names one model")
                .label("`*` is any number of places")
                .help("write one place, such as \"/model\""),
        );
        return None;
    }
    Some(pointer)
}

fn categories(node: &mut Node<'_>) -> Vec<String> {
    let written = node.arguments("words that the agent knows, such as \"email\"");
    let words = written.into_iter();
    words.filter_map(|value| value.nonempty_text()).collect()
}

/// A place in JSON: RFC 6901, and `*` for all that there is at a place.
fn pointer(value: Value<'_>) -> Option<JsonPointer> {
    let text = value.text()?;
    let wrong = |message: &str, help: &str| {
        value.report(
            value
                .error(code::INVALID_VALUE, format!("`{text}` {message}"))
                .help(help),
        );
    };
    if text.is_empty() {
        // The whole document.
        return Some(JsonPointer(Vec::new()));
    }
    let Some(rest) = text.strip_prefix('/') else {
        wrong(
            "is not a place in JSON",
            "begin it with a `/`, as in \"/messages/*/content\"; \"\" is the whole body",
        );
        return None;
    };
    let tokens: Vec<&str> = rest.split('/').collect();
    if tokens.len() > MOST_TOKENS {
        wrong("is too deep", "write 32 steps at most");
        return None;
    }
    let tokens: Option<Vec<PointerToken>> = tokens.into_iter().map(token).collect();
    if tokens.is_none() {
        wrong(
            "has a `~` that means nothing",
            "write `~0` for a `~` and `~1` for a `/` in a name",
        );
    }
    tokens.map(JsonPointer)
}

fn token(written: &str) -> Option<PointerToken> {
    if written == "*" {
        return Some(PointerToken::Any);
    }
    let mut name = String::with_capacity(written.len());
    let mut rest = written.chars();
    while let Some(character) = rest.next() {
        name.push(match character {
            '~' => match rest.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return None,
            },
            character => character,
        });
    }
    Some(PointerToken::Named(name))
}
