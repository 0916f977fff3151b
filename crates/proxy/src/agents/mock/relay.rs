//! Stands between proxies and an agent, and does to connections what no agent
//! of the library does.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portcullis_agent_protocol::EventKind;
use portcullis_agent_protocol::codec::frame::{self, MAX_FRAME_BYTES, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// A frame that claims more bytes than any may have, and some more.
const GARBAGE: &[u8] = b"\xff\xff\xff\xffthis is no message\r\n";

/// How long nothing is accepted after accepting went wrong.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is done to a connection, and when.
#[derive(Debug, Clone)]
pub(crate) struct Spoils {
    /// At events of these kinds.
    pub(super) phases: Vec<EventKind>,
    /// After this time.
    pub(super) delay: Duration,
    /// It is closed; otherwise garbage is sent on it.
    pub(super) closes: bool,
}

/// Where the agent behind the relay listens.
pub(crate) fn inner_socket(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(OsString::from(".inner"));
    path.with_file_name(name)
}

/// Takes connections and passes them on, until the process ends.
pub(crate) async fn stand_before(inner: PathBuf, listener: UnixListener, spoils: Spoils) {
    loop {
        let Ok((proxy, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (inner, spoils) = (inner.clone(), spoils.clone());
        tokio::spawn(async move {
            // However it ends, both connections end.
            let _ = pass_on(proxy, &inner, &spoils).await;
        });
    }
}

async fn pass_on(proxy: UnixStream, inner: &Path, spoils: &Spoils) -> io::Result<()> {
    let agent = UnixStream::connect(inner).await?;
    let (proxy_out, mut proxy_in) = proxy.into_split();
    let (mut agent_out, agent_in) = agent.into_split();
    tokio::select! {
        answers = tokio::io::copy(&mut agent_out, &mut proxy_in) => answers.map(drop),
        spoilt = until_spoilt(proxy_out, agent_in, spoils) => {
            spoilt?;
            tokio::time::sleep(spoils.delay).await;
            if spoils.closes {
                return Ok(());
            }
            proxy_in.write_all(GARBAGE).await?;
            // The proxy has seen enough when it closes.
            tokio::io::copy(&mut agent_out, &mut proxy_in).await.map(drop)
        }
    }
}

/// Passes events on until there is one of those.
async fn until_spoilt(
    mut proxy: OwnedReadHalf,
    mut agent: OwnedWriteHalf,
    spoils: &Spoils,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let frame = frame::take(&mut buffer, MAX_FRAME_BYTES).map_err(io::Error::other)?;
        let Some((kind, payload)) = frame else {
            if proxy.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        if kind
            .event_kind()
            .is_some_and(|kind| spoils.phases.contains(&kind))
        {
            return Ok(());
        }
        agent.write_all(&framed(kind, &payload)?).await?;
    }
}

fn framed(kind: MessageType, payload: &Bytes) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(frame::HEADER_BYTES + payload.len());
    frame::append(&mut out, kind, MAX_FRAME_BYTES, |out| {
        out.extend_from_slice(payload);
    })
    .map_err(|bytes| io::Error::other(format!("a frame of {bytes} bytes")))?;
    Ok(out)
}
