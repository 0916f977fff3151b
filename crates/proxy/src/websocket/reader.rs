//! The frames of one direction, out of a stream of bytes: what keeps messages together, and their texts and sizes.

use super::{
    close,
    frame::{self, Frame, Opcode, Raw, Rules, Violation},
    inflate::Inflater,
    utf8::Utf8,
};
use bytes::BytesMut;

/// What may come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a frame, and of what it inflates to.
    pub(crate) frame_bytes: u64,
    /// Bytes of a message, inflated.
    pub(crate) message_bytes: u64,
}

/// Reads the frames of one side.
#[derive(Debug)]
pub(crate) struct Reader {
    rules: Rules,
    limits: Limits,
    buffer: BytesMut,
    message: Option<Message>,
    /// Where the two sides have agreed on compression.
    inflater: Option<Inflater>,
    closed: bool,
}

/// A message whose end has not come.
#[derive(Debug)]
struct Message {
    bytes: u64,
    text: Option<Utf8>,
    compressed: bool,
}

/// A buffer that is larger is given back when it is empty, so that silent sockets stay small.
const KEPT_BYTES: usize = 4 << 10;

impl Reader {
    /// `masked` is the client. `max_ratio` is there where messages may be compressed.
    pub(crate) fn new(masked: bool, limits: Limits, max_ratio: Option<u32>) -> Self {
        Self {
            rules: Rules {
                masked,
                compressed: max_ratio.is_some(),
                most: limits.frame_bytes,
            },
            limits,
            buffer: BytesMut::new(),
            message: None,
            inflater: max_ratio.map(Inflater::new),
            closed: false,
        }
    }

    /// Takes what has come.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// Bytes of frames that nobody has taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// A close frame has come.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next frame, when all of it is here. Nothing comes behind a close frame (RFC 6455 section 5.5.1).
    ///
    /// # Errors
    /// The side does not keep to the rules; what follows means nothing.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Violation> {
        if self.closed {
            self.buffer = BytesMut::new();
            return Ok(None);
        }
        let Some(raw) = frame::take(&mut self.buffer, &self.rules)? else {
            return Ok(None);
        };
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        self.check(raw).map(Some)
    }

    fn check(&mut self, raw: Raw) -> Result<Frame, Violation> {
        let Raw { frame, compressed } = raw;
        match frame.opcode {
            Opcode::Ping | Opcode::Pong => Ok(frame),
            Opcode::Close => {
                close::code(&frame.data)?;
                self.closed = true;
                Ok(frame)
            }
            Opcode::Text | Opcode::Binary if self.message.is_some() => {
                Err(Violation::protocol("a message begins within another"))
            }
            Opcode::Text | Opcode::Binary => {
                let message = Message {
                    bytes: 0,
                    text: (frame.opcode == Opcode::Text).then(Utf8::default),
                    compressed,
                };
                self.piece(message, frame)
            }
            Opcode::Continuation => match self.message.take() {
                Some(message) => self.piece(message, frame),
                None => Err(Violation::protocol("a message goes on that has not begun")),
            },
        }
    }

    fn piece(&mut self, mut message: Message, mut frame: Frame) -> Result<Frame, Violation> {
        if let (true, Some(inflater)) = (message.compressed, &mut self.inflater) {
            let most = self.limits.frame_bytes;
            frame.data = inflater.frame(&frame.data, frame.fin, most)?;
        }
        message.bytes += frame.data.len() as u64;
        if message.bytes > self.limits.message_bytes {
            return Err(Violation::too_big("a message of more than message-bytes"));
        }
        if let Some(text) = &mut message.text {
            let good = text.push(&frame.data).is_ok() && (!frame.fin || text.is_complete());
            if !good {
                return Err(Violation::invalid("a text that is not UTF-8"));
            }
        }
        if !frame.fin {
            self.message = Some(message);
        }
        Ok(frame)
    }
}
