//! Checks with what no proxy sends: an agent may close the connection on which it comes, and must go on with others.

use super::{
    super::phase_of,
    line::{Checked, Done, Speaks, Tester},
    questions::NOT_ANNOUNCED,
    raw::{RawLine, framed, is_allow},
};
use portcullis_agent_protocol::codec::frame::MessageType;
use std::time::Duration;
use tokio::time::timeout;

/// How long it is watched what becomes of a connection that was misused.
const WATCHED: Duration = Duration::from_millis(300);

/// What is sent, and whether after a handshake.
struct Misuse {
    bytes: Vec<u8>,
    is_open: bool,
}

/// Sends each of them on a connection of its own.
async fn misused(tester: &Tester, misuses: Vec<Misuse>) -> Checked {
    let bystander = tester.open(Speaks::Extended).await?;
    bystander.is_answered().await?;
    let mut closed = 0;
    let count = misuses.len();
    for misuse in misuses {
        let mut line = match misuse.is_open {
            true => RawLine::open(tester).await?,
            false => RawLine::dial(tester).await?,
        };
        // It may have closed before it has read everything.
        let _ = line.write(&misuse.bytes).await;
        let limit = WATCHED.min(tester.timeout);
        let watch = async {
            while let Ok(Some((kind, payload))) = line.next().await {
                if kind == MessageType::AgentResponse && is_allow(&payload) {
                    return Err("it allows what cannot be read".to_owned());
                }
            }
            Ok(())
        };
        match timeout(limit, watch).await {
            Ok(watched) => {
                watched?;
                closed += 1;
            }
            Err(_still_open) => {}
        }
        drop(line);
        let others = bystander.is_answered().await;
        others.map_err(|error| format!("on another connection: {error}"))?;
        let again = tester.open(Speaks::Extended).await;
        let again = again.map_err(|error| format!("on a new connection: {error}"))?;
        let again = again.is_answered().await;
        again.map_err(|error| format!("on a new connection: {error}"))?;
    }
    bystander.settle().await;
    Ok(match closed == count {
        true => Done::Passed("it closes the connection".to_owned()),
        false => Done::passed(),
    })
}

/// Lengths that no frame may have, before and after the handshake.
pub(super) async fn garbage_frame(tester: &Tester) -> Checked {
    let misuse = |bytes: &[u8], is_open| Misuse {
        bytes: bytes.to_vec(),
        is_open,
    };
    let misuses = vec![
        misuse(b"GET / HTTP/1.1\r\nhost: agent\r\n\r\n", false),
        misuse(b"\xff\xff\xff\xff\x10{}", true),
        misuse(b"\0\0\0\0\0\0\0\0", true),
    ];
    misused(tester, misuses).await
}

/// Events whose JSON ends in the middle, in a frame that is whole.
pub(super) async fn broken_json(tester: &Tester) -> Checked {
    let Some(kind) = tester.first_kind() else {
        return Ok(Done::Skipped(NOT_ANNOUNCED.to_owned()));
    };
    let id = tester.id();
    let event = format!(r#"{{"correlation_id":"{id}","metadata":{{"correlation_id":"{id}""#);
    let payloads = [event.as_bytes(), b"", b"\xff\xfe\x00", b"[[[[[["];
    let misuses = payloads.map(|payload| Misuse {
        bytes: framed(kind.into(), payload),
        is_open: true,
    });
    let checked = misused(tester, misuses.into()).await;
    checked.map_err(|error| format!("{}: {error}", phase_of(kind)))
}

/// Messages of a type that does not exist, and of one that only agents send.
pub(super) async fn unknown_type(tester: &Tester) -> Checked {
    let mut unknown = framed(MessageType::Ping, b"{}");
    if let Some(kind) = unknown.get_mut(4) {
        *kind = 0x7f;
    }
    let misuses = [unknown, framed(MessageType::AgentResponse, b"{}")];
    let misuses = misuses.map(|bytes| Misuse {
        bytes,
        is_open: true,
    });
    misused(tester, misuses.into()).await
}
