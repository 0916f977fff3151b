//! The frames of a client's HTTP/2 connection, counted as they pass. Frames that carry nothing cost us as much as those that
//! do, so they have a budget: whoever makes use of the connection earns it, and whoever only sends frames runs out of it.
//!
//! The memory that frames may take is bounded by the library that reads them. This bounds their number.

use super::stream::EdgeStream;
use async_trait::async_trait;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// What a connection may spend at once.
const CAPACITY: i64 = 10_000;
/// What it gets back by waiting, in a second.
const PER_SECOND: i64 = 500;
/// So many bytes of a response earn one.
const BYTES_OUT: usize = 128;
/// So many bytes of a request's body earn one.
const BYTES_IN: usize = 1024;
/// A frame that makes us do more than read it: requests that are taken back, settings, empty pieces of bodies.
const DEAR: i64 = 10;
/// Any other frame that carries nothing.
const CHEAP: i64 = 1;

/// Pieces of bodies that are read in one go.
const DATA_PER_TURN: usize = 256;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
/// The code of an RST_STREAM. None that is known needs more than the last of its bytes.
const CODE_BYTES: usize = 4;
/// Codes of resets that a client brings about: PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED and FRAME_SIZE_ERROR.
const PROVOKED: [u8; 4] = [1, 3, 5, 6];
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// A client's stream whose frames are counted. When there is something wrong with them it reads nothing more, and says so.
#[derive(Debug)]
pub(super) struct FramedStream {
    inner: EdgeStream,
    frames: FrameBudget,
    watched: Watched,
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// The budget is used up.
    Flood,
    /// The first frame of a client are its settings (RFC 9113 section 3.4).
    NoSettings,
}

/// Whether a connection has to end. Whoever notices it wakes the task that drives the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched(Arc<OnceLock<Violation>>);

impl Watched {
    pub(super) fn violation(&self) -> Option<Violation> {
        self.0.get().copied()
    }
}

impl FramedStream {
    pub(super) fn new(inner: EdgeStream, watched: Watched) -> Self {
        Self {
            inner,
            frames: FrameBudget::new(Instant::now()),
            watched,
        }
    }
}

