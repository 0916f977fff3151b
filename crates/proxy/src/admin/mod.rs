//! Probes and the admin listener: small answers about the process, served on the control thread, away from traffic.

mod listeners;
mod recordings;

pub(crate) use listeners::{Bounds, Listeners, Plan, serve_unix};

use crate::{
    filter::shadow::{self, report::Report},
    server::limits::ConnectionLimits,
    snapshot::Snapshot,
    telemetry::Telemetry,
    upstream::{TargetStatus, UpstreamStatus},
};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use portcullis_agent_manager::{
    AgentStatus, PoolStatus, ReplicaStatus,
    supervise::{Board, ProcessStatus},
};
use portcullis_config::AgentId;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

/// What the process can say about itself.
pub(crate) struct Health {
    telemetry: Arc<Telemetry>,
    connections: Arc<ConnectionLimits>,
    /// The agents that the proxy starts.
    processes: Board,
    serving: ArcSwapOption<InEffect>,
    /// Once ready, an agent that is lost does not take the whole process out of service.
    was_ready: AtomicBool,
    draining: AtomicBool,
    started: Instant,
}

/// The configuration that is in effect.
struct InEffect {
    snapshot: Arc<Snapshot>,
    /// Agents without which some route refuses requests.
    needed: Vec<AgentId>,
}

impl Health {
    pub(crate) fn new(
        telemetry: Arc<Telemetry>,
        connections: Arc<ConnectionLimits>,
        processes: Board,
    ) -> Self {
        Self {
            telemetry,
            connections,
            processes,
            serving: ArcSwapOption::empty(),
            was_ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: Instant::now(),
        }
    }

    /// From now on this is in effect. Readiness waits for `needed` until it was reached once.
    pub(crate) fn serves(&self, snapshot: Arc<Snapshot>, needed: Vec<AgentId>) {
        let new = Arc::new(InEffect { snapshot, needed });
        let old = self.serving.swap(Some(new.clone()));
        if let Some(old) = old {
            let agents = old.snapshot.agents.status();
            let gone = agents
                .iter()
                .map(|status| &status.id)
                .filter(|id| new.snapshot.agents.position(id).is_none());
            gone.for_each(|id| self.telemetry.metrics.forget_agent(id));
        }
    }

    /// From now on the process is not ready.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Ready, or what is missing.
    fn readiness(&self) -> Result<(), String> {
        if self.draining.load(Relaxed) {
            return Err("draining".into());
        }
        if self.was_ready.load(Relaxed) {
            return Ok(());
        }
        let Some(serving) = self.serving.load_full() else {
            return Err("starting".into());
        };
        let processes = self.processes.status();
        let missing: Vec<String> = serving
            .snapshot
            .agents
            .status()
            .into_iter()
            .filter(|status| serving.needed.contains(&status.id) && !status.is_connected())
            .map(|status| {
                let process = processes.iter().rfind(|process| process.id == status.id);
                match process.and_then(|process| process.last_end.as_ref()) {
                    Some(end) => format!("agent {}: its process ended: {end}", status.id),
                    None => format!("agent {}: {}", status.id, status.problem()),
                }
            })
            .collect();
        if missing.is_empty() {
            self.was_ready.store(true, Relaxed);
            return Ok(());
        }
        Err(missing.join("; "))
    }

    fn agents(&self) -> Vec<AgentStatus> {
        let serving = self.serving.load();
        let serving = serving.as_ref();
        serving.map_or_else(Vec::new, |serving| serving.snapshot.agents.status())
    }

    fn metrics(&self) -> String {
        let connections = &self.telemetry.metrics.connections;
        connections.show_open(self.connections.open());
        let serving = self.serving.load();
        let held = serving
            .as_ref()
            .map_or(0, |serving| serving.snapshot.buffer_memory.used());
        let reported = serving
            .as_ref()
            .map(|serving| serving.snapshot.agents.reported());
        self.telemetry
            .metrics
            .show_reported(reported.unwrap_or_default());
        self.telemetry.metrics.show_upstreams(&self.upstreams());
        self.telemetry.metrics.encode(&self.agents(), held)
    }

