//! The access log: one line per request. A line is put together in memory and written by a thread of its own, so that no
//! request ever waits for the sink. What waits to be written is bounded; beyond the bound lines are dropped and counted.

mod sink;

pub(crate) use sink::Sink;

use super::Refused;
use arc_swap::{ArcSwapOption, Guard};
use chrono::{DateTime, Utc};
use portcullis_config::{AccessLogFormat, ListenerId};
use prometheus_client::metrics::counter::Counter;
use sink::Target;
use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Lines are collected for this long before they are written together.
const COLLECT: Duration = Duration::from_millis(20);
/// A sink that takes nothing is tried again after this time.
const RETRY: Duration = Duration::from_millis(20);
/// How long the last lines may take when their log is replaced by another.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines go now.
pub(crate) struct AccessLog {
    writer: ArcSwapOption<Writer>,
    dropped: Counter,
}

impl AccessLog {
    /// A log that drops everything.
    #[cfg(test)]
    pub(crate) fn off() -> Self {
        Self {
            writer: ArcSwapOption::empty(),
            dropped: Counter::default(),
        }
    }

    /// Opens the sink and starts the thread that writes to it; without settings there is no log.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub(crate) fn open(
        settings: Option<&portcullis_config::AccessLog>,
        dropped: Counter,
    ) -> io::Result<Self> {
        let log = Self {
            writer: ArcSwapOption::empty(),
            dropped,
        };
        log.switch(Sink::open(settings)?);
        Ok(log)
    }

    /// From now on lines go to another sink. Those that wait for the old one still go there.
    pub(crate) fn switch(&self, sink: Sink) {
        let writer = sink.into_target().and_then(|(target, settings)| {
            let writer = Arc::new(Writer {
                format: settings.format,
                most_waiting: usize::try_from(settings.buffer.bytes()).unwrap_or(usize::MAX),
                dropped: self.dropped.clone(),
                pending: Mutex::default(),
                wake: Condvar::new(),
            });
            let thread = writer.clone();
            let started = std::thread::Builder::new()
                .name("access-log".into())
                .spawn(move || thread.write_until_closed(target));
            match started {
                Ok(_) => Some(writer),
                Err(error) => {
                    tracing::error!(%error, "there is no access log: its thread cannot be started");
                    None
                }
            }
        });
        if let Some(old) = self.writer.swap(writer) {
            old.tell(|pending| pending.closed = true);
        }
    }

    /// Opens the file of the log again, because somebody has moved the old one.
    pub(crate) fn reopen(&self) {
        if let Some(writer) = &*self.writer() {
            writer.tell(|pending| pending.reopen = true);
        }
    }

    /// Who takes lines; `None` when nothing is logged.
    pub(crate) fn writer(&self) -> Guard<Option<Arc<Writer>>> {
        self.writer.load()
    }

    /// Waits until what was logged so far is written, at most for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let Some(writer) = &*self.writer() else {
            return;
        };
        let pending = writer.lock();
        // The result says whether the limit was reached; either way this is all the waiting that is done.
        let _ = writer.wake.wait_timeout_while(pending, limit, |pending| {
            pending.writing || !pending.lines.is_empty()
        });
    }
}

/// Collects lines for one sink.
pub(crate) struct Writer {
    pub(crate) format: AccessLogFormat,
    /// In bytes. Beside them there are at most as many that are being written.
    most_waiting: usize,
    dropped: Counter,
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    clock: Clock,
    /// The thread has taken lines and is not done with them.
    writing: bool,
    /// The file is to be opened again.
    reopen: bool,
    /// No more lines will come.
    closed: bool,
}

impl Writer {
    /// Adds a line. `compose` gets the buffer to append to, without the line's end, and the clock.
    pub(crate) fn write(&self, compose: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        let mut pending = self.lock();
        if pending.lines.len() >= self.most_waiting {
            drop(pending);
            self.dropped.inc();
            return;
        }
        let first = pending.lines.is_empty();
        let Pending { lines, clock, .. } = &mut *pending;
        compose(lines, clock);
        lines.push(b'\n');
        drop(pending);
        if first {
            self.wake.notify_all();
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Pending)) {
        what(&mut self.lock());
        self.wake.notify_all();
    }

