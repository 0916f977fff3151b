//! The sockets of listeners: one per worker on the same address, among which the kernel spreads connections.

use super::{ServeError, connection::Listener, worker::Socket};
use socket2::{Domain, Protocol, Type};
use std::{io, net::SocketAddr, sync::Arc};

/// Connections that wait to be accepted, per socket. The kernel may allow fewer (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Binds every listener once for each worker: the outer list is of workers.
///
/// # Errors
/// An address cannot be listened on.
pub(super) fn bind_all(
    listeners: &[portcullis_config::Listener],
    workers: usize,
) -> Result<Vec<Vec<Socket>>, ServeError> {
    let mut sockets: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::new()).collect();
    for config in listeners {
        let listener = Arc::new(Listener {
            id: config.id.clone(),
            h2c: config.h2c,
            timeouts: config.timeouts,
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
        });
        let failed = |source| ServeError::Bind {
            listener: config.id.to_string(),
            address: config.address.to_string(),
            source,
        };
        // Sockets that share an address would take connections from another process without a word, so the first look is
        // whether the address is free.
        let address = listen(config.address, false)
            .and_then(|socket| socket.local_addr())
            .map_err(failed)?;
        for worker in &mut sockets {
            let socket = listen(address, true).map_err(failed)?;
            worker.push(Socket {
                listener: listener.clone(),
                socket,
                local: address,
            });
        }
        tracing::info!(listener = %config.id, %address, "listening");
    }
    Ok(sockets)
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What to do about an address that cannot be used.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there, see `ss -ltnp`",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}