    fn probe(&self, path: &str, verbose: bool) -> Option<Response<Vec<u8>>> {
        match path {
            "/livez" | "/health" | "/healthz" => Some(text(StatusCode::OK, "ok\n")),
            "/readyz" | "/ready" => Some(match self.readiness() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(missing) if verbose => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!("not ready: {missing}\n"),
                ),
                Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            }),
            "/metrics" => Some(typed(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                self.metrics().into_bytes(),
            )),
            _ => None,
        }
    }

    fn status(&self) -> Response<Vec<u8>> {
        let readiness = self.readiness();
        let config = &self.telemetry.metrics.config;
        let recent = self.telemetry.recent.kept();
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": readiness.is_ok(),
            "not_ready_because": readiness.err(),
            "config": {
                "generation": config.generation(),
                "last_reload_successful": config.was_last_successful(),
            },
            "connections_open": self.connections.open(),
            "recent_requests": recent.map(|(kept, bytes)| json!({"kept": kept, "bytes": bytes})),
            "agents": self.agents_status(),
            "upstreams": self.upstreams_status(),
        });
        let body = serde_json::to_vec_pretty(&status).unwrap_or_default();
        typed(StatusCode::OK, "application/json", body)
    }

    /// What is kept of the requests of this id, which is percent-encoded; the newest first.
    fn explain(&self, id: &str) -> Response<Vec<u8>> {
        let id = percent_decode_str(id).decode_utf8_lossy();
        let recent = &self.telemetry.recent;
        let found = recent.find(&id);
        if found.is_empty() {
            let kept = recent.kept().map_or(0, |(entries, _)| entries);
            let body = json!({"error": "no such request is kept", "kept": kept});
            let body = serde_json::to_vec(&body).unwrap_or_default();
            return typed(StatusCode::NOT_FOUND, "application/json", body);
        }
        let mut body = b"{\"requests\":[".to_vec();
        for (position, json) in found.iter().enumerate() {
            if position > 0 {
                body.push(b',');
            }
            body.extend_from_slice(json);
        }
        body.extend_from_slice(b"]}");
        typed(StatusCode::OK, "application/json", body)
    }

    /// What shadow agents would have done.
    fn shadow(&self) -> Response<Vec<u8>> {
        let serving = self.serving.load();
        let report = serving.as_ref().map_or_else(
            || Report {
                shadows: Vec::new(),
            },
            |serving| shadow::report(&serving.snapshot),
        );
        let body = serde_json::to_vec_pretty(&report).unwrap_or_default();
        typed(StatusCode::OK, "application/json", body)
    }

    fn agents_status(&self) -> Vec<serde_json::Value> {
        let processes = self.processes.status();
        self.agents()
            .iter()
            .map(|status| {
                let process = processes.iter().rfind(|process| process.id == status.id);
                agent_status(status, process)
            })
            .collect()
    }

    /// By name.
    fn upstreams(&self) -> Vec<UpstreamStatus> {
        let serving = self.serving.load();
        let Some(serving) = serving.as_ref() else {
            return Vec::new();
        };
        let upstreams = serving.snapshot.upstreams.iter();
        let mut upstreams: Vec<_> = upstreams.map(|upstream| upstream.status()).collect();
        upstreams.sort_by(|one, other| one.id.cmp(&other.id));
        upstreams
    }

    fn upstreams_status(&self) -> Vec<serde_json::Value> {
        self.upstreams().iter().map(upstream_status).collect()
    }
}

fn upstream_status(status: &UpstreamStatus) -> serde_json::Value {
    let target = |target: &TargetStatus| {
        json!({
            "address": target.address.as_deref(),
            "weight": target.weight,
            "backup": target.is_backup,
            "state": target.state,
            "in_flight": target.in_flight,
            "average_answer_seconds": target.latency.map(|latency| latency.as_secs_f64()),
            "ejections": target.ejections,
            "checks_passed": target.checks.0,
            "checks_failed": target.checks.1,
            "last_problem": target.problem,
        })
    };
    let targets: Vec<_> = status.targets.iter().map(target).collect();
    json!({
        "name": status.id.as_str(),
        "in_flight": status.gate.in_flight,
        "pending": status.gate.pending,
        "saturated": status.gate.saturated,
        "retries": status.gate.retries,
        "retries_over_budget": status.gate.over_budget,
        "in_panic": status.is_in_panic,
        "panic_requests": status.panics,
        "targets": targets,
    })
}