impl AsyncRead for FramedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watched.violation().is_some() {
            return Poll::Pending;
        }
        if self.frames.data_since_turn >= DATA_PER_TURN {
            // Whoever takes the pieces has a turn before there are more of them.
            self.frames.data_since_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Err(violation) = self.frames.read(&buffer.filled()[before..], Instant::now) {
            // The first one counts.
            let _ = self.watched.0.set(violation);
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl AsyncWrite for FramedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, data);
        if let Poll::Ready(Ok(count)) = polled
            && let Err(violation) = self.frames.wrote(&data[..count], Instant::now)
        {
            // The first one counts.
            let _ = self.watched.0.set(violation);
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for FramedStream {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

impl UniqueID for FramedStream {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for FramedStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl Peek for FramedStream {}

impl GetTimingDigest for FramedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for FramedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for FramedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

/// Finds the heads of frames in what is read, and keeps the account.
#[derive(Debug)]
struct FrameBudget {
    left: i64,
    filled_up: Instant,
    /// Bytes that have not earned anything yet.
    bytes_out: usize,
    bytes_in: usize,
    data_since_turn: usize,
    resets: Resets,
    settings_seen: bool,
    /// Bytes up to the next head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    head_read: usize,
}

impl FrameBudget {
    /// That of a connection whose client begins with the preface.
    fn new(now: Instant) -> Self {
        Self {
            left: CAPACITY,
            filled_up: now,
            bytes_out: 0,
            bytes_in: 0,
            data_since_turn: 0,
            resets: Resets::default(),
            settings_seen: false,
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_read: 0,
        }
    }

    /// Counts what the client has sent.
    fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Violation> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let count = (HEAD_BYTES - self.head_read).min(bytes.len());
            self.head[self.head_read..self.head_read + count].copy_from_slice(&bytes[..count]);
            self.head_read += count;
            bytes = &bytes[count..];
            if self.head_read < HEAD_BYTES {
                return Ok(());
            }
            self.head_read = 0;
            if !std::mem::replace(&mut self.settings_seen, true) && self.head[3] != SETTINGS {
                return Err(Violation::NoSettings);
            }
            if !self.pay_for_frame(&now) {
                return Err(Violation::Flood);
            }
        }
    }

    fn pay_for_frame(&mut self, now: impl Fn() -> Instant) -> bool {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        let cost = match kind {
            DATA if length > 0 => {
                self.bytes_in += length;
                self.earn(self.bytes_in / BYTES_IN);
                self.bytes_in %= BYTES_IN;
                self.data_since_turn += 1;
                return true;
            }
            DATA if flags & END_STREAM != 0 => return true,
            // How many there may be at a time is a setting of its own.
            HEADERS => return true,
            DATA | RST_STREAM => DEAR,
            SETTINGS if flags & ACK == 0 => DEAR,
            _ => CHEAP,
        };
        self.pay(cost, now)
    }

    fn pay(&mut self, cost: i64, now: impl Fn() -> Instant) -> bool {
        if self.left < cost {
            self.fill_up(now());
        }
        self.left -= cost;
        self.left >= 0
    }

    /// Counts what the client was sent. It makes us reset streams by what is wrong with its frames, and pays as if it had taken
    /// the requests back itself.
    fn wrote(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Violation> {
        self.bytes_out += bytes.len();
        self.earn(self.bytes_out / BYTES_OUT);
        self.bytes_out %= BYTES_OUT;
        let provoked = self.resets.count(bytes);
        match provoked == 0 || self.pay(provoked.saturating_mul(DEAR), now) {
            true => Ok(()),
            false => Err(Violation::Flood),
        }
    }

    fn earn(&mut self, earned: usize) {
        let earned = i64::try_from(earned).unwrap_or(CAPACITY);
        self.left = self.left.saturating_add(earned).min(CAPACITY);
    }

    fn fill_up(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.filled_up);
        let earned = waited
            .as_millis()
            .saturating_mul(PER_SECOND.unsigned_abs().into())
            / 1000;
        self.earn(usize::try_from(earned).unwrap_or(usize::MAX));
        self.filled_up = now;
    }
}

/// Finds, in what the client is sent, the resets of streams that it has brought about.
#[derive(Debug, Default)]
struct Resets {
    /// Bytes up to the next head.
    skip: usize,
    frame: [u8; HEAD_BYTES + CODE_BYTES],
    read: usize,
}

impl Resets {
    fn count(&mut self, mut bytes: &[u8]) -> i64 {
        let mut provoked = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let is_reset = self.read >= HEAD_BYTES;
            let wanted = if is_reset {
                self.frame.len()
            } else {
                HEAD_BYTES
            };
            let count = (wanted - self.read).min(bytes.len());
            self.frame[self.read..self.read + count].copy_from_slice(&bytes[..count]);
            self.read += count;
            bytes = &bytes[count..];
            if self.read < wanted {
                break;
            }
            let [high, middle, low, kind, ..] = self.frame;
            if is_reset {
                let [.., code] = self.frame;
                provoked += i64::from(PROVOKED.contains(&code));
            } else if kind == RST_STREAM {
                continue;
            } else {
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            }
            self.read = 0;
        }
        provoked
    }
}

/// Between the refusal of further frames and the end of the connection.
pub(super) const TO_SAY_SO: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![
            0,
            (length >> 8) as u8,
            length as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        bytes.resize(HEAD_BYTES + length, b'x');
        bytes
    }

    fn begun() -> (FrameBudget, Instant) {
        let now = Instant::now();
        let mut budget = FrameBudget::new(now);
        assert_eq!(budget.read(&[b'P'; PREFACE_BYTES], || now), Ok(()));
        budget.settings_seen = true;
        (budget, now)
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        for (name, kind, flags, length, most) in [
            ("empty data", DATA, 0, 0, 1000),
            ("priority", 2, 0, 5, 10_000),
            ("reset", RST_STREAM, 0, 4, 1000),
            ("settings", SETTINGS, 0, 6, 1000),
            ("their acknowledgement", SETTINGS, ACK, 0, 10_000),
            ("ping", 6, 0, 8, 10_000),
            ("window update", 8, 0, 4, 10_000),
            ("continuation", 9, 0, 1, 10_000),
            ("unknown", 0xbe, 0, 100, 10_000),
        ] {
            let (mut budget, now) = begun();
            let frame = frame(kind, flags, length);
            let read = (0..)
                .take_while(|_| budget.read(&frame, || now).is_ok())
                .count();
            assert_eq!(read, most, "{name}");
        }
    }

    #[test]
    fn frames_of_requests_are_free() {
        for (kind, flags, length) in [(HEADERS, 0, 30), (DATA, 0, 1), (DATA, END_STREAM, 0)] {
            let (mut budget, now) = begun();
            let frame = frame(kind, flags, length);
            assert!((0..100_000).all(|_| budget.read(&frame, || now).is_ok()));
            assert!(budget.left >= CAPACITY);
        }
    }

    /// How many pings a connection has that has spent what it had, and then does this until then.
    fn pings(earns: impl Fn(&mut FrameBudget, Instant), seconds: u64) -> usize {
        let (mut budget, now) = begun();
        budget.left = 0;
        earns(&mut budget, now);
        let ping = frame(6, 0, 8);
        let later = now + Duration::from_secs(seconds);
        (0..)
            .take_while(|_| budget.read(&ping, || later).is_ok())
            .count()
    }

    #[test]
    fn use_and_time_earn_frames() {
        assert_eq!(pings(|_, _| {}, 0), 0);
        assert_eq!(pings(|_, _| {}, 2), 1000);
        // One that has been silent for long has no more than a new one.
        assert_eq!(pings(|_, _| {}, 9999), 10_000);
        let takes = |budget: &mut FrameBudget, now| {
            let sent = frame(DATA, 0, BYTES_OUT * 20 - HEAD_BYTES);
            let (most, last) = sent.split_at(sent.len() - 1);
            assert_eq!(budget.wrote(most, || now), Ok(()));
            assert_eq!(budget.wrote(last, || now), Ok(()));
        };
        assert_eq!(pings(takes, 0), 20);
        let gives = |budget: &mut FrameBudget, now| {
            for _ in 0..30 {
                assert_eq!(budget.read(&frame(DATA, 0, BYTES_IN), || now), Ok(()));
            }
        };
        assert_eq!(pings(gives, 0), 30);
    }

    #[test]
    fn resets_that_a_client_brings_about_are_its_own() {
        let reset = |code: u8| {
            let mut bytes = frame(RST_STREAM, 0, CODE_BYTES);
            bytes[HEAD_BYTES..].copy_from_slice(&[0, 0, 0, code]);
            bytes
        };
        // What is between them says nothing, whatever is in it.
        let between = frame(HEADERS, 0, 40);
        for (code, most) in [(1, 1000), (5, 1000), (0, 5000), (7, 5000), (8, 5000)] {
            for size in [1, 9, 12, usize::MAX] {
                let (mut budget, now) = begun();
                let sent = [&between[..], &reset(code)].concat();
                let mut pieces = sent.chunks(size.min(sent.len())).cycle();
                let count = sent.len().div_ceil(size.min(sent.len()));
                let mut all = || {
                    (0..count).all(|_| {
                        let piece = pieces.next().unwrap();
                        // What it is sent earns as well, but not here.
                        budget.bytes_out = 0;
                        budget.wrote(piece, || now).is_ok()
                    })
                };
                let sent = (0..5000).take_while(|_| all()).count();
                assert_eq!(sent, most, "{code} in {size}");
            }
        }
    }

    #[test]
    fn a_client_begins_with_its_settings() {
        for (first, read) in [
            (frame(SETTINGS, 0, 6), Ok(())),
            (frame(6, 0, 8), Err(Violation::NoSettings)),
            (frame(HEADERS, 0, 8), Err(Violation::NoSettings)),
        ] {
            let now = Instant::now();
            let mut budget = FrameBudget::new(now);
            let bytes = [&[b'P'; PREFACE_BYTES][..], &first, &frame(HEADERS, 0, 8)].concat();
            assert_eq!(budget.read(&bytes, || now), read);
        }
    }

    proptest! {
        /// How the bytes are cut makes no difference.
        #[test]
        fn heads_are_found_wherever_they_are_cut(
            frames in proptest::collection::vec((0_u8..12, any::<u8>(), 0_usize..40), 0..40),
            cuts in proptest::collection::vec(1_usize..30, 1..40),
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, length)| frame(*kind, *flags, *length))
                .collect();
            let (mut whole, now) = begun();
            let passed = whole.read(&bytes, || now);
            let (mut pieces, _) = begun();
            let mut rest = &bytes[..];
            let mut cuts = cuts.iter().cycle();
            let mut all = Ok(());
            while let (false, Some(cut)) = (rest.is_empty(), cuts.next()) {
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                all = all.and(pieces.read(piece, || now));
                rest = more;
            }
            prop_assert_eq!((passed, whole.left), (all, pieces.left));
        }
    }
}
