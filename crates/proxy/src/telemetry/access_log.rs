//! The access log: one line per request. A line is put together in memory and written by a thread of its own, so that no
//! request ever waits for the sink. What waits to be written is bounded; beyond the bound lines are dropped and counted.

use super::Refused;
use chrono::{DateTime, Utc};
use portcullis_config::{AccessLogFormat, ListenerId, LogSink};
use prometheus_client::metrics::counter::Counter;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// At most this much waits for the sink.
const BUFFER_BYTES: usize = 4 << 20;
/// Lines are collected for this long before they are written together.
const COLLECT: Duration = Duration::from_millis(20);

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLog {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    format: AccessLogFormat,
    dropped: Counter,
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    clock: Clock,
    /// The writer has taken lines and is not done with them.
    writing: bool,
}

impl AccessLog {
    /// A log that drops everything.
    pub(crate) const fn off() -> Self {
        Self { shared: None }
    }

    /// Opens the sink and starts the thread that writes to it.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub(crate) fn open(
        sink: &LogSink,
        format: AccessLogFormat,
        dropped: Counter,
    ) -> io::Result<Self> {
        let sink: Box<dyn Write + Send> = match sink {
            LogSink::Stdout => Box::new(io::stdout()),
            LogSink::Stderr => Box::new(io::stderr()),
            LogSink::File(path) => {
                Box::new(OpenOptions::new().append(true).create(true).open(path)?)
            }
        };
        let shared = Arc::new(Shared {
            format,
            dropped,
            pending: Mutex::default(),
            wake: Condvar::new(),
        });
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.write_for_ever(sink))?;
        Ok(Self {
            shared: Some(shared),
        })
    }

    /// Which form lines have; `None` when nothing is logged.
    pub(crate) fn format(&self) -> Option<AccessLogFormat> {
        self.shared.as_ref().map(|shared| shared.format)
    }

    /// Adds a line. `compose` gets the buffer to append to, without the line's end, and the clock.
    pub(crate) fn write(&self, compose: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        let Some(shared) = &self.shared else { return };
        let mut pending = shared.lock();
        if pending.lines.len() >= BUFFER_BYTES {
            drop(pending);
            shared.dropped.inc();
            return;
        }
        let first = pending.lines.is_empty();
        let Pending { lines, clock, .. } = &mut *pending;
        compose(lines, clock);
        lines.push(b'\n');
        drop(pending);
        if first {
            shared.wake.notify_all();
        }
    }

    /// Waits until what was logged so far is written, at most for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let Some(shared) = &self.shared else { return };
        let pending = shared.lock();
        // The result says whether the limit was reached; either way this is all the waiting that is done.
        let _ = shared.wake.wait_timeout_while(pending, limit, |pending| {
            pending.writing || !pending.lines.is_empty()
        });
    }
}

