//! From what is written to what holds: defaults filled in, chains expanded, places worked out.
//!
//! Called only when no check found an error, so nothing here can fail for reasons of the operator's. Where the types
//! would allow it, the answer is `None`, and the caller says that the program is wrong.

use crate::{
    kdl::{
        Defaults, Parsed, ParsedAction, ParsedAgent, ParsedAgentUse, ParsedCertificate,
        ParsedChain, ParsedFilter, ParsedGuardrail, ParsedListener, ParsedListenerTls, ParsedMatch,
        ParsedMember, ParsedMirror, ParsedOrigin, ParsedOwn, ParsedRoute, ParsedShadow,
        ParsedSplit, ParsedUpstream,
    },
    model::{
        Action, Admin, Agent, AgentUse, ClientAuth, Config, Filter, GuardedBody, Guardrail,
        LimitLine, LimitOwner, Listener, ListenerCertificate, ListenerTls, Mirror, Origin,
        OwnFilter, Probes, Route, Shadow, Share, Split, SplitMember, System, Upstream,
        UpstreamTimeouts,
    },
    source::{Sources, Spanned},
};
use std::{collections::HashMap, time::Duration};

/// For one answer of an agent, when nobody says otherwise.
const AGENT_TIMEOUT: Duration = Duration::from_millis(50);
/// Calls to an agent that may be under way at once, when nobody says otherwise.
const AGENT_CALLS: usize = 100;
/// Calls to an agent that may wait, when nobody says otherwise.
const AGENT_QUEUE: usize = 200;
/// Ends of requests that may wait for an agent of ours that keeps something until then.
const REMEMBERED: usize = 65_536;
/// Less than this part of the targets in order is as good as none, when nobody says otherwise.
const PANIC_THRESHOLD: Share = Share::of_hundredths(1_000);
/// The most that agents may take of a request, when nobody says otherwise.
const MOST_DEFAULT_BUDGET: Duration = Duration::from_secs(10);

pub(crate) fn resolve(parsed: Parsed, sources: &Sources) -> Option<Config> {
    let defaults = parsed
        .defaults
        .map(|defaults| defaults.value)
        .unwrap_or_default();
    let system = parsed.system.map(|system| system.value).unwrap_or_default();
    let agents: Vec<Agent> = parsed
        .agents
        .into_iter()
        .map(|written| agent(written, &defaults, sources))
        .collect::<Option<_>>()?;
    let admin = match parsed.admin {
        Some(admin) => Some(Admin {
            address: admin.value?.value,
            place: sources.place(admin.span),
        }),
        None => None,
    };
    let probes = match parsed.probes {
        Some(probes) => Some(Probes {
            address: probes.value?.value,
            place: sources.place(probes.span),
        }),
        None => None,
    };
    let filters = Filters {
        agents: agents
            .iter()
            .map(|agent| (agent.id.as_str(), agent))
            .collect(),
        chains: parsed
            .chains
            .iter()
            .map(|chain| (chain.id.value.as_str(), chain))
            .collect(),
    };
    Some(Config {
        admin,
        probes,
        listeners: parsed
            .listeners
            .into_iter()
            .map(|written| listener(written, &system, sources))
            .collect::<Option<_>>()?,
        routes: parsed
            .routes
            .into_iter()
            .map(|written| route(written, &filters, sources))
            .collect::<Option<_>>()?,
        upstreams: parsed
            .upstreams
            .into_iter()
            .map(|written| upstream(written, &defaults, sources))
            .collect::<Option<_>>()?,
        observability: parsed
            .observability
            .map(|written| written.value)
            .unwrap_or_default(),
        error_pages: parsed
            .error_pages
            .map(|written| written.value)
            .unwrap_or_default(),
        agents,
        system,
    })
}

