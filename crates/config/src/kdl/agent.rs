//! `agents { agent "ID" { … } }`.

use super::{
    agent_endpoint::{self, Over},
    agent_policy::{self, AgentPolicy},
    agent_reverse,
    agent_targets::targets,
    authz::{self, ParsedAuthz},
    cursor::{Block, Later, Node},
    ext_proc::{self, ParsedExtProc},
    header, header_span,
    inspect::{self, ParsedInspect},
    json,
    reports::reports,
    value::Value,
    verdict_cache::verdict_cache,
};
use crate::{
    diagnostic::{Diagnostic, code},
    model::{
        AgentId, AgentTransport, BuiltinAgent, Dialect, Json, Reports, ReversePlace, SendHeaders,
        VerdictCache,
    },
    source::{Span, Spanned},
};
use std::path::PathBuf;

/// An agent as it is written.
pub(crate) struct ParsedAgent {
    pub(crate) id: Spanned<AgentId>,
    /// None: it was reported as wrong already.
    pub(crate) transport: Option<AgentTransport>,
    pub(crate) stateless: bool,
    pub(crate) dialect: Dialect,
    pub(crate) strict: bool,
    pub(crate) policy: AgentPolicy,
    pub(crate) inspect: ParsedInspect,
    pub(crate) owns_headers: Vec<Spanned<String>>,
    pub(crate) send_headers: SendHeaders,
    /// The place is that of the node.
    pub(crate) verdict_cache: Option<Spanned<VerdictCache>>,
    pub(crate) ext_proc: Option<ParsedExtProc>,
    pub(crate) reports: Reports,
    /// The blocks of dialects that ask once, of this one or not.
    pub(crate) authz: Vec<ParsedAuthz>,
    pub(crate) config: Option<Json>,
    /// Where that is written.
    pub(crate) config_span: Option<Span>,
    pub(crate) span: Span,
}

/// Also refused in `defaults { agent { … } }`.
pub(super) const LATER: &[Later] = &[
    Later::new("replicas"),
    Later::new("user"),
    Later::new("group"),
];

/// What tells an agent where its socket is. Set by us.
const SOCKET_VARIABLE: &str = "PORTCULLIS_AGENT_SOCKET";

pub(super) fn agent(node: &mut Node<'_>) -> Option<ParsedAgent> {
    let id = node.id();
    let span = header_span(node);
    node.block(|block| {
        block.later(LATER);
        let transport = transport(block, span);
        let stateless = block.one("stateless", |node| {
            node.flag().map(|flag| (flag, node.span()))
        });
        if let (Some((true, span)), Some(transport)) = (stateless, &transport) {
            refuse_single(block, transport, span);
        }
        let dialect = dialect(block, transport.as_ref(), span);
        let authz = authz::blocks(block);
        let config = block.one("config", |node| {
            let span = node.span();
            Some((json::object(node.context(), node.take_raw()), span))
        });
        let config_span = config.as_ref().map(|(_, span)| *span);
        Some(ParsedAgent {
            transport,
            stateless: stateless.is_some_and(|(stateless, _)| stateless),
            dialect,
            strict: strict(block, dialect),
            policy: agent_policy::policy(block),
            owns_headers: owns_headers(block, &authz),
            send_headers: block.one("send-headers", send_headers).unwrap_or_default(),
            inspect: block
                .one("inspect", |node| Some(inspect::inspect(node)))
                .unwrap_or_default(),
            verdict_cache: block.one("verdict-cache", |node| Some(verdict_cache(node))),
            reports: reports(block),
            ext_proc: block.one("ext-proc", |node| Some(ext_proc::ext_proc(node))),
            authz,
            config: config.and_then(|(config, _)| config),
            config_span,
            id: id?,
            span,
        })
    })
}

/// What only this agent may set: what is written, and what is copied from its answers.
fn owns_headers(block: &mut Block<'_>, authz: &[ParsedAuthz]) -> Vec<Spanned<String>> {
    let mut owned = block
        .one("owns-headers", |node| Some(header::owned(node)))
        .unwrap_or_default();
    let copied = authz.iter().flat_map(|block| &block.copy_headers);
    for pattern in copied {
        if !owned.iter().any(|known| known.value == pattern.value) {
            owned.push(pattern.clone());
        }
    }
    owned
}