    fn write_until_closed(&self, mut target: Target) {
        let mut lines = Vec::new();
        let mut failing = false;
        loop {
            let mut pending = self.lock();
            pending.writing = false;
            self.wake.notify_all();
            while pending.lines.is_empty() && !pending.reopen {
                if pending.closed {
                    return;
                }
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
            let reopen = std::mem::take(&mut pending.reopen);
            drop(pending);
            if reopen {
                target.reopen();
            }
            match self.write_lines(&lines, &mut target) {
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

    /// Writes everything, however long the sink takes. A sink that takes nothing holds up nobody but this thread; when the
    /// log is replaced or opened again, it is given up.
    fn write_lines(&self, lines: &[u8], target: &mut Target) -> io::Result<()> {
        let mut rest = lines;
        let mut last_lines: Option<Instant> = None;
        while !rest.is_empty() {
            match target.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let pending = self.lock();
                    let (closed, reopen) = (pending.closed, pending.reopen);
                    drop(pending);
                    let since = *last_lines.get_or_insert_with(Instant::now);
                    if reopen || (closed && since.elapsed() > LAST_LINES) {
                        return Err(error);
                    }
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
        target.flush()
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
    use portcullis_config::{ByteSize, LogSink};

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

    fn open(sink: LogSink, buffer: ByteSize, dropped: &Counter) -> AccessLog {
        let settings = portcullis_config::AccessLog {
            sink,
            buffer,
            ..portcullis_config::AccessLog::default()
        };
        AccessLog::open(Some(&settings), dropped.clone()).unwrap()
    }

    fn write(log: &AccessLog, text: &str) {
        let writer = log.writer();
        let writer = writer.as_ref().unwrap();
        writer.write(|line, _| line.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn a_file_gets_every_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = open(
            LogSink::File(path.clone()),
            ByteSize::mib(1),
            &Counter::default(),
        );
        for number in 0..100 {
            write(&log, &number.to_string());
        }
        log.flush(Duration::from_secs(10));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(text.ends_with("99\n"));
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let log = open(
            LogSink::File(path.clone()),
            ByteSize::mib(1),
            &Counter::default(),
        );
        write(&log, "before");
        log.flush(Duration::from_secs(10));
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        write(&log, "after");
        log.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "before\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn another_sink_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        let settings = |path: &std::path::Path| portcullis_config::AccessLog {
            sink: LogSink::File(path.to_owned()),
            ..portcullis_config::AccessLog::default()
        };
        let log = AccessLog::open(Some(&settings(&first)), Counter::default()).unwrap();
        write(&log, "one");
        let old = log.writer().clone().unwrap();
        log.switch(Sink::open(Some(&settings(&second))).unwrap());
        write(&log, "two");
        log.flush(Duration::from_secs(10));
        drop(old);
        assert_eq!(std::fs::read_to_string(&second).unwrap(), "two\n");
        log.switch(Sink::open(None).unwrap());
        assert!(log.writer().is_none());
        // The old thread writes what it has and ends.
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&first).unwrap() != "one\n" {
            assert!(Instant::now() < deadline, "the line is lost");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_sink_that_fails_costs_lines_that_are_counted() {
        let dropped = Counter::default();
        let log = open(
            LogSink::File("/dev/full".into()),
            ByteSize::mib(1),
            &dropped,
        );
        write(&log, "x");
        log.flush(Duration::from_secs(10));
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_nobody_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let dropped = Counter::default();
        let log = open(LogSink::File(path), ByteSize::kib(1), &dropped);
        // A pipe holds 64 KiB, the log what is being written and 1 KiB more.
        let line = "x".repeat(1023);
        while dropped.get() == 0 {
            write(&log, &line);
        }
    }
}
