//! Probes and the admin listener: small answers about the process, served on the control thread, away from traffic.

use crate::{server::limits::ConnectionLimits, telemetry::Telemetry};
use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora::{
    apps::{ServerApp, http_app::ServeHttp},
    protocols::{http::ServerSession, l4::stream::Stream},
};
use portcullis_agent_manager::{AgentManager, AgentStatus};
use portcullis_config::{AdminAddress, AgentId, Config};
use serde_json::json;
use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};

/// What a listener of this module takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// More connections than this are closed at once, or wait when they come over a Unix socket.
    pub(crate) connections: usize,
    /// A connection is closed after this time, however busy it is; `None` for our own.
    pub(crate) longest: Option<Duration>,
}

impl Bounds {
    /// For operators and probes.
    const OPERATOR: Self = Self {
        connections: 256,
        longest: Some(Duration::from_secs(10)),
    };
    /// For connections of the proxy to itself.
    pub(crate) const INTERNAL: Self = Self {
        connections: 4096,
        longest: None,
    };
}

/// What the process can say about itself.
pub(crate) struct Health {
    agents: Arc<AgentManager>,
    telemetry: Arc<Telemetry>,
    connections: Arc<ConnectionLimits>,
    /// Agents without which some route refuses requests.
    needed: Vec<AgentId>,
    /// Once ready, an agent that is lost does not take the whole process out of service.
    was_ready: AtomicBool,
    draining: AtomicBool,
    started: Instant,
}

impl Health {
    pub(crate) fn new(
        agents: Arc<AgentManager>,
        telemetry: Arc<Telemetry>,
        connections: Arc<ConnectionLimits>,
        needed: Vec<AgentId>,
    ) -> Self {
        Self {
            agents,
            telemetry,
            connections,
            needed,
            was_ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: Instant::now(),
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
        let missing: Vec<String> = self
            .agents
            .status()
            .into_iter()
            .filter(|status| self.needed.contains(&status.id))
            .filter(|status| status.wanted == 0 || status.connected < status.wanted)
            .map(|status| {
                let error = status.last_error.as_deref().unwrap_or("connecting");
                format!("agent {}: {error}", status.id)
            })
            .collect();
        if missing.is_empty() {
            self.was_ready.store(true, Relaxed);
            return Ok(());
        }
        Err(missing.join("; "))
    }

    fn metrics(&self) -> String {
        let open = i64::try_from(self.connections.open()).unwrap_or(i64::MAX);
        self.telemetry.metrics.connections.set(open);
        self.telemetry.metrics.encode(&self.agents.status())
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
        let agents: Vec<_> = self.agents.status().iter().map(agent_status).collect();
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": self.readiness().is_ok(),
            "config_generation": self.telemetry.metrics.config_generation.get(),
            "connections_open": self.connections.open(),
            "agents": agents,
        });
        let body = serde_json::to_vec_pretty(&status).unwrap_or_default();
        typed(StatusCode::OK, "application/json", body)
    }
}

fn agent_status(status: &AgentStatus) -> serde_json::Value {
    json!({
        "name": status.id.as_str(),
        "workers": status.wanted,
        "connected": status.connected,
        "connections": status.connections,
        "reconnects": status.reconnects,
        "in_flight": status.in_flight,
        "waiting": status.waiting,
        "circuit_breaker": status.breaker.name(),
        "rejected_mutations": status.rejected,
        "last_error": status.last_error,
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

/// The same and `/status`, for the operator at this machine.
struct AdminApp {
    health: Arc<Health>,
    /// Whether the listener can be reached by a browser, whose pages must not be able to ask.
    over_tcp: bool,
}

#[async_trait]
impl ServeHttp for AdminApp {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        if self.over_tcp && !is_local(head.headers.get(header::HOST)) {
            return text(StatusCode::FORBIDDEN, "unknown Host\n");
        }
        if head.headers.contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not for web pages\n");
        }
        let path = head.uri.path();
        match path {
            "/" | "/status" => self.health.status(),
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

/// Starts the listeners that the configuration names, on the current runtime.
///
/// # Errors
/// An address cannot be listened on.
pub(crate) async fn start(config: &Config, health: &Arc<Health>) -> io::Result<()> {
    if let Some(probes) = &config.probes {
        serve_tcp(
            "probes",
            probes.address,
            Arc::new(ProbesApp(health.clone())),
        )
        .await?;
    }
    if let Some(admin) = &config.admin {
        let app = |over_tcp| {
            Arc::new(AdminApp {
                health: health.clone(),
                over_tcp,
            })
        };
        match &admin.address {
            AdminAddress::Tcp(address) => serve_tcp("admin", *address, app(true)).await?,
            AdminAddress::Unix(path) => serve_unix(path, app(false), Bounds::OPERATOR)?,
        }
    }
    Ok(())
}

async fn serve_tcp<A>(name: &'static str, address: SocketAddr, app: Arc<A>) -> io::Result<()>
where
    A: ServerApp + Send + Sync + 'static,
{
    let listener = TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{name} cannot listen on {address}: {error}"),
        )
    })?;
    tracing::info!(listener = name, address = %listener.local_addr()?, "listening");
    // Everybody may knock, so a connection beyond the bounds is closed and does not keep others waiting.
    let places = Arc::new(ConnectionLimits::new(Bounds::OPERATOR.connections));
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let per_client = Some(Bounds::OPERATOR.connections / 4);
                    if let Ok(place) = places.admit(peer.ip(), per_client) {
                        spawn(stream.into(), app.clone(), place, Bounds::OPERATOR.longest);
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

/// Serves an application on a Unix socket that only this user can open. An old socket at the path is replaced.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn serve_unix<A>(path: &Path, app: Arc<A>, bounds: Bounds) -> io::Result<()>
where
    A: ServerApp + Send + Sync + 'static,
{
    let failed = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}", path.display()),
        )
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(io::ErrorKind::AddrInUse.into()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(bounds.connections));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => spawn(stream.into(), app.clone(), place, bounds.longest),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

fn spawn<A>(mut stream: Stream, app: Arc<A>, place: impl Send + 'static, longest: Option<Duration>)
where
    A: ServerApp + Send + Sync + 'static,
{
    tokio::spawn(async move {
        let _place = place;
        let _ = stream.set_nodelay();
        // Nobody tells these connections that the process ends; they end with it.
        let shutdown = tokio::sync::watch::Sender::new(false);
        let watch = shutdown.subscribe();
        let served = app.process_new(Box::new(stream), &watch);
        match longest {
            Some(longest) => {
                let _ = tokio::time::timeout(longest, served).await;
            }
            None => {
                served.await;
            }
        }
    });
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