/// With a single replica there is no other that an event could go to.
fn refuse_single(block: &Block<'_>, transport: &AgentTransport, stateless: Span) {
    if !transport.has_replicas() {
        block.report(
            Diagnostic::error(
                code::CONTRADICTION,
                stateless,
                "`stateless` has no effect on an agent without replicas",
            )
            .help("remove it, or name several targets, as in `unix-socket { target \"/run/a.sock\"; target \"/run/b.sock\" }`"),
        );
    }
}

/// What it is told of a request's headers.
fn send_headers(node: &mut Node<'_>) -> Option<SendHeaders> {
    let (is_empty, chosen) = node.block(|block| (block.is_empty(), chosen_headers(block)));
    if is_empty {
        node.report(
            node.error(code::MISSING, "this `send-headers` says nothing")
                .label("has no `except` and no `only`")
                .help("write `send-headers { except \"cookie\" }`, or remove it: every header is sent"),
        );
        // What is written beside the name was meant to be in the braces.
        node.ignore_rest();
    }
    chosen
}

/// None: nothing is chosen, or it was reported as wrong already.
fn chosen_headers(block: &mut Block<'_>) -> Option<SendHeaders> {
    let mut list = |name| {
        block.one(name, |node| {
            let patterns = header::patterns(node, "the names of headers, such as \"cookie\"");
            Some((patterns, node.span()))
        })
    };
    match (list("except"), list("only")) {
        (None, None) => None,
        (Some((except, _)), None) => Some(SendHeaders::Except(names(except))),
        (None, Some((only, span))) => {
            refuse_everything(block, &only, span);
            Some(SendHeaders::Only(names(only)))
        }
        (Some((_, except)), Some((_, only))) => {
            let (first, second) = (except.min(only), except.max(only));
            block.report(
                Diagnostic::error(
                    code::CONTRADICTION,
                    second,
                    "headers are chosen in two ways",
                )
                .label("the second")
                .also(first, "the first")
                .help("keep one of the two: `only` leaves out every other header already"),
            );
            None
        }
    }
}

/// `only "*"` would be accepted and leave nothing out.
fn refuse_everything(block: &Block<'_>, only: &[Spanned<String>], span: Span) {
    if only.iter().any(|pattern| pattern.value == "*") {
        block.report(
            Diagnostic::error(code::CONTRADICTION, span, "this leaves no header out")
                .help("name the headers that the agent needs, or remove `send-headers`"),
        );
    }
}

fn names(patterns: Vec<Spanned<String>>) -> Vec<String> {
    patterns.into_iter().map(|pattern| pattern.value).collect()
}

/// What it speaks, which has to fit how it is reached.
fn dialect(block: &mut Block<'_>, transport: Option<&AgentTransport>, agent: Span) -> Dialect {
    let written = block.one("dialect", |node| {
        Some(Spanned {
            value: agent_endpoint::dialect(node)?,
            span: node.span(),
        })
    });
    let dialect = written.as_ref().map(|dialect| dialect.value);
    let dialect = dialect.unwrap_or_default();
    let over = match transport {
        None => return dialect,
        Some(AgentTransport::Grpc(_)) => Over::Grpc,
        Some(AgentTransport::Http(_)) => Over::Http,
        Some(AgentTransport::Builtin { .. }) => Over::Builtin,
        Some(AgentTransport::Reverse(_)) => Over::Reverse,
        Some(_) => Over::Socket,
    };
    let span = written.map_or(agent, |dialect| dialect.span);
    if let Some(problem) = agent_endpoint::spoken(dialect, over, span) {
        block.report(problem);
    }
    if let Some(AgentTransport::Grpc(endpoints)) = transport
        && endpoints.iter().any(|endpoint| endpoint.package.is_some())
        && dialect != Dialect::V2
    {
        let name = dialect.name();
        block.report(
            Diagnostic::error(
                code::CONTRADICTION,
                span,
                format!("the service of `{name}` is always in the same package"),
            )
            .help("remove `package`"),
        );
    }
    dialect
}