fn listener(written: ParsedListener, system: &System, sources: &Sources) -> Option<Listener> {
    Some(Listener {
        id: written.id.value,
        address: written.address?.value,
        h2c: written.h2c.is_some_and(|h2c| h2c.value),
        proxy_protocol: written.proxy_protocol.map(|it| it.value),
        tls: written.tls.map(|tls| listener_tls(tls, sources)),
        http2: written.http2.map(|http2| http2.value).unwrap_or_default(),
        half_close: written.half_close,
        underscores_in_headers: written.underscores_in_headers,
        timeouts: written.timeouts,
        limits: written.limits,
        trusted_proxies: written
            .trusted_proxies
            .unwrap_or_else(|| system.trusted_proxies.clone()),
        place: sources.place(written.span),
    })
}

fn listener_tls(written: ParsedListenerTls, sources: &Sources) -> ListenerTls {
    let certificate = |written: ParsedCertificate| ListenerCertificate {
        certificate: written.certificate,
        key: written.key,
        server_name: written.server_name.map(|name| name.value),
        ocsp: written.ocsp,
        place: sources.place(written.span),
    };
    ListenerTls {
        certificates: written.certificates.into_iter().map(certificate).collect(),
        min_version: written.min_version,
        http2: written.http2,
        client_auth: written.client_auth.map(|auth| ClientAuth {
            required: auth.required,
            ca: auth.ca,
            place: sources.place(auth.span),
        }),
    }
}

fn upstream(written: ParsedUpstream, defaults: &Defaults, sources: &Sources) -> Option<Upstream> {
    let program = UpstreamTimeouts::default();
    let (own, shared) = (written.timeouts, defaults.upstream);
    Some(Upstream {
        id: written.id.value,
        origin: match written.origin? {
            ParsedOrigin::Targets(targets) => {
                Origin::Targets(targets.into_iter().map(|target| target.value).collect())
            }
            ParsedOrigin::BuiltinEcho => Origin::BuiltinEcho,
        },
        protocol: written
            .protocol
            .map(|protocol| protocol.value)
            .unwrap_or_default(),
        tls: match written.tls {
            Some(tls) => Some(tls.value?),
            None => None,
        },
        keepalive: written.keepalive.unwrap_or_default(),
        send_proxy_protocol: written.send_proxy_protocol,
        balance: written.balance,
        sticky: written.sticky,
        slow_start: written.slow_start.map(|written| written.value),
        retry_budget: written.retry_budget,
        limits: written.limits,
        health_check: written.health_check.map(|written| written.value),
        outlier: written.outlier.map(|written| written.value),
        panic_threshold: written
            .panic_threshold
            .map_or(PANIC_THRESHOLD, |written| written.value),
        timeouts: UpstreamTimeouts {
            connect: own.connect.or(shared.connect).unwrap_or(program.connect),
            response_header: own
                .response_header
                .or(shared.response_header)
                .unwrap_or(program.response_header),
            idle: own.idle.or(shared.idle).unwrap_or(program.idle),
            total: own.total.or(shared.total),
        },
        place: sources.place(written.span),
    })
}

fn agent(written: ParsedAgent, defaults: &Defaults, sources: &Sources) -> Option<Agent> {
    let policy = written.policy.or(&defaults.agent);
    let ext_proc = written.ext_proc.map(|written| written.settings);
    let ext_proc = ext_proc.unwrap_or_default();
    let mut inspect = written.inspect.into_model();
    // What it says is thrown away.
    let bodies = [&mut inspect.request_body, &mut inspect.response_body];
    for body in bodies.into_iter().flatten() {
        body.read_only |= ext_proc.observability;
    }
    let transport = written.transport?;
    if transport.remembers() {
        // Without it what is kept of a request that is broken off would take the place of others.
        let told = inspect.request_complete.get_or_insert_default();
        told.queue = told.queue.max(REMEMBERED);
    }
    Some(Agent {
        id: written.id.value,
        transport,
        stateless: written.stateless,
        dialect: written.dialect,
        ext_proc,
        authz: written.dialect.asks_once().then(|| {
            let mut blocks = written.authz.into_iter();
            blocks
                .next()
                .map(|block| block.settings)
                .unwrap_or_default()
        }),
        strict: written.strict || !written.dialect.ignores_bad_operations(),
        timeout: policy.timeout.unwrap_or(AGENT_TIMEOUT),
        failure_mode: policy.failure_mode.unwrap_or_default(),
        inspect,
        max_concurrent_calls: policy.max_concurrent_calls.unwrap_or(AGENT_CALLS),
        queue: policy.queue.unwrap_or(AGENT_QUEUE),
        circuit_breaker: policy.circuit_breaker.into_model(),
        pool: policy.pool.into_model(),
        overload: policy.overload.into_model(),
        owns_headers: written
            .owns_headers
            .into_iter()
            .map(|pattern| pattern.value)
            .collect(),
        send_headers: written.send_headers,
        verdict_cache: written.verdict_cache.map(|cache| cache.value),
        reports: written.reports,
        config: written.config,
        place: sources.place(written.span),
    })
}

