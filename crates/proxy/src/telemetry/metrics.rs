//! Every metric, in one table: name, labels, unit and meaning. docs/operations.md lists the same names; a test compares.
//!
//! Labels are bounded: listeners, routes and agents come from the configuration, methods and codes are known sets. Where a
//! request is on its way, counters are reached through small caches beside what they count, not through a lookup of labels.

mod agents;
mod config;
mod connections;
mod discovery;
mod filters;
mod mirror;
mod pools;
mod reported;
mod shadow;
mod sockets;
mod upstreams;
mod verdict_cache;

pub(crate) use agents::AgentMetrics;
use agents::{AgentCalls, Observer};
pub(crate) use config::ConfigMetrics;
pub(crate) use connections::ConnectionMetrics;
use discovery::Discoveries;
pub(crate) use discovery::DiscoveryMetrics;
use filters::FilterFamilies;
use mirror::MirrorFamily;
pub(crate) use mirror::MirrorMetrics;
use pools::Pools;
use reported::Reported;
use shadow::ShadowFamilies;
pub(crate) use shadow::ShadowMetrics;
use sockets::SocketFamilies;
pub(crate) use sockets::SocketMetrics;
use upstreams::Upstreams;
use verdict_cache::VerdictCaches;

use crate::upstream::UpstreamStatus;
use portcullis_agent_manager::{AgentObserver, AgentStatus, BreakerState};
use portcullis_agent_protocol::Metric;
use portcullis_config::{AgentId, Enforcement, ListenerId};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// The buckets that OpenTelemetry advises for HTTP, in seconds.
const REQUEST_SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Agents answer over a Unix socket, so their buckets begin far lower.
const AGENT_SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    listener: String,
    route: String,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentLabel {
    agent: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentState {
    agent: String,
    state: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of the process.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Durations<RouteLabel>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: ConnectionMetrics,
    agent_calls: AgentCalls,
    shadows: ShadowFamilies,
    filters: FilterFamilies,
    agent_up: Family<AgentLabel, Gauge>,
    agent_in_flight: Family<AgentLabel, Gauge>,
    agent_waiting: Family<AgentLabel, Gauge>,
    agent_wait_seconds: Durations<AgentLabel>,
    agent_circuit: Family<AgentState, Gauge>,
    agent_connections: Family<AgentLabel, Gauge>,
    agent_reconnects: Family<AgentLabel, Counter>,
    pools: Pools,
    agent_rejected: Family<AgentLabel, Counter>,
    agent_streams: Family<AgentLabel, Gauge>,
    completions_dropped: Family<AgentLabel, Counter>,
    verdict_caches: VerdictCaches,
    reported: Reported,
    upstreams: Upstreams,
    buffer_memory: Gauge,
    socket_families: SocketFamilies,
    mirrors: MirrorFamily,
    discoveries: Discoveries,
    pub(crate) access_log_dropped: Counter,
    pub(crate) config: ConfigMetrics,
}

impl Metrics {
    #[expect(
        clippy::too_many_lines,
        reason = "the table of all metrics, one entry after the other"
    )]
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("portcullis");
        registry.register(
            "build",
            "Version of the running binary",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            in_flight: Gauge::default(),
            connections: ConnectionMetrics::default(),
            agent_calls: AgentCalls::default(),
            shadows: ShadowFamilies::default(),
            filters: FilterFamilies::default(),
            agent_up: Family::default(),
            agent_in_flight: Family::default(),
            agent_waiting: Family::default(),
            agent_wait_seconds: Family::new_with_constructor(|| Histogram::new(AGENT_SECONDS)),
            agent_circuit: Family::default(),
            agent_connections: Family::default(),
            agent_reconnects: Family::default(),
            pools: Pools::default(),
            agent_rejected: Family::default(),
            agent_streams: Family::default(),
            completions_dropped: Family::default(),
            verdict_caches: VerdictCaches::default(),
            reported: Reported::default(),
            upstreams: Upstreams::default(),
            buffer_memory: Gauge::default(),
            socket_families: SocketFamilies::default(),
            mirrors: MirrorFamily::default(),
            discoveries: Discoveries::default(),
            access_log_dropped: Counter::default(),
            config: ConfigMetrics::default(),
            registry: Registry::default(),
        };
        registry.register(
            "http_requests",
            "Requests that were answered, by listener, route, method and status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "From the complete head of a request to the end of its answer, by route",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests that are being served",
            metrics.in_flight.clone(),
        );
        metrics.connections.register(&mut registry);
        metrics.agent_calls.register(&mut registry);
        metrics.shadows.register(&mut registry);
        metrics.filters.register(&mut registry);
        registry.register(
            "agent_up",
            "Whether every worker is connected to the agent: 1 or 0",
            metrics.agent_up.clone(),
        );
        registry.register(
            "agent_in_flight",
            "Questions that have no answer yet, by agent",
            metrics.agent_in_flight.clone(),
        );
        registry.register(
            "agent_waiting",
            "Calls that wait for a permit of the agent",
            metrics.agent_waiting.clone(),
        );
        registry.register_with_unit(
            "agent_queue_wait",
            "How long calls waited for a permit of the agent",
            Unit::Seconds,
            metrics.agent_wait_seconds.clone(),
        );
        registry.register(
            "agent_circuit_state",
            "The state of the agent's circuit breaker: 1 for the one it is in",
            metrics.agent_circuit.clone(),
        );
        registry.register(
            "agent_connections",
            "Connections to the agent that are up, of all workers",
            metrics.agent_connections.clone(),
        );
        registry.register(
            "agent_reconnects",
            "How often a connection to the agent was lost or retired and had to be made again",
            metrics.agent_reconnects.clone(),
        );
        metrics.pools.register(&mut registry);
        registry.register(
            "agent_rejected_mutations",
            "Answers of the agent that were thrown away because of a change that agents may not make",
            metrics.agent_rejected.clone(),
        );
        registry.register(
            "agent_streams",
            "Requests that the agent has a stream for, in dialects with streams, until both have ended",
            metrics.agent_streams.clone(),
        );
        registry.register(
            "agent_completions_dropped",
            "Requests whose end the agent was not told, because too many such events were waiting for it",
            metrics.completions_dropped.clone(),
        );
        metrics.verdict_caches.register(&mut registry);
        metrics.reported.register(&mut registry);
        metrics.upstreams.register(&mut registry);
        registry.register_with_unit(
            "buffer_memory_used",
            "Bodies that are held for agents",
            Unit::Bytes,
            metrics.buffer_memory.clone(),
        );
        registry.register(
            "access_log_dropped",
            "Lines of the access log that were dropped because its sink did not keep up",
            metrics.access_log_dropped.clone(),
        );
        metrics.socket_families.register(&mut registry);
        metrics.mirrors.register(&mut registry);
        metrics.discoveries.register(&mut registry);
        metrics.config.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }

    /// The handles that a route keeps.
    pub(crate) fn route(&self, route: &str) -> RouteMetrics {
        RouteMetrics {
            route: route.to_owned(),
            requests: CounterCache::default(),
            seconds: OnceLock::new(),
        }
    }

    /// The handles of a route whose sockets agents look into.
    pub(crate) fn sockets(&self, route: &str) -> SocketMetrics {
        self.socket_families.of(route)
    }

    /// The handles of a route whose requests are copied.
    pub(crate) fn mirror(&self, route: &str) -> MirrorMetrics {
        self.mirrors.of(route)
    }

    /// Counts what a filter of a route refuses, or in the shadow would refuse.
    pub(crate) fn filter_refused(
        &self,
        route: &str,
        filter: &'static str,
        mode: Enforcement,
    ) -> Counter {
        self.filters.refused(route, filter, mode)
    }

    /// Sockets that are open now and whose frames agents see.
    pub(crate) fn open_sockets(&self) -> Gauge {
        self.socket_families.open.clone()
    }

    /// What is told of an agent that no request sees. An agent that may have the configuration read again tells `reload`.
    pub(crate) fn agent_observer(
        &self,
        agent: &AgentId,
        reload: &Arc<Notify>,
    ) -> Arc<dyn AgentObserver> {
        let label = AgentLabel {
            agent: agent.to_string(),
        };
        Arc::new(Observer {
            agent: self.agent(agent),
            waited: self.agent_wait_seconds.get_or_create_owned(&label),
            dropped: self.completions_dropped.get_or_create_owned(&label),
            reported: self.reported.clone(),
            reload: reload.clone(),
        })
    }

    /// The handles that an agent keeps.
    pub(crate) fn agent(&self, agent: &AgentId) -> AgentMetrics {
        AgentMetrics::new(agent, self.agent_calls.clone())
    }

    /// The handles that a shadow agent of a route keeps.
    pub(crate) fn shadow(&self, route: &str, agent: &AgentId) -> ShadowMetrics {
        ShadowMetrics::new(route, agent, self.shadows.clone())
    }

    pub(crate) fn request_done(
        &self,
        route: &RouteMetrics,
        listener: &ListenerId,
        method: &http::Method,
        code: u16,
        seconds: f64,
    ) {
        let method = known_method(method);
        let of_route = route.seconds.get_or_init(|| {
            self.request_seconds.get_or_create_owned(&RouteLabel {
                route: route.route.clone(),
            })
        });
        of_route.observe(seconds);
        route.requests.increment(
            (
                listener.as_str().as_ptr() as usize,
                method.as_ptr() as usize,
                code,
            ),
            || {
                self.requests.get_or_create_owned(&RequestLabels {
                    listener: listener.to_string(),
                    route: route.route.clone(),
                    method,
                    code,
                })
            },
        );
    }

    /// What agents report of themselves now, for the next text.
    pub(crate) fn show_reported(&self, reported: Vec<(AgentId, Vec<Metric>)>) {
        self.reported.show(reported);
    }

    /// How upstreams are doing now, for the next text.
    pub(crate) fn show_upstreams(&self, upstreams: &[UpstreamStatus]) {
        self.upstreams.show(upstreams);
    }

    /// The text that Prometheus reads, with gauges of agents as they are now, and of the bytes that are held for them.
    pub(crate) fn encode(&self, agents: &[AgentStatus], held: usize) -> String {
        self.buffer_memory
            .set(i64::try_from(held).unwrap_or(i64::MAX));
        for status in agents {
            self.show_agent(status);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl Metrics {
    /// An agent is no longer configured: what it is now is nothing, what it did is still counted.
    pub(crate) fn forget_agent(&self, agent: &AgentId) {
        let agent = agent.to_string();
        for state in BreakerState::ALL {
            self.agent_circuit.remove(&AgentState {
                agent: agent.clone(),
                state: state.name(),
            });
        }
        let label = AgentLabel { agent };
        for gauges in [
            &self.agent_up,
            &self.agent_in_flight,
            &self.agent_waiting,
            &self.agent_connections,
            &self.agent_streams,
        ] {
            gauges.remove(&label);
        }
        self.verdict_caches.forget(&label);
        self.reported.forget(&label);
        self.pools.forget(&label);
    }

    fn show_agent(&self, status: &AgentStatus) {
        let agent = status.id.to_string();
        for state in BreakerState::ALL {
            let label = AgentState {
                agent: agent.clone(),
                state: state.name(),
            };
            let is = state == status.breaker;
            self.agent_circuit.get_or_create(&label).set(is.into());
        }
        let label = AgentLabel { agent };
        let up = status.is_connected();
        self.agent_up.get_or_create(&label).set(up.into());
        for (gauges, value) in [
            (&self.agent_in_flight, status.in_flight),
            (&self.agent_waiting, status.waiting),
            (&self.agent_connections, status.connections),
            (&self.agent_streams, status.streams),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauges.get_or_create(&label).set(value);
        }
        for (counters, value) in [
            (&self.agent_reconnects, status.reconnects),
            (&self.agent_rejected, status.rejected),
        ] {
            counters.get_or_create(&label).inner().store(value, Relaxed);
        }
        self.pools.show(&label, status);
        match &status.verdict_cache {
            Some(cache) => self.verdict_caches.show(&label, cache),
            None => self.verdict_caches.forget(&label),
        }
        self.reported.show_status(&label, status);
    }
}

/// The label of a method: the known ones by name, so that a client cannot make up series.
fn known_method(method: &http::Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    KNOWN
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("other")
}

/// What is counted for one route.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    route: String,
    requests: CounterCache,
    /// From the first request on: of many routes few may be in use.
    seconds: OnceLock<Histogram>,
}

type CounterKey = (usize, usize, u16);

/// The counters of one family that were needed so far beside one route or agent. There are few, so they stand in a list.
/// The addresses of static and interned texts are their keys.
#[derive(Debug, Default)]
struct CounterCache(Mutex<Vec<(CounterKey, Counter<u64, AtomicU64>)>>);

impl CounterCache {
    fn increment(&self, key: CounterKey, make: impl FnOnce() -> Counter) {
        self.increase(key, 1, make);
    }

    fn increase(&self, key: CounterKey, by: u64, make: impl FnOnce() -> Counter) {
        // An entry is pushed whole, so a poisoned lock loses nothing.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == key) {
            counter.inc_by(by);
            return;
        }
        let counter = make();
        counter.inc_by(by);
        known.push((key, counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Refused;

    #[test]
    fn names_carry_prefix_unit_and_total() {
        let metrics = Metrics::new();
        let route = metrics.route("all");
        let listener = ListenerId::from("http");
        metrics.request_done(&route, &listener, &http::Method::GET, 200, 0.001);
        let brew = http::Method::from_bytes(b"BREW").unwrap();
        metrics.request_done(&route, &listener, &brew, 200, 0.001);
        metrics.request_done(&route, &listener, &brew, 200, 0.001);
        metrics.connections.refused(&listener, Refused::Malformed);
        let text = metrics.encode(&[], 0);
        for line in [
            r#"portcullis_http_requests_total{listener="http",route="all",method="GET",code="200"} 1"#,
            r#"portcullis_http_requests_total{listener="http",route="all",method="other",code="200"} 2"#,
            r#"portcullis_http_request_duration_seconds_count{route="all"} 3"#,
            r#"portcullis_http_refused_total{listener="http",reason="malformed_request"} 1"#,
            r#"portcullis_build_info{version="#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