/// Whether one bad change of a header is a failure.
fn strict(block: &mut Block<'_>, dialect: Dialect) -> bool {
    let written = block.one("strict", |node| Some((node.flag()?, node.span())));
    let Some((strict, span)) = written else {
        return false;
    };
    let name = dialect.name();
    let problem = match dialect {
        Dialect::ExtProc | Dialect::ExtAuthz => return strict,
        Dialect::V2 | Dialect::V1 => "is always strict",
        Dialect::ForwardAuth => "has nothing to be strict about: what is copied is in your lists",
    };
    block.report(
        Diagnostic::error(
            code::CONTRADICTION,
            span,
            format!("`strict` has no effect: `{name}` {problem}"),
        )
        .help("remove it"),
    );
    false
}

fn transport(block: &mut Block<'_>, span: Span) -> Option<AgentTransport> {
    let env = block.one("env", |node| Some((environment(node), node.span())));
    let (env, env_span) = env.map_or((Vec::new(), None), |(env, span)| (env, Some(span)));
    let tls = block.one("tls", |node| Some((agent_endpoint::tls(node), node.span())));
    let mut written: Vec<Spanned<Option<AgentTransport>>> = Vec::new();
    block.each(
        &[
            "unix-socket",
            "command",
            "builtin",
            "grpc",
            "http",
            "reverse",
        ],
        |node| {
            let transport = match node.name() {
                "unix-socket" => unix_socket(node, env_span),
                "command" => command(node, env.clone()),
                "builtin" => builtin(node, env.clone()),
                "grpc" => agent_endpoint::endpoints(node, tls.as_ref()).map(AgentTransport::Grpc),
                "http" => agent_endpoint::endpoints(node, tls.as_ref()).map(AgentTransport::Http),
                _ => {
                    refuse_env(node, env_span);
                    agent_reverse::reverse(node, tls.as_ref()).map(AgentTransport::Reverse)
                }
            };
            written.push(Spanned {
                value: transport,
                span: node.span(),
            });
        },
    );
    match written.as_slice() {
        [] => block.report(
            Diagnostic::error(
                code::MISSING,
                span,
                "it is not said how this agent is reached",
            )
            .label("no `unix-socket`, `command`, `builtin`, `grpc`, `http` or `reverse`")
            .help("add a line such as `unix-socket \"/run/portcullis/agents/waf.sock\"`"),
        ),
        [only] => {
            refuse_tls(block, only, tls.map(|(_, span)| span));
            return only.value.clone();
        }
        [first, second, ..] => block.report(
            Diagnostic::error(
                code::CONTRADICTION,
                second.span,
                "an agent is reached in one way",
            )
            .label("the second")
            .also(first.span, "the first")
            .help("keep one of them, or make two agents"),
        ),
    }
    None
}

/// `tls` means something only for an agent that is called over a network.
fn refuse_tls(block: &Block<'_>, way: &Spanned<Option<AgentTransport>>, tls: Option<Span>) {
    let is_local = |transport: &AgentTransport| match transport {
        AgentTransport::Grpc(_) | AgentTransport::Http(_) => false,
        AgentTransport::Reverse(reverse) => matches!(reverse.place, ReversePlace::Socket { .. }),
        AgentTransport::UnixSocket(_)
        | AgentTransport::Command { .. }
        | AgentTransport::Builtin { .. } => true,
    };
    if let Some(tls) = tls
        && way.value.as_ref().is_some_and(is_local)
    {
        block.report(
            Diagnostic::error(
                code::CONTRADICTION,
                tls,
                "`tls` has no effect on an agent that is reached over a Unix socket",
            )
            .also(way.span, "it is reached like this")
            .help("remove it"),
        );
    }
}

