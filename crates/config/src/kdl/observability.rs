//! `observability { … }`.

use super::{
    cursor::{Later, Node},
    verdict_trace::verdict_trace,
};
use crate::{
    diagnostic::{code, did_you_mean},
    model::{
        AccessLog, AccessLogFormat, ByteSize, LogFormat, LogLevel, LogSettings, LogSink,
        Observability, RecentRequests,
    },
};

use std::ops::RangeInclusive;

/// Less would not take a handful of lines; more is memory that nobody gets back.
const BUFFER: RangeInclusive<ByteSize> = ByteSize::kib(4)..=ByteSize::mib(1024);

/// Less would not hold what one request can say of itself.
const RECENT_BYTES: RangeInclusive<ByteSize> = ByteSize::kib(64)..=ByteSize::mib(1024);

const LATER: &[Later] = &[Later::new("tracing")];

pub(super) fn observability(node: &mut Node<'_>) -> Observability {
    node.block(|block| {
        block.later(LATER);
        let access_log = block.one("access-log", access_log);
        Observability {
            access_log: access_log.unwrap_or_else(|| Some(AccessLog::default())),
            log: block.one("log", |node| Some(log(node))).unwrap_or_default(),
            verdict_trace: block.one("verdict-trace", verdict_trace),
            recent_requests: block
                .one("recent-requests", recent_requests)
                .unwrap_or_else(|| Some(RecentRequests::default())),
        }
    })
}

/// The inner `None` is `access-log "off"`.
fn access_log(node: &mut Node<'_>) -> Option<Option<AccessLog>> {
    let value = node.argument("\"stdout\", \"stderr\", \"off\" or a path")?;
    let format = node.property("format");
    let format_value = format.and_then(|value| {
        value.choice(
            &[
                ("json", AccessLogFormat::Json),
                ("combined", AccessLogFormat::Combined),
            ],
            &[],
        )
    });
    let buffer = node.property("buffer");
    let buffer_value = buffer.and_then(|value| value.size(BUFFER));
    let text = value.nonempty_text()?;
    let sink = match text.as_str() {
        "off" => {
            for (property, what) in [(format, "format"), (buffer, "buffer")] {
                if let Some(property) = property {
                    property.report(
                        property
                            .error(
                                code::CONTRADICTION,
                                format!("an access log that is off has no {what}"),
                            )
                            .help("remove it"),
                    );
                }
            }
            return Some(None);
        }
        "stdout" => LogSink::Stdout,
        "stderr" => LogSink::Stderr,
        // Without this a slip of the pen would be a file with that name.
        name if !name.contains('/') => {
            let help = did_you_mean(name, ["stdout", "stderr", "off"])
                .unwrap_or_else(|| format!("write \"./{name}\" for a file beside this one"));
            value.report(
                value
                    .error(code::INVALID_VALUE, format!("`{name}` is not a path"))
                    .help(help),
            );
            return None;
        }
        _ => LogSink::File(value.path()?),
    };
    Some(Some(AccessLog {
        sink,
        format: format_value.unwrap_or_default(),
        buffer: buffer_value.unwrap_or(AccessLog::BUFFER),
    }))
}

/// The inner `None` is `recent-requests "off"`.
fn recent_requests(node: &mut Node<'_>) -> Option<Option<RecentRequests>> {
    let off = node.optional_argument();
    let entries = node.property("entries");
    let bytes = node.property("bytes");
    if let Some(off) = off {
        off.choice(&[("off", ())], &[])?;
        for (property, what) in [(entries, "entries"), (bytes, "bytes")] {
            if let Some(property) = property {
                let message = format!("recent requests that are off have no {what}");
                property.report(
                    property
                        .error(code::CONTRADICTION, message)
                        .help("remove it"),
                );
            }
        }
        return Some(None);
    }
    let usual = RecentRequests::default();
    Some(Some(RecentRequests {
        entries: entries
            .and_then(|value| value.count(1..=10_000))
            .unwrap_or(usual.entries),
        bytes: bytes
            .and_then(|value| value.size(RECENT_BYTES))
            .unwrap_or(usual.bytes),
    }))
}

fn log(node: &mut Node<'_>) -> LogSettings {
    let levels = [
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ]
    .map(|level| (level.name(), level));
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogSettings {
        level: node
            .property("level")
            .and_then(|value| value.choice(&levels, &[]))
            .unwrap_or_default(),
        format: node
            .property("format")
            .and_then(|value| value.choice(&formats, &[]))
            .unwrap_or_default(),
    }
}