fn route(written: ParsedRoute, filters: &Filters<'_>, sources: &Sources) -> Option<Route> {
    let mut expanded = Vec::with_capacity(written.filters.len());
    let owner = LimitOwner::Route(written.id.value.clone());
    filters.expand(&owner, &written.filters, &mut expanded)?;
    Some(Route {
        agent_budget: written
            .agent_budget
            .map_or_else(|| filters.default_budget(&expanded), |budget| budget.value),
        id: written.id.value,
        matches: written
            .matches
            .into_iter()
            .map(ParsedMatch::into_model)
            .collect(),
        priority: written.priority,
        filters: expanded,
        action: match written.actions.into_iter().next()?.value {
            ParsedAction::Upstream(id) => Action::Upstream(id.value),
            ParsedAction::Split(written) => Action::Split(split(written)),
            ParsedAction::Static(files) => Action::Static(Box::new(files)),
            ParsedAction::Redirect { location, status } => Action::Redirect { location, status },
            ParsedAction::Respond {
                status,
                body,
                content_type,
            } => Action::Respond {
                status,
                body,
                content_type,
            },
            ParsedAction::Broken => return None,
        },
        rewrite: written.rewrite.map(|rewrite| Box::new(rewrite.value)),
        mirror: written.mirror.map(mirror),
        websocket: written.websocket.map(|written| written.settings),
        uninspected_upgrade: written.uninspected_upgrade.is_some(),
        timeouts: written.timeouts,
        error_pages: written.error_pages,
        retry: written.retry.map(|written| written.value),
        place: sources.place(written.span),
    })
}

fn mirror(written: ParsedMirror) -> Mirror {
    Mirror {
        upstream: written.upstream.value,
        percent: written.percent,
        max_body: written.max_body,
    }
}

fn split(written: ParsedSplit) -> Split {
    let member = |written: ParsedMember| SplitMember {
        upstream: written.upstream.value,
        weight: written.weight,
    };
    Split {
        members: written.members.into_iter().map(member).collect(),
        sticky: written.sticky,
    }
}

/// What the lines of a chain refer to.
struct Filters<'a> {
    agents: HashMap<&'a str, &'a Agent>,
    chains: HashMap<&'a str, &'a ParsedChain>,
}

