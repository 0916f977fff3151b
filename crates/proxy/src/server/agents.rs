//! From the agents of a configuration to what the manager and the supervisor have to know about them.

mod authz;
mod target;

use super::bytes;
use portcullis_agent_manager::{
    AgentSettings, BreakerSettings, CacheSettings, CompletionSettings, HeaderNames, HeaderRules,
    OverloadSettings, PoolSettings, ReportSettings, SendHeaders, supervise::Launch,
};
use portcullis_agent_protocol::{EventKind, ReverseAgent, Target};
use portcullis_config::{
    AgentId, AgentReverse, AgentTransport, Config, FailureMode, Filter, Inspect,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// How an agent is reached.
enum Way {
    /// It runs on its own and its replicas are here.
    Targets(Vec<Target>),
    /// The proxy starts it.
    Launch(Launch),
    /// It dials the proxy.
    Reverse(AgentReverse),
}

/// `executable` is the proxy's own.
///
/// # Errors
/// The agent's dialect is not spoken there.
fn way(agent: &portcullis_config::Agent, executable: &Path) -> Result<Way, String> {
    let launch = |program: &Path, arguments: Vec<String>, env: &[(String, String)]| {
        Way::Launch(Launch {
            id: agent.id.clone(),
            program: program.to_owned(),
            arguments,
            env: env.to_vec(),
        })
    };
    let targets: Result<Vec<Target>, String> = match &agent.transport {
        AgentTransport::UnixSocket(paths) => {
            let targets = paths.iter().cloned();
            targets.map(|path| target::at_socket(agent, path)).collect()
        }
        AgentTransport::Grpc(endpoints) => {
            let targets = endpoints.iter();
            targets.map(|it| target::over_grpc(agent, it)).collect()
        }
        AgentTransport::Http(endpoints) => {
            let targets = endpoints.iter();
            targets.map(|it| target::over_http(agent, it)).collect()
        }
        AgentTransport::Reverse(reverse) => return Ok(Way::Reverse(reverse.clone())),
        AgentTransport::Command {
            program,
            arguments,
            env,
        } => return Ok(launch(program, arguments.clone(), env)),
        AgentTransport::Builtin { name, env } => {
            let arguments = vec!["agent".to_owned(), name.name().to_owned()];
            return Ok(launch(executable, arguments, env));
        }
    };
    targets.map(Way::Targets)
}

/// The agents that the proxy starts.
pub(super) fn launches(config: &Config, executable: &Path) -> Vec<Launch> {
    let ways = config.agents.iter().map(|agent| way(agent, executable));
    ways.filter_map(|way| match way {
        Ok(Way::Launch(launch)) => Some(launch),
        Ok(Way::Targets(_) | Way::Reverse(_)) | Err(_) => None,
    })
    .collect()
}

/// What the manager has to know. `start` starts an agent that does not run on its own and says where it listens; `registers`
/// says where one is found that dials us.
///
/// # Errors
/// An agent whose dialect is not spoken where it is.
pub(super) fn settings(
    config: &Config,
    executable: &Path,
    mut start: impl FnMut(&Launch) -> PathBuf,
    mut registers: impl FnMut(&portcullis_config::Agent, &AgentReverse) -> ReverseAgent,
) -> Result<Vec<AgentSettings>, String> {
    let settings = config.agents.iter().map(|agent| {
        let targets = match way(agent, executable)? {
            Way::Targets(targets) => targets,
            Way::Launch(launch) => vec![target::at_socket(agent, start(&launch))?],
            Way::Reverse(reverse) => vec![Target::Reverse(registers(agent, &reverse))],
        };
        Ok(agent_settings(agent, targets, needs(config, agent)))
    });
    settings.collect()
}

fn agent_settings(
    agent: &portcullis_config::Agent,
    targets: Vec<Target>,
    needs: Vec<EventKind>,
) -> AgentSettings {
    let breaker = &agent.circuit_breaker;
    let patterns = |list: &[String]| HeaderNames::new(list.iter().map(String::as_str));
    AgentSettings {
        config: agent.config.clone().map(Arc::new),
        needs,
        completions: agent
            .inspect
            .request_complete
            .map(|completions| CompletionSettings {
                queue: completions.queue,
                timeout: agent.timeout,
                // Of those that keep something until then, see the configuration's `remembers`.
                tries: if agent.transport.remembers() { 10 } else { 1 },
            }),
        verdict_cache: agent.verdict_cache.as_ref().map(|cache| CacheSettings {
            max_entries: cache.max_entries,
            max_bytes: bytes(cache.max_bytes),
            max_ttl: cache.max_ttl,
            may_ignore: cache.may_ignore.clone(),
        }),
        reports: ReportSettings {
            max_series: agent.reports.max_series,
            reload_interval: agent.reports.allow_reload,
        },
        handshake_timeout: agent.pool.connect_timeout,
        // An agent that takes its time over an answer may be silent for as long.
        ping_interval: agent.pool.maintenance.max(agent.timeout * 2),
        max_concurrent_calls: agent.max_concurrent_calls,
        queue: agent.queue,
        breaker: BreakerSettings {
            failures: breaker.failures,
            successes: breaker.successes,
            open_for: breaker.open_for,
            probes: breaker.probes,
        },
        pool: PoolSettings {
            min: agent.pool.min,
            max: agent.pool.max,
            idle: agent.pool.idle,
            balance: agent.pool.balance,
            warm_up: agent.pool.warm_up,
            max_outstanding: agent.pool.max_outstanding,
            maintenance: agent.pool.maintenance,
        },
        overload: OverloadSettings {
            retries: agent.overload.retries,
            backoff: agent.overload.backoff,
            quota_key: agent.overload.quota_key.clone(),
        },
        headers: HeaderRules {
            owns: patterns(&agent.owns_headers),
            send: match authz::told(agent) {
                portcullis_config::SendHeaders::All => SendHeaders::All,
                portcullis_config::SendHeaders::Except(list) => {
                    SendHeaders::Except(patterns(&list))
                }
                portcullis_config::SendHeaders::Only(list) => SendHeaders::Only(patterns(&list)),
            },
        },
        ignores_bad_operations: !agent.strict,
        reads_only: reads_only(&agent.inspect),
        owns_what_it_sets: agent.dialect.asks_once(),
        targets,
        stateless: agent.stateless,
        ..AgentSettings::new(agent.id.clone(), Target::UnixSocket(PathBuf::new()))
    }
}

/// The events that an agent has to take, by where it is asked. One that guardrails alone ask is asked about nothing else.
fn needs(config: &Config, agent: &portcullis_config::Agent) -> Vec<EventKind> {
    let filters = config.routes.iter().flat_map(|route| &route.filters);
    let asking = filters.filter(|filter| filter.agents().iter().any(|it| it.agent == agent.id));
    let is_guardrail = |filter: &&Filter| matches!(filter, Filter::Guardrail(_));
    let (guardrails, others): (Vec<_>, Vec<_>) = asking.partition(is_guardrail);
    let mut needs = match (guardrails.is_empty(), others.is_empty()) {
        (false, true) => Vec::new(),
        _ => needs_to_inspect(&agent.inspect),
    };
    if !guardrails.is_empty() {
        needs.push(EventKind::GuardrailInspect);
    }
    needs
}

fn needs_to_inspect(inspect: &Inspect) -> Vec<EventKind> {
    let table = [
        (inspect.request_headers, EventKind::RequestHeaders),
        (inspect.request_body.is_some(), EventKind::RequestBodyChunk),
        (inspect.response_headers, EventKind::ResponseHeaders),
        (
            inspect.response_body.is_some(),
            EventKind::ResponseBodyChunk,
        ),
        (
            inspect.request_complete.is_some(),
            EventKind::RequestComplete,
        ),
    ];
    let needed = table.into_iter().filter(|(needed, _)| *needed);
    needed.map(|(_, kind)| kind).collect()
}

/// The events whose bodies an agent may not change.
fn reads_only(inspect: &Inspect) -> Vec<EventKind> {
    let table = [
        (inspect.request_body, EventKind::RequestBodyChunk),
        (inspect.response_body, EventKind::ResponseBodyChunk),
    ];
    let read = table
        .into_iter()
        .filter(|(body, _)| body.is_some_and(|body| body.read_only));
    read.map(|(_, kind)| kind).collect()
}

/// The agents without which some route refuses requests; readiness waits for them.
pub(super) fn needed(config: &Config) -> Vec<AgentId> {
    let mut needed: Vec<_> = config
        .routes
        .iter()
        .flat_map(portcullis_config::Route::agents)
        .filter(|used| used.failure_mode == FailureMode::Closed && used.shadow.is_none())
        .map(|used| used.agent.clone())
        .collect();
    needed.sort();
    needed.dedup();
    needed
}

/// Whether a reload waits for this agent, and is refused when the agent refuses: not when it is asked in the shadow alone.
pub(super) fn is_awaited(config: &Config, agent: &AgentId) -> bool {
    let uses = config
        .routes
        .iter()
        .flat_map(portcullis_config::Route::agents);
    let mut own = uses.filter(|used| used.agent == *agent).peekable();
    own.peek().is_none() || own.any(|used| used.shadow.is_none())
}
