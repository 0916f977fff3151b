//! From the agents of a configuration to what the manager and the supervisor have to know about them.

use super::bytes;
use portcullis_agent_manager::{
    AgentSettings, BreakerSettings, CacheSettings, CompletionSettings, HeaderRules,
    OverloadSettings, OwnedHeaders, PoolSettings, SendHeaders, supervise::Launch,
};
use portcullis_agent_protocol::{EventKind, Target};
use portcullis_config::{AgentId, AgentTransport, Config, FailureMode, Inspect};
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
}

/// `executable` is the proxy's own.
fn way(agent: &portcullis_config::Agent, executable: &Path) -> Way {
    let launch = |program: &Path, arguments: Vec<String>, env: &[(String, String)]| {
        Way::Launch(Launch {
            id: agent.id.clone(),
            program: program.to_owned(),
            arguments,
            env: env.to_vec(),
        })
    };
    match &agent.transport {
        AgentTransport::UnixSocket(paths) => {
            Way::Targets(paths.iter().cloned().map(Target::UnixSocket).collect())
        }
        AgentTransport::Grpc(_) | AgentTransport::Http(_) => {
            unreachable!("no dialect is spoken over these yet, which the configuration says")
        }
        AgentTransport::Command {
            program,
            arguments,
            env,
        } => launch(program, arguments.clone(), env),
        AgentTransport::Builtin { name, env } => {
            let arguments = vec!["agent".to_owned(), name.name().to_owned()];
            launch(executable, arguments, env)
        }
    }
}

/// The agents that the proxy starts.
pub(super) fn launches(config: &Config, executable: &Path) -> Vec<Launch> {
    let ways = config.agents.iter().map(|agent| way(agent, executable));
    ways.filter_map(|way| match way {
        Way::Targets(_) => None,
        Way::Launch(launch) => Some(launch),
    })
    .collect()
}

/// What the manager has to know. `start` starts an agent that does not run on its own and says where it listens.
pub(super) fn settings(
    config: &Config,
    executable: &Path,
    mut start: impl FnMut(&Launch) -> PathBuf,
) -> Vec<AgentSettings> {
    let settings = config.agents.iter().map(|agent| {
        let targets = match way(agent, executable) {
            Way::Targets(targets) => targets,
            Way::Launch(launch) => vec![Target::UnixSocket(start(&launch))],
        };
        agent_settings(agent, targets)
    });
    settings.collect()
}

fn agent_settings(agent: &portcullis_config::Agent, targets: Vec<Target>) -> AgentSettings {
    let breaker = &agent.circuit_breaker;
    let patterns = |list: &[String]| OwnedHeaders::new(list.iter().map(String::as_str));
    AgentSettings {
        config: agent.config.clone().map(Arc::new),
        needs: needs(&agent.inspect),
        completions: agent
            .inspect
            .request_complete
            .map(|completions| CompletionSettings {
                queue: completions.queue,
                timeout: agent.timeout,
            }),
        verdict_cache: agent.verdict_cache.as_ref().map(|cache| CacheSettings {
            max_entries: cache.max_entries,
            max_bytes: bytes(cache.max_bytes),
            max_ttl: cache.max_ttl,
            may_ignore: cache.may_ignore.clone(),
        }),
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
            send: match &agent.send_headers {
                portcullis_config::SendHeaders::All => SendHeaders::All,
                portcullis_config::SendHeaders::Except(list) => SendHeaders::Except(patterns(list)),
                portcullis_config::SendHeaders::Only(list) => SendHeaders::Only(patterns(list)),
            },
        },
        targets,
        stateless: agent.stateless,
        ..AgentSettings::new(agent.id.clone(), Target::UnixSocket(PathBuf::new()))
    }
}

/// The events that an agent has to take for what it inspects.
fn needs(inspect: &Inspect) -> Vec<EventKind> {
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