fn agent_status(status: &AgentStatus, process: Option<&ProcessStatus>) -> serde_json::Value {
    let process = process.map(|process| {
        json!({
            "pid": process.pid,
            "starts": process.starts,
            "last_end": process.last_end,
        })
    });
    let verdict_cache = status.verdict_cache.map(|cache| {
        json!({
            "entries": cache.entries,
            "bytes": cache.bytes,
            "misses": cache.misses,
            "stored": cache.stored,
            "evictions": cache.evicted,
            "purges": cache.purged,
        })
    });
    let reported = status.reported;
    let metrics = (reported.reports > 0).then(|| {
        json!({
            "reports": reported.reports,
            "series": reported.series,
            "over_limit": reported.over_limit,
            "invalid": reported.invalid,
        })
    });
    let config_update = status.config_update.as_ref().map(|update| {
        json!({
            "kind": update.kind,
            "detail": update.detail,
            "outcome": update.granted.name(),
            "seconds_ago": update.at.elapsed().unwrap_or_default().as_secs(),
        })
    });
    let replicas: Vec<_> = status.replicas.iter().map(replica_status).collect();
    json!({
        "name": status.id.as_str(),
        "state": status.state.name(),
        "workers": status.wanted,
        "connected": status.connected,
        "connections": status.connections,
        "reconnects": status.reconnects,
        "failovers": status.failovers,
        "pool": pool_status(&status.pool),
        "replicas": replicas,
        "in_flight": status.in_flight,
        "waiting": status.waiting,
        "most_calls": status.most_calls,
        "paused_connections": status.paused,
        "circuit_breaker": status.breaker.name(),
        "rejected_mutations": status.rejected,
        "streams": status.streams,
        "last_error": status.last_error,
        "verdict_cache": verdict_cache,
        "reported_metrics": metrics,
        "last_config_update": config_update,
        "process": process,
    })
}

fn pool_status(pool: &PoolStatus) -> serde_json::Value {
    let average = pool.average_call.map(|average| average.as_secs_f64());
    json!({
        "created": pool.created,
        "closed": pool.closed,
        "idle": pool.idle,
        "busy": pool.busy,
        "found": pool.found,
        "waits": pool.waits,
        "none": pool.none,
        "hit_rate": pool.hit_rate(),
        "average_call_seconds": average,
    })
}

fn replica_status(replica: &ReplicaStatus) -> serde_json::Value {
    json!({
        "target": replica.target,
        "connections": replica.connections,
        "circuit_breaker": replica.breaker.name(),
        "last_error": replica.last_error,
    })
}

/// `/livez`, `/readyz` and `/metrics`, for everyone.
struct ProbesApp(Arc<Health>);

#[async_trait]
impl ServeHttp for ProbesApp {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let verbose = head
            .uri
            .query()
            .is_some_and(|query| query.contains("verbose"));
        self.0
            .probe(head.uri.path(), verbose)
            .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "not found\n"))
    }
}

/// The same with what is missing, `/status`, `/shadow` for `portcullis shadow report`, `/requests/ID` for `portcullis why` and
/// `/recordings` for `portcullis agent record`; for the operator at this machine.
struct AdminApp {
    health: Arc<Health>,
    /// Whether the listener can be reached by a browser, whose pages must not be able to ask.
    over_tcp: bool,
}

#[async_trait]
impl ServeHttp for AdminApp {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        if self.over_tcp && !is_local(head.headers.get(header::HOST)) {
            return text(StatusCode::FORBIDDEN, "unknown Host\n");
        }
        if head.headers.contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not for web pages\n");
        }
        if head.uri.path().starts_with(recordings::PATH) {
            return recordings::answer(&self.health, session).await;
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let path = head.uri.path();
        if let Some(id) = path.strip_prefix("/requests/") {
            return self.health.explain(id);
        }
        match path {
            "/" | "/status" => self.health.status(),
            "/shadow" => self.health.shadow(),
            _ => self
                .health
                .probe(path, true)
                .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "not found\n")),
        }
    }
}

/// Whether a Host header names this machine's loopback. A name that an attacker made to resolve to it does not.
fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn text(status: StatusCode, body: &str) -> Response<Vec<u8>> {
    typed(
        status,
        "text/plain; charset=utf-8",
        body.as_bytes().to_vec(),
    )
}

fn typed(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let length = response.body().len();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_local() {
        for (host, local) in [
            ("localhost", true),
            ("localhost:9901", true),
            ("127.0.0.1:9901", true),
            ("[::1]:9901", true),
            ("[::1]", true),
            ("example.com", false),
            ("127.0.0.1.example.com:9901", false),
            ("localhost.example.com", false),
            ("", false),
        ] {
            let value = HeaderValue::from_str(host).unwrap();
            assert_eq!(is_local(Some(&value)), local, "{host}");
        }
        assert!(!is_local(None));
    }
}
