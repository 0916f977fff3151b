//! KDL into data, one file per block of the language, with the names of the model.
//!
//! What comes out is [`Parsed`]: the model with what the text alone can say. References are names with their places,
//! what was not written is `None`. The checks look at it, and `resolve` makes the model of it.

mod address;
mod admin;
mod agent;
mod condition;
mod cursor;
mod defaults;
mod filter;
mod header;
mod json;
mod listener;
mod observability;
mod route;
mod system;
mod unit;
mod upstream;
mod value;

pub(crate) use agent::ParsedAgent;
pub(crate) use condition::ParsedMatch;
pub(crate) use cursor::Context;
pub(crate) use defaults::Defaults;
pub(crate) use filter::{ParsedAgentUse, ParsedChain, ParsedFilter};
pub(crate) use listener::ParsedListener;
pub(crate) use route::{ParsedAction, ParsedRoute};
pub(crate) use upstream::{ParsedOrigin, ParsedUpstream};

use crate::{
    diagnostic::{Diagnostic, code},
    model::{AdminAddress, Observability, System},
    source::{Span, Spanned},
};
use ::kdl::KdlDocument;
use cursor::Node;
use std::net::SocketAddr;

/// All files of a configuration, merged.
#[derive(Default)]
pub(crate) struct Parsed {
    pub(crate) system: Option<Spanned<System>>,
    /// The places are those of the address.
    pub(crate) admin: Option<Spanned<Option<Spanned<AdminAddress>>>>,
    pub(crate) probes: Option<Spanned<Option<Spanned<SocketAddr>>>>,
    pub(crate) defaults: Option<Spanned<Defaults>>,
    pub(crate) listeners: Vec<ParsedListener>,
    pub(crate) routes: Vec<ParsedRoute>,
    pub(crate) chains: Vec<ParsedChain>,
    pub(crate) upstreams: Vec<ParsedUpstream>,
    pub(crate) agents: Vec<ParsedAgent>,
    pub(crate) observability: Option<Spanned<Observability>>,
}

/// What a file is in its configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The file that was named: it must say the version of the language.
    Main,
    /// It was included.
    Included,
}

/// The version of the language that this program reads.
const SCHEMA_VERSION: &str = "1";

/// Nodes at the top of a file, in the order of the reference.
const TOP: [&str; 10] = [
    "include",
    "system",
    "admin",
    "probes",
    "defaults",
    "listeners",
    "routes",
    "filters",
    "upstreams",
    "agents",
];

/// Reads one file into what is there already. `include` is called where one is written, so that the lists are in the
/// order in which a reader meets them.
pub(crate) fn read_document(
    context: &Context<'_>,
    document: &KdlDocument,
    role: Role,
    parsed: &mut Parsed,
    include: &mut dyn FnMut(&mut Parsed, Spanned<String>),
) {
    cursor::document(context, document, |block| {
        let version = block.one("schema-version", |node| {
            schema_version(node);
            Some(())
        });
        if role == Role::Main && version.is_none() {
            block.report(
                Diagnostic::error(
                    code::SCHEMA_VERSION,
                    block.owner(),
                    "the file does not say its schema version",
                )
                .help(format!(
                    "begin it with `schema-version \"{SCHEMA_VERSION}\"`"
                )),
            );
        }
        let mut names = TOP.to_vec();
        names.push("observability");
        block.each(&names, |node| read_top(node, parsed, include));
    });
}

fn schema_version(node: &mut Node<'_>) {
    let Some(value) = node.argument("the version of the language, \"1\"") else {
        return;
    };
    let Some(text) = value.text() else { return };
    if text != SCHEMA_VERSION {
        value.report(
            value
                .error(
                    code::SCHEMA_VERSION,
                    format!("this program does not read schema version `{text}`"),
                )
                .help(format!(
                    "write \"{SCHEMA_VERSION}\", or use a release that reads it"
                )),
        );
    }
}

fn read_top(
    node: &mut Node<'_>,
    parsed: &mut Parsed,
    include: &mut dyn FnMut(&mut Parsed, Spanned<String>),
) {
    match node.name() {
        "include" => {
            let value = node.argument("the path of a file, or a pattern such as \"conf.d/*.kdl\"");
            if let Some((value, path)) =
                value.and_then(|value| Some((value, value.nonempty_text()?)))
            {
                include(parsed, value.spanned(path));
            }
        }
        "system" => single(&mut parsed.system, node, system::system),
        "admin" => single(&mut parsed.admin, node, admin::admin),
        "probes" => single(&mut parsed.probes, node, admin::probes),
        "defaults" => single(&mut parsed.defaults, node, defaults::defaults),
        "observability" => single(
            &mut parsed.observability,
            node,
            observability::observability,
        ),
        "listeners" => list(&mut parsed.listeners, node, "listener", listener::listener),
        "routes" => list(&mut parsed.routes, node, "route", route::route),
        "filters" => list(&mut parsed.chains, node, "chain", filter::chain),
        "upstreams" => list(&mut parsed.upstreams, node, "upstream", upstream::upstream),
        "agents" => list(&mut parsed.agents, node, "agent", agent::agent),
        // `each` hands over only the names that it was given.
        _ => node.ignore_rest(),
    }
}

/// A block that may be written once in all files.
fn single<'a, T>(
    slot: &mut Option<Spanned<T>>,
    node: &mut Node<'a>,
    read: impl FnOnce(&mut Node<'a>) -> T,
) {
    let value = Spanned {
        value: read(node),
        span: node.name_span(),
    };
    match slot {
        None => *slot = Some(value),
        Some(first) => node.report(
            Diagnostic::error(
                code::REPEATED,
                value.span,
                format!(
                    "there can be one `{}` block, in all files together",
                    node.name()
                ),
            )
            .label("the second one")
            .also(first.span, "the first one")
            .help("put everything into one of them"),
        ),
    }
}

/// A block that holds things of one kind; all blocks of all files are one list.
fn list<'a, T>(
    items: &mut Vec<T>,
    node: &mut Node<'a>,
    name: &'static str,
    read: impl FnMut(&mut Node<'a>) -> Option<T>,
) {
    node.block(|block| items.extend(block.many(name, read)));
}

/// The place of a thing with a name: the line that begins it.
fn header_span(node: &Node<'_>) -> Span {
    node.span()
}
