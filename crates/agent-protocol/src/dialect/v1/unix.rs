//! An agent of version 1 at a Unix socket.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::UnixStream;

use super::socket::Socket;
use super::{capabilities, configuration, configured, too_large, unsendable};
use crate::codec::v1;
use crate::dialect::exchanges::{Dialect, Exchange};
use crate::{Capabilities, CloseReason, ConnectError, ConnectOptions, Decision, Event};

/// A connection, which is one socket.
#[derive(Debug)]
pub(crate) struct UnixAgent {
    socket: Arc<Socket>,
}

impl UnixAgent {
    /// Dials, and hands over the configuration if there is one.
    pub(crate) async fn connect(
        path: &Path,
        options: &ConnectOptions,
    ) -> Result<(Self, Capabilities), ConnectError> {
        let opened = tokio::time::timeout(options.handshake_timeout, open(path, options)).await;
        let socket = Arc::new(opened.map_err(|_| ConnectError::Timeout)??);
        Ok((Self { socket }, capabilities(options)))
    }
}

async fn open(path: &Path, options: &ConnectOptions) -> Result<Socket, ConnectError> {
    let stream = UnixStream::connect(path).await;
    let socket = Socket::new(stream.map_err(ConnectError::Unreachable)?);
    configure(&socket, options).await?;
    Ok(socket)
}

async fn configure(socket: &Socket, options: &ConnectOptions) -> Result<(), ConnectError> {
    let Some(message) = configuration(options)? else {
        return Ok(());
    };
    let mut question = Vec::new();
    let framed = v1::append(&mut question, |out| out.extend_from_slice(&message));
    framed.map_err(|bytes| unsendable(too_large(bytes)))?;
    let answer = socket.ask(&question).await;
    configured(answer.and_then(|answer| Ok(v1::decode_answer(&answer)?)))
}

impl Dialect for UnixAgent {
    fn ask(&self, event: &Event<'_>) -> Exchange<Decision> {
        let mut question = Vec::new();
        let framed = v1::append(&mut question, |out| v1::encode_question(out, event));
        if let Err(bytes) = framed {
            return Box::pin(std::future::ready(Err(too_large(bytes))));
        }
        let socket = Arc::clone(&self.socket);
        Box::pin(async move {
            let answer = socket.ask(&question).await?;
            v1::decode_answer(&answer).map_err(|error| socket.refuse(error))
        })
    }

    fn ping(&self) -> Exchange<()> {
        let socket = Arc::clone(&self.socket);
        Box::pin(async move { socket.check() })
    }

    fn most_under_way(&self) -> usize {
        1
    }

    fn over(&self) -> Option<CloseReason> {
        self.socket.over()
    }

    fn lost(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let socket = Arc::clone(&self.socket);
        Box::pin(async move { socket.lost().await })
    }
}