impl Shared {
    fn write_for_ever(&self, mut sink: Box<dyn Write + Send>) {
        let mut lines = Vec::new();
        let mut failing = false;
        loop {
            let mut pending = self.lock();
            pending.writing = false;
            self.wake.notify_all();
            while pending.lines.is_empty() {
                pending = self
                    .wake
                    .wait(pending)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(pending);
            // More lines come while the first waits; they share one write.
            std::thread::sleep(COLLECT);
            let mut pending = self.lock();
            std::mem::swap(&mut pending.lines, &mut lines);
            pending.writing = true;
            drop(pending);
            match sink.write_all(&lines).and_then(|()| sink.flush()) {
                Ok(()) => failing = false,
                Err(error) => {
                    self.dropped.inc_by(count_lines(&lines));
                    if !failing {
                        tracing::error!(%error, "access log cannot be written");
                    }
                    failing = true;
                }
            }
            lines.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // The worst that a panic leaves behind is half a line.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_lines(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Writes times. The part down to the second is kept, because most lines of a busy proxy share it.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    second: i64,
    rfc3339: String,
    common: String,
}

impl Clock {
    /// RFC 3339 in UTC with milliseconds, as in `2026-01-31T12:00:00.123Z`.
    pub(crate) fn rfc3339(&mut self, line: &mut Vec<u8>, time: SystemTime) {
        let time = DateTime::<Utc>::from(time);
        self.refresh(time);
        line.extend_from_slice(self.rfc3339.as_bytes());
        // The leading one keeps the zeros behind the point.
        let mut milliseconds = itoa::Buffer::new();
        let milliseconds = milliseconds.format(time.timestamp_subsec_millis() + 1000);
        line.push(b'.');
        line.extend_from_slice(&milliseconds.as_bytes()[1..4]);
        line.push(b'Z');
    }

    /// The form of the common log format, as in `31/Jan/2026:12:00:00 +0000`.
    pub(crate) fn common(&mut self, line: &mut Vec<u8>, time: SystemTime) {
        self.refresh(DateTime::<Utc>::from(time));
        line.extend_from_slice(self.common.as_bytes());
    }

    fn refresh(&mut self, time: DateTime<Utc>) {
        if self.second != time.timestamp() || self.rfc3339.is_empty() {
            self.second = time.timestamp();
            self.rfc3339 = time.format("%Y-%m-%dT%H:%M:%S").to_string();
            self.common = time.format("%d/%b/%Y:%H:%M:%S +0000").to_string();
        }
    }
}

/// The line of a connection that ended before there was a request.
pub(super) fn write_refused(
    line: &mut Vec<u8>,
    clock: &mut Clock,
    listener: &ListenerId,
    peer: SocketAddr,
    why: Refused,
) {
    line.extend_from_slice(b"{\"ts\":\"");
    clock.rfc3339(line, SystemTime::now());
    let (ip, name, status) = (peer.ip(), why.name(), why.status());
    line.extend_from_slice(b"\",\"listener\":");
    json_string(line, listener.as_bytes());
    // A Vec takes everything.
    let _ = write!(
        line,
        ",\"client_ip\":\"{ip}\",\"status\":{status},\"reason\":\"{name}\"}}"
    );
}

/// The same in the combined format: there is no request line to show.
pub(super) fn write_refused_combined(
    line: &mut Vec<u8>,
    clock: &mut Clock,
    peer: SocketAddr,
    why: Refused,
) {
    // A Vec takes everything.
    let _ = write!(line, "{} - - [", peer.ip());
    clock.common(line, SystemTime::now());
    let _ = write!(line, "] \"-\" {} 0 \"-\" \"-\"", why.status());
}

/// Appends a JSON string. Bytes that are not UTF-8 become U+FFFD.
pub(crate) fn json_string(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    if text
        .iter()
        .all(|byte| (0x20..0x7f).contains(byte) && *byte != b'"' && *byte != b'\\')
    {
        line.extend_from_slice(text);
    } else {
        for character in String::from_utf8_lossy(text).chars() {
            match character {
                '"' => line.extend_from_slice(b"\\\""),
                '\\' => line.extend_from_slice(b"\\\\"),
                // Controls of C1 are escaped as well, because terminals obey them.
                control if control.is_control() => {
                    let _ = write!(line, "\\u{:04x}", u32::from(control));
                }
                other => {
                    line.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_both_forms() {
        let mut clock = Clock::default();
        for (milliseconds, rfc3339, common) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (
                1_769_860_800_123,
                "2026-01-31T12:00:00.123Z",
                "31/Jan/2026:12:00:00 +0000",
            ),
            (
                1_769_860_800_999,
                "2026-01-31T12:00:00.999Z",
                "31/Jan/2026:12:00:00 +0000",
            ),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            let mut line = Vec::new();
            clock.rfc3339(&mut line, time);
            assert_eq!(String::from_utf8_lossy(&line), rfc3339);
            line.clear();
            clock.common(&mut line, time);
            assert_eq!(String::from_utf8_lossy(&line), common);
        }
    }

    #[test]
    fn strings_are_valid_json_whatever_they_hold() {
        for text in [
            &b"plain"[..],
            b"",
            b"a\"b\\c",
            b"\n\r\t\0\x1b[31m",
            b"\xff\xfe",
            "ä\u{9b}".as_bytes(),
        ] {
            let mut line = Vec::new();
            json_string(&mut line, text);
            let parsed: String = serde_json::from_slice(&line).unwrap();
            assert_eq!(parsed, String::from_utf8_lossy(text));
            assert!(!line.iter().any(|byte| *byte < 0x20));
        }
    }

    #[test]
    fn a_file_gets_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let sink = LogSink::File(path.clone());
        let log = AccessLog::open(&sink, AccessLogFormat::Json, Counter::default()).unwrap();
        for number in 0..100 {
            log.write(|line, _| {
                let _ = write!(line, "{number}");
            });
        }
        log.flush(Duration::from_secs(10));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(text.ends_with("99\n"));
    }

    #[test]
    fn a_sink_that_fails_costs_lines_that_are_counted() {
        let dropped = Counter::default();
        let sink = LogSink::File("/dev/full".into());
        let log = AccessLog::open(&sink, AccessLogFormat::Json, dropped.clone()).unwrap();
        log.write(|line, _| line.push(b'x'));
        log.flush(Duration::from_secs(10));
        assert_eq!(dropped.get(), 1);
    }
}
