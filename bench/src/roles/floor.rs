//! The floor that we are measured against: Pingora with `upstream_peer` and nothing else.
//!
//! It runs as our proxy does, on one current-thread runtime without work stealing, and with Pingora's defaults for all
//! else: no log, no metrics, no limits, no timeouts to the origin.

use crate::error::BenchError;
use async_trait::async_trait;
use pingora::{
    Result,
    apps::ServerApp,
    listeners::{Listeners, TcpSocketOptions, tls::TlsSettings},
    protocols::l4::stream::Stream as L4Stream,
    proxy::{HttpProxy, ProxyHttp, Session},
    server::{ShutdownWatch, configuration::ServerConf},
    services::{Service as _, listening::Service},
    upstreams::peer::HttpPeer,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, sync::watch};

/// Who accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accept {
    /// Pingora's listening service.
    Service,
    /// A loop of our own around the same `HttpProxy`, without Pingora's socket buffers.
    Loop,
}

/// Between whom to stand.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Who answers.
    #[arg(long)]
    origin: SocketAddr,
    /// Who accepts connections.
    #[arg(long, value_enum, default_value = "service")]
    accept: Accept,
    /// Speak TLS, and HTTP/2 over it, with this certificate.
    #[arg(long, requires = "key")]
    certificate: Option<String>,
    /// The key of the certificate.
    #[arg(long, requires = "certificate")]
    key: Option<String>,
}

struct Floor {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Floor {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

/// Serves until it is killed.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let configuration = Arc::new(ServerConf {
        threads: 1,
        ..ServerConf::default()
    });
    let mut proxy = HttpProxy::new(
        Floor {
            origin: options.origin,
        },
        configuration,
    );
    proxy.handle_init_modules();
    // Nobody ever asks this process to stop politely.
    let (_stop, stopped) = watch::channel(false);
    let runtime = super::current_thread_runtime()?;
    match options.accept {
        Accept::Service => {
            let listeners = listeners(options)?;
            runtime.block_on(serve_by_service(proxy, listeners, stopped));
            Ok(())
        }
        Accept::Loop => runtime.block_on(serve_by_loop(Arc::new(proxy), options.listen, stopped)),
    }
}

fn listeners(options: &Options) -> Result<Listeners, BenchError> {
    let mut listeners = Listeners::new();
    let address = options.listen.to_string();
    let socket = TcpSocketOptions::default();
    match options.certificate.as_deref().zip(options.key.as_deref()) {
        None => listeners.add_tcp_with_settings(&address, socket),
        Some((certificate, key)) => {
            let mut tls = TlsSettings::intermediate(certificate, key)
                .map_err(|error| BenchError::Usage(format!("{certificate}: {error}")))?;
            tls.enable_h2();
            listeners.add_tls_with_settings(&address, Some(socket), tls);
        }
    }
    Ok(listeners)
}

async fn serve_by_service(proxy: HttpProxy<Floor>, listeners: Listeners, stopped: ShutdownWatch) {
    let mut service = Service::with_listeners("floor".to_owned(), listeners, proxy);
    service.start_service(None, stopped, 1).await;
}

async fn serve_by_loop(
    proxy: Arc<HttpProxy<Floor>>,
    listen: SocketAddr,
    stopped: ShutdownWatch,
) -> Result<(), BenchError> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(BenchError::io(format!("bind {listen}")))?;
    loop {
        let (stream, _) = listener.accept().await.map_err(BenchError::io("accept"))?;
        // Without it, head and body of an answer wait for each other's acknowledgement.
        stream
            .set_nodelay(true)
            .map_err(BenchError::io("set TCP_NODELAY"))?;
        let proxy = Arc::clone(&proxy);
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let mut connection = Some(Box::new(L4Stream::from(stream)) as _);
            while let Some(stream) = connection {
                connection = proxy.process_new(stream, &stopped).await;
            }
        });
    }
}
