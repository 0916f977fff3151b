//! KDL into data, one file per block of the language, with the names of the model.
//!
//! What comes out is [`Parsed`]: the model with what the text alone can say. References are names with their places,
//! what was not written is `None`. The checks look at it, and `resolve` makes the model of it.

mod action;
mod address;
mod address_list;
mod admin;
mod agent;
mod agent_endpoint;
mod agent_policy;
mod agent_pool;
mod agent_reverse;
mod agent_targets;
pub(crate) mod asked;
mod authz;
mod balance;
mod client_key;
mod compress;
mod condition;
mod connect;
mod cursor;
mod defaults;
mod error_pages;
mod ext_proc;
mod filter;
mod guardrail;
mod header;
mod health;
mod http2;
mod inspect;
mod json;
mod later;
mod limit;
mod listener;
mod listener_tls;
mod mirror;
mod observability;
mod reports;
mod retry;
mod rewrite;
mod route;
mod secret;
mod shadow;
mod split;
mod static_files;
mod system;
mod target;
mod unit;
mod upstream;
mod value;
mod verdict_cache;
mod verdict_trace;
mod websocket;

pub(crate) use action::ParsedAction;
pub(crate) use agent::ParsedAgent;
pub(crate) use agent_pool::PartialPool;
pub(crate) use condition::ParsedMatch;
pub(crate) use cursor::Context;
pub(crate) use defaults::Defaults;
pub(crate) use ext_proc::ParsedExtProc;
pub(crate) use filter::{ParsedAgentUse, ParsedChain, ParsedFilter, ParsedOwn};
pub(crate) use guardrail::ParsedGuardrail;
pub(crate) use header::is_token;
pub(crate) use inspect::ParsedInspect;
pub(crate) use listener::ParsedListener;
pub(crate) use listener_tls::{ParsedCertificate, ParsedListenerTls};
pub(crate) use mirror::ParsedMirror;
pub(crate) use route::ParsedRoute;
pub(crate) use shadow::ParsedShadow;
pub(crate) use split::{ParsedMember, ParsedSplit};
pub(crate) use upstream::{ParsedOrigin, ParsedUpstream};

use crate::{
    diagnostic::{Diagnostic, Report, code},
    model::{AdminAddress, ErrorPages, Observability, System},
    source::{Span, Spanned},
};
use ::kdl::KdlDocument;
use cursor::{Block, Node};
use std::{net::SocketAddr, time::Duration};

/// A duration as the language writes it, such as `250ms`, for those who take one elsewhere. It is longer than nothing.
///
/// # Errors
/// The text is not one; the error says why and what to do about it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match unit::duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(wrong) => Err(format!("{}: {}", wrong.message, wrong.help)),
    }
}

/// All files of a configuration, merged.
#[derive(Default)]
pub(crate) struct Parsed {
    pub(crate) system: Option<Spanned<System>>,
    /// The places are those of the address.
    pub(crate) admin: Option<Spanned<Option<Spanned<AdminAddress>>>>,
    pub(crate) probes: Option<Spanned<Option<Spanned<SocketAddr>>>>,
    pub(crate) defaults: Option<Spanned<Defaults>>,
    pub(crate) listeners: Vec<ParsedListener>,
    /// There is a listener, be it one that was reported as wrong and is not in the list.
    pub(crate) listener_written: bool,
    pub(crate) routes: Vec<ParsedRoute>,
    pub(crate) chains: Vec<ParsedChain>,
    pub(crate) upstreams: Vec<ParsedUpstream>,
    pub(crate) agents: Vec<ParsedAgent>,
    pub(crate) observability: Option<Spanned<Observability>>,
    pub(crate) error_pages: Option<Spanned<ErrorPages>>,
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

/// Blocks that hold things of one kind. All of one name, in all files, are one list.
pub(crate) const LISTS: [&str; 5] = ["listeners", "routes", "filters", "upstreams", "agents"];

/// Nodes at the top of a file.
const TOP: [&str; 13] = [
    "schema-version",
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
    "observability",
    "error-pages",
];

/// What to do where an `include` is written, so that lists are in the order in which a reader meets them.
type Include<'a> = &'a mut dyn FnMut(&mut Parsed, Spanned<String>);

/// A file that is being read, a piece at a time.
#[derive(Default)]
pub(crate) struct File {
    version: Option<Span>,
}

impl File {
    /// Reads a piece into what is there already. `list` is the block that it was cut out of.
    pub(crate) fn read(
        &mut self,
        context: &Context<'_>,
        document: &KdlDocument,
        list: Option<Spanned<&str>>,
        parsed: &mut Parsed,
        include: Include<'_>,
    ) {
        let name = list.as_ref().map(|list| list.value);
        cursor::document(context, document, list, |block| match name {
            Some(name) => read_list(block, name, parsed),
            None => block.each(&TOP, |node| self.read_top(node, parsed, include)),
        });
    }

    /// What only a whole file can lack.
    pub(crate) fn finish(self, source: u32, role: Role, report: &Report) {
        if role == Role::Main && self.version.is_none() {
            let start = Span::new(source, 0..0);
            report.add(
                Diagnostic::error(
                    code::SCHEMA_VERSION,
                    start,
                    "the file does not say its schema version",
                )
                .help(format!(
                    "begin it with `schema-version \"{SCHEMA_VERSION}\"`"
                )),
            );
        }
    }

    fn read_top(&mut self, node: &mut Node<'_>, parsed: &mut Parsed, include: Include<'_>) {
        match node.name() {
            "schema-version" => self.schema_version(node),
            "include" => {
                let value =
                    node.argument("the path of a file, or a pattern such as \"conf.d/*.kdl\"");
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
            "error-pages" => single(&mut parsed.error_pages, node, error_pages::error_pages),
            "observability" => single(
                &mut parsed.observability,
                node,
                observability::observability,
            ),
            list => node.block(|block| read_list(block, list, parsed)),
        }
    }

    fn schema_version(&mut self, node: &mut Node<'_>) {
        if let Some(first) = self.version.replace(node.span()) {
            node.report(
                Diagnostic::error(
                    code::REPEATED,
                    node.span(),
                    "`schema-version` is written twice",
                )
                .label("the second time")
                .also(first, "the first time")
                .help("keep one of the two"),
            );
        }
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
}

fn read_list(block: &mut Block<'_>, name: &str, parsed: &mut Parsed) {
    match name {
        "listeners" => block.each(&["listener"], |node| {
            parsed.listener_written = true;
            parsed.listeners.extend(listener::listener(node));
        }),
        "routes" => block.each(&["route"], |node| parsed.routes.extend(route::route(node))),
        "filters" => block.each(&["chain"], |node| parsed.chains.extend(filter::chain(node))),
        "upstreams" => block.each(&["upstream"], |node| {
            parsed.upstreams.extend(upstream::upstream(node))
        }),
        _ => block.each(&["agent"], |node| parsed.agents.extend(agent::agent(node))),
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

/// The place of a thing with a name: the line that begins it.
fn header_span(node: &Node<'_>) -> Span {
    node.span()
}
