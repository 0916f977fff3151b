//! The listeners that are not for clients: bound when a configuration is prepared, served on the control thread, exchanged by
//! a reload.

use super::{AdminApp, Health, ProbesApp};
use crate::server::limits::{ConnectionLimits, PerClient};
use pingora::{apps::ServerApp, protocols::l4::stream::Stream};
use portcullis_config::{AdminAddress, Config};
use std::{
    io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::AbortHandle,
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

/// The probes and the admin listener as far as they are served.
#[derive(Default)]
pub(crate) struct Listeners {
    probes: Option<Served<SocketAddr>>,
    admin: Option<Served<AdminAddress>>,
}

/// Served as long as this lives.
struct Served<A> {
    address: A,
    task: AbortHandle,
}

/// What another configuration serves, bound and not yet in use.
pub(crate) struct Plan {
    probes: Planned<SocketAddr>,
    admin: Planned<AdminAddress>,
}

enum Planned<A> {
    Keep,
    Serve(A, Bound),
    Nothing,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listeners {
    /// Binds what is not served yet.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub(crate) async fn plan(&self, config: &Config) -> io::Result<Plan> {
        let probes = match config.probes.as_ref().map(|probes| probes.address) {
            None => Planned::Nothing,
            Some(address) if is_served(&self.probes, &address) => Planned::Keep,
            Some(address) => Planned::Serve(address, bind_tcp("probes", address).await?),
        };
        let admin = match config.admin.as_ref().map(|admin| &admin.address) {
            None => Planned::Nothing,
            Some(address) if is_served(&self.admin, address) => Planned::Keep,
            Some(address) => {
                let bound = match address {
                    AdminAddress::Tcp(address) => bind_tcp("admin", *address).await?,
                    AdminAddress::Unix(path) => Bound::Unix(bind_unix(path)?),
                };
                Planned::Serve(address.clone(), bound)
            }
        };
        Ok(Plan { probes, admin })
    }

    /// Serves what was planned, on the current runtime, and nothing else.
    pub(crate) fn adopt(&mut self, plan: Plan, health: &Arc<Health>) {
        adopt(&mut self.probes, plan.probes, |bound| {
            serve("probes", bound, Arc::new(ProbesApp(health.clone())))
        });
        adopt(&mut self.admin, plan.admin, |bound| {
            let app = AdminApp {
                health: health.clone(),
                over_tcp: matches!(bound, Bound::Tcp(_)),
            };
            serve("admin", bound, Arc::new(app))
        });
    }
}

fn is_served<A: PartialEq>(served: &Option<Served<A>>, address: &A) -> bool {
    served
        .as_ref()
        .is_some_and(|served| served.address == *address)
}

fn adopt<A>(
    served: &mut Option<Served<A>>,
    planned: Planned<A>,
    serve: impl FnOnce(Bound) -> AbortHandle,
) {
    match planned {
        Planned::Keep => {}
        Planned::Nothing => *served = None,
        Planned::Serve(address, bound) => {
            let task = serve(bound);
            *served = Some(Served { address, task });
        }
    }
}

impl<A> Drop for Served<A> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind_tcp(name: &str, address: SocketAddr) -> io::Result<Bound> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{name} cannot listen on {address}: {error}"),
        )
    })?;
    Ok(Bound::Tcp(listener))
}

fn serve<A>(name: &'static str, bound: Bound, app: Arc<A>) -> AbortHandle
where
    A: ServerApp + Send + Sync + 'static,
{
    match bound {
        Bound::Unix(listener) => accept_unix(listener, app, Bounds::OPERATOR),
        Bound::Tcp(listener) => {
            match listener.local_addr() {
                Ok(address) => tracing::info!(listener = name, %address, "listening"),
                Err(error) => tracing::error!(listener = name, %error, "listener is lost"),
            }
            accept_tcp(listener, app)
        }
    }
}

fn accept_tcp<A>(listener: TcpListener, app: Arc<A>) -> AbortHandle
where
    A: ServerApp + Send + Sync + 'static,
{
    // Everybody may knock, so a connection beyond the bounds is closed and does not keep others waiting.
    let places = Arc::new(ConnectionLimits::new(Bounds::OPERATOR.connections));
    let accepting = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let per_client = Some(PerClient::in_all(Bounds::OPERATOR.connections / 4));
                    if let Ok(place) = places.admit(peer.ip(), per_client) {
                        spawn(stream.into(), app.clone(), place, Bounds::OPERATOR.longest);
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    accepting.abort_handle()
}

/// Serves an application on a Unix socket that only this user can open, as long as the process lives. An old socket at the
/// path is replaced.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn serve_unix<A>(path: &Path, app: Arc<A>, bounds: Bounds) -> io::Result<()>
where
    A: ServerApp + Send + Sync + 'static,
{
    accept_unix(bind_unix(path)?, app, bounds);
    Ok(())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
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
    Ok(listener)
}

fn accept_unix<A>(listener: UnixListener, app: Arc<A>, bounds: Bounds) -> AbortHandle
where
    A: ServerApp + Send + Sync + 'static,
{
    let accepting = tokio::spawn(async move {
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
    accepting.abort_handle()
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