impl Filters<'_> {
    /// Ends, because the checks have refused chains that use each other in a circle.
    fn expand(
        &self,
        owner: &LimitOwner,
        written: &[ParsedFilter],
        expanded: &mut Vec<Filter>,
    ) -> Option<()> {
        let mut limits = Limits::new(owner);
        for filter in written {
            expanded.push(match filter {
                ParsedFilter::Agent(one) => Filter::Agent(self.agent_use(one)?),
                ParsedFilter::Parallel(several) => Filter::Parallel(
                    several
                        .iter()
                        .map(|one| self.agent_use(one))
                        .collect::<Option<_>>()?,
                ),
                ParsedFilter::Guardrail(guardrail) => {
                    Filter::Guardrail(Box::new(self.guardrail(guardrail)?))
                }
                ParsedFilter::Own(own) => Filter::Own(limits.own(own)),
                ParsedFilter::Broken => return None,
                ParsedFilter::Use(name) => {
                    let owner = LimitOwner::Chain(name.value.clone());
                    let chain = self.chains.get(name.value.as_str())?;
                    self.expand(&owner, &chain.filters, expanded)?;
                    continue;
                }
            });
        }
        Some(())
    }

    /// All that the agents may take, one after the other in one phase after the other.
    fn default_budget(&self, filters: &[Filter]) -> Duration {
        let most = |filter: &Filter, used: &AgentUse| {
            let agent = self.agents.get(used.agent.as_str())?;
            let (most, phases) = match filter {
                Filter::Guardrail(guardrail) => {
                    let texts: usize = guardrail.bodies().map(|body| body.max_texts).sum();
                    (Duration::ZERO, u32::try_from(texts).unwrap_or(u32::MAX))
                }
                _ => (
                    agent.ext_proc.max_message_timeout.unwrap_or_default(),
                    agent.inspect.phases(),
                ),
            };
            Some(used.timeout.max(most).saturating_mul(phases))
        };
        filters
            .iter()
            .flat_map(|filter| filter.agents().iter().map(move |used| (filter, used)))
            .filter(|(_, used)| used.may_decide())
            .filter_map(|(filter, used)| most(filter, used))
            .fold(Duration::ZERO, Duration::saturating_add)
            .min(MOST_DEFAULT_BUDGET)
    }

    fn guardrail(&self, written: &ParsedGuardrail) -> Option<Guardrail> {
        let body = |body: &Spanned<GuardedBody>| body.value.clone();
        Some(Guardrail {
            used: self.agent_use(&written.used)?,
            inspection: written.inspection,
            on_detect: written.on_detect.clone(),
            request: written.request.as_ref().map(body),
            response: written.response.as_ref().map(body),
            model: written.model.clone(),
            categories: written.categories.clone(),
        })
    }

    fn agent_use(&self, written: &ParsedAgentUse) -> Option<AgentUse> {
        let agent = self.agents.get(written.agent.value.as_str())?;
        Some(AgentUse {
            // The agent's own id, so that all uses share one text.
            agent: agent.id.clone(),
            timeout: written.timeout.unwrap_or(agent.timeout),
            failure_mode: written.failure_mode.unwrap_or(agent.failure_mode),
            shadow: match &written.shadow {
                None => None,
                Some(shadow) => Some(self.shadow(shadow)?),
            },
        })
    }

    fn shadow(&self, written: &ParsedShadow) -> Option<Shadow> {
        let compare_with = match &written.compare_with {
            None => None,
            Some(name) => Some(self.agents.get(name.value.as_str())?.id.clone()),
        };
        Some(Shadow {
            compare_with,
            ramp: written.ramp,
        })
    }
}

/// Numbers the limits of a route or chain, each kind for itself, so that they are known again after a reload.
struct Limits<'a> {
    owner: &'a LimitOwner,
    rates: usize,
    concurrencies: usize,
}

impl<'a> Limits<'a> {
    fn new(owner: &'a LimitOwner) -> Self {
        Self {
            owner,
            rates: 0,
            concurrencies: 0,
        }
    }

    fn own(&mut self, written: &ParsedOwn) -> OwnFilter {
        match written {
            ParsedOwn::RequestHeaders(edits) => OwnFilter::RequestHeaders(edits.clone()),
            ParsedOwn::ResponseHeaders(edits) => OwnFilter::ResponseHeaders(edits.clone()),
            ParsedOwn::RateLimit(limit) => {
                let line = Self::line(self.owner, &mut self.rates);
                OwnFilter::RateLimit(line, limit.value.clone())
            }
            ParsedOwn::ConcurrencyLimit(limit) => {
                let line = Self::line(self.owner, &mut self.concurrencies);
                OwnFilter::ConcurrencyLimit(line, limit.value.clone())
            }
            ParsedOwn::Addresses(list) => OwnFilter::Addresses(list.clone()),
            ParsedOwn::BodyLimit(limit) => OwnFilter::BodyLimit(limit.value),
            ParsedOwn::Compress(compress) => OwnFilter::Compress(compress.value.clone()),
        }
    }

    fn line(owner: &LimitOwner, count: &mut usize) -> LimitLine {
        let number = *count;
        *count += 1;
        LimitLine {
            owner: owner.clone(),
            number,
        }
    }
}