/// `env` means something only for an agent that we start.
fn refuse_env(node: &Node<'_>, env: Option<Span>) {
    if let Some(env) = env {
        node.report(
            Diagnostic::error(
                code::CONTRADICTION,
                env,
                "`env` has no effect on an agent that runs on its own",
            )
            .also(node.span(), "it is not started by us")
            .help("set its environment where it is started"),
        );
    }
}

fn unix_socket(node: &mut Node<'_>, env: Option<Span>) -> Option<AgentTransport> {
    refuse_env(node, env);
    let (what, such_as) = (
        "the path of the agent's socket",
        "\"/run/portcullis/agents/waf.sock\"",
    );
    targets(node, what, such_as, |value| value.socket_path("")).map(AgentTransport::UnixSocket)
}

fn builtin(node: &mut Node<'_>, env: Vec<(String, String)>) -> Option<AgentTransport> {
    let choices = [
        BuiltinAgent::BodyGuard,
        BuiltinAgent::Denylist,
        BuiltinAgent::Echo,
        BuiltinAgent::FrameGuard,
    ]
    .map(|agent| (agent.name(), agent));
    let name = node
        .argument("the name of a builtin agent")?
        .choice(&choices, &[])?;
    Some(AgentTransport::Builtin { name, env })
}

fn command(node: &mut Node<'_>, env: Vec<(String, String)>) -> Option<AgentTransport> {
    let program = node.argument("the path of a program")?;
    let path = program_path(program);
    let mut arguments = Vec::new();
    while let Some(value) = node.optional_argument() {
        let text = value.text()?;
        if text.contains('\0') {
            value.report(value.error(
                code::INVALID_VALUE,
                "an argument cannot contain a NUL character",
            ));
        }
        arguments.push(text);
    }
    Some(AgentTransport::Command {
        program: path?,
        arguments,
        env,
    })
}

fn program_path(value: Value<'_>) -> Option<PathBuf> {
    let text = value.text()?;
    if !text.contains('/') {
        value.report(
            value
                .error(code::INVALID_VALUE, format!("`{text}` is not a path"))
                .label("never looked up in PATH")
                .help(format!(
                    "write an absolute path, or \"./{text}\" for a program beside this file"
                )),
        );
        return None;
    }
    if text.ends_with('/') {
        value.report(
            value
                .error(code::INVALID_VALUE, format!("`{text}` is a folder"))
                .help("write the program's path"),
        );
        return None;
    }
    value.path()
}

/// Each node is a variable.
fn environment(node: &mut Node<'_>) -> Vec<(String, String)> {
    let context = node.context();
    let raw = node.take_raw();
    for entry in raw.entries() {
        context.report.add(
            Diagnostic::error(
                code::EXTRA_ARGUMENT,
                context.span(entry.span()),
                "`env` takes a block",
            )
            .help("write `env { NAME \"value\" }`"),
        );
    }
    let mut variables: Vec<(String, String)> = Vec::new();
    for child in raw.children().map_or(&[][..], ::kdl::KdlDocument::nodes) {
        Node::read(context, child, |node| {
            let name = node.name().to_owned();
            let value = node
                .argument("a value in quotation marks")
                .and_then(|value| value.text());
            if let Some(problem) = variable_problem(node, &name, &variables) {
                node.report(problem);
                return;
            }
            if let Some(value) = value {
                variables.push((name, value));
            }
        });
    }
    variables
}

fn variable_problem(
    node: &Node<'_>,
    name: &str,
    before: &[(String, String)],
) -> Option<Diagnostic> {
    let error = |code, message: String| Diagnostic::error(code, node.name_span(), message);
    if name.is_empty() || name.contains(['=', '\0']) {
        return Some(
            error(
                code::INVALID_VALUE,
                format!("`{name}` cannot be the name of a variable"),
            )
            .help("write `NAME \"value\"`, with a space between them"),
        );
    }
    if name == SOCKET_VARIABLE {
        return Some(
            error(code::CONTRADICTION, format!("`{name}` is set by the proxy")).help("remove it"),
        );
    }
    if before.iter().any(|(other, _)| other == name) {
        return Some(
            error(code::REPEATED, format!("`{name}` is set twice")).help("remove one of them"),
        );
    }
    None
}
