//! A connection to the agent that is written and read by hand, as a legacy proxy, so that it can be misused.

use super::line::{Tester, failure_in};
use bytes::{Bytes, BytesMut};
use portcullis_agent_protocol::{
    Event, Extensions,
    codec::{
        EventId,
        frame::{self, MAX_FRAME_BYTES, MessageType},
        handshake::{self, Agreement, Configure, HandshakeRequest},
        json,
    },
};
use serde::Serialize;
use std::{borrow::Cow, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::UnixStream,
    time::timeout,
};

/// What a slow reader takes at a time, and how often before it is quick again.
const SIP_BYTES: usize = 1024;
const SIPS: u32 = 128;

/// The connection.
pub(super) struct RawLine {
    reader: Reader,
    writer: Writer,
}

/// What comes from the agent.
pub(super) struct Reader {
    stream: ReadHalf<UnixStream>,
    inbound: BytesMut,
    /// It takes a little at a time, with pauses.
    pub(super) is_slow: bool,
    sips: u32,
}

/// What goes to the agent.
pub(super) struct Writer {
    stream: WriteHalf<UnixStream>,
    timeout: Duration,
}

impl RawLine {
    /// A connection on which nothing was said yet.
    pub(super) async fn dial(tester: &Tester) -> Result<Self, String> {
        let stream = tester.target.dial().await;
        let stream = stream.map_err(|error| error.to_string())?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Self {
            reader: Reader {
                stream: reader,
                inbound: BytesMut::new(),
                is_slow: false,
                sips: 0,
            },
            writer: Writer {
                stream: writer,
                timeout: tester.timeout,
            },
        })
    }

    /// A connection with which events can be sent.
    pub(super) async fn open(tester: &Tester) -> Result<Self, String> {
        let mut line = Self::dial(tester).await?;
        let open = async {
            line.shake_hands(tester).await?;
            Ok(line)
        };
        let opened = timeout(tester.timeout, open).await;
        opened.unwrap_or_else(|_| Err("no handshake in time".to_owned()))
    }

    async fn shake_hands(&mut self, tester: &Tester) -> Result<(), String> {
        let config = tester.config.as_deref();
        let null = serde_json::Value::Null;
        let greeting = HandshakeRequest {
            supported_versions: vec![handshake::PROTOCOL_VERSION],
            proxy_id: "portcullis-check".into(),
            proxy_version: env!("CARGO_PKG_VERSION").into(),
            config: Cow::Borrowed(config.unwrap_or(&null)),
            supported_encodings: vec![handshake::JSON.into()],
            extensions: Vec::new(),
        };
        self.say(MessageType::HandshakeRequest, &greeting).await?;
        let answer = self.expect(MessageType::HandshakeResponse).await?;
        match handshake::decode_response(&answer, Extensions::NONE) {
            Ok(Agreement::Accepted(..)) => {}
            Ok(Agreement::Refused(reason)) => return Err(format!("the agent refused: {reason}")),
            Err(error) => return Err(error.to_string()),
        }
        let Some(config) = config else {
            return Ok(());
        };
        let configure = Configure {
            config: Cow::Borrowed(config),
            config_version: None,
            correlation_id: tester.id().into(),
            event_id: None,
        };
        self.say(MessageType::Configure, &configure).await?;
        let answer = self.expect(MessageType::AgentResponse).await?;
        match is_allow(&answer) {
            true => Ok(()),
            false => Err("the agent refused its configuration".to_owned()),
        }
    }

    async fn say(&mut self, kind: MessageType, message: &impl Serialize) -> Result<(), String> {
        let mut payload = Vec::new();
        handshake::encode(&mut payload, message).map_err(|error| error.to_string())?;
        self.write(&framed(kind, &payload)).await
    }

    /// The next message of this kind; what else the agent says is passed over.
    async fn expect(&mut self, wanted: MessageType) -> Result<Bytes, String> {
        loop {
            match self.next().await? {
                Some((kind, payload)) if kind == wanted => return Ok(payload),
                Some(_) => {}
                None => return Err("it closed".to_owned()),
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.writer.write(bytes).await
    }

    pub(super) async fn next(&mut self) -> Result<Option<(MessageType, Bytes)>, String> {
        self.reader.next().await
    }

    pub(super) fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// An event as a whole frame.
    pub(super) fn event(event: &Event<'_>) -> Vec<u8> {
        let mut payload = Vec::new();
        json::encode_event(&mut payload, None, event);
        framed(event.kind().into(), &payload)
    }

    /// To which event an answer belongs.
    pub(super) fn id_of(answer: &[u8]) -> Option<String> {
        match json::find_event_id(answer, false)? {
            EventId::Correlation(id) => Some(id),
            EventId::Number(_) => None,
        }
    }
}

/// A whole frame. What is too large for one is none, and the agent says so.
pub(super) fn framed(kind: MessageType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Nothing that is written here is near the limit.
    let framed = frame::append(&mut out, kind, MAX_FRAME_BYTES, |out| {
        out.extend_from_slice(payload);
    });
    debug_assert!(framed.is_ok(), "a message of the check is small");
    out
}

/// Whether an answer lets the event pass.
pub(super) fn is_allow(answer: &[u8]) -> bool {
    match json::decode_answer(answer, Extensions::NONE) {
        Ok((_, Ok(decision))) => decision.is_allow() && failure_in(&decision).is_none(),
        _ => false,
    }
}

impl Reader {
    /// The next message; `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Result<Option<(MessageType, Bytes)>, String> {
        loop {
            let message = frame::take(&mut self.inbound, MAX_FRAME_BYTES);
            if let Some(message) = message.map_err(|error| error.to_string())? {
                return Ok(Some(message));
            }
            if self.read().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> Result<usize, String> {
        let read = match self.is_slow && self.sips < SIPS {
            true => {
                self.sips += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
                sip(&mut self.stream, &mut self.inbound).await
            }
            false => self.stream.read_buf(&mut self.inbound).await,
        };
        match read {
            Ok(count) => Ok(count),
            // It is over, in whatever way.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn sip(stream: &mut (impl AsyncRead + Unpin), into: &mut BytesMut) -> std::io::Result<usize> {
    let mut bytes = [0; SIP_BYTES];
    let count = stream.read(&mut bytes).await?;
    into.extend_from_slice(&bytes[..count]);
    Ok(count)
}

impl Writer {
    /// Writes all of it, each part of it in time.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let part = &bytes[..bytes.len().min(64 << 10)];
            match timeout(self.timeout, self.stream.write_all(part)).await {
                Ok(Ok(())) => bytes = &bytes[part.len()..],
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(format!("nothing was read within {:?}", self.timeout)),
            }
        }
        Ok(())
    }
}
