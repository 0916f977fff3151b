//! `observability { … }`: logs, and what is told about single requests.

use super::{ByteSize, Secret};
use std::path::PathBuf;

/// What is logged, where and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observability {
    /// One line per request. None: `access-log "off"`. Default: JSON on the standard output.
    pub access_log: Option<AccessLog>,
    /// What the program says about itself.
    pub log: LogSettings,
    /// Who is told with the response what agents said about the request. None: nobody. The default.
    pub verdict_trace: Option<VerdictTrace>,
    /// Which requests `portcullis why` can explain. None: `recent-requests "off"`.
    pub recent_requests: Option<RecentRequests>,
}

impl Default for Observability {
    fn default() -> Self {
        Self {
            access_log: Some(AccessLog::default()),
            log: LogSettings::default(),
            verdict_trace: None,
            recent_requests: Some(RecentRequests::default()),
        }
    }
}

/// Who may see the verdicts on a request beside its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictTrace {
    /// What such a request brings in `X-Agent-Trace-Token`: visible ASCII, 16 to 1024 bytes.
    pub token: Secret,
    /// Another one that is good as well, so that the token can be exchanged without a gap. None: there is one only. The
    /// default.
    pub previous_token: Option<Secret>,
}

/// How much is kept of requests that were refused or failed, for `portcullis why`. Only where there is somebody to ask: with
/// `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentRequests {
    /// Requests that are kept; the oldest goes first. Default 1000, 1 to 10 000.
    pub entries: usize,
    /// Bytes that they take together; the oldest goes first. Default 4 MiB, 64 KiB to 1 GiB.
    pub bytes: ByteSize,
}

impl Default for RecentRequests {
    fn default() -> Self {
        Self {
            entries: 1000,
            bytes: ByteSize::mib(4),
        }
    }
}

/// One line per request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// Where the lines go.
    pub sink: LogSink,
    /// How they look.
    pub format: AccessLogFormat,
    /// Lines that wait for the sink, in bytes; beyond it a line is dropped and counted. Default 4 MiB, 4 KiB to 1 GiB.
    pub buffer: ByteSize,
}

impl AccessLog {
    /// The default of [`buffer`](Self::buffer).
    pub const BUFFER: ByteSize = ByteSize::mib(4);
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            sink: LogSink::default(),
            format: AccessLogFormat::default(),
            buffer: Self::BUFFER,
        }
    }
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogSink {
    /// The standard output. The default.
    #[default]
    Stdout,
    /// The standard error output.
    Stderr,
    /// Appended to this file. The path is resolved against the configuration file.
    File(PathBuf),
}

/// How access log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    /// One JSON object per line. The default.
    #[default]
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// What the program says about itself, on the standard error output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// The least important level that is written.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
}

/// How important a log line is, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something should be looked at.
    Warn,
    /// What an operator wants to know. The default.
    #[default]
    Info,
    /// What a developer of a configuration wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name as it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people. The default.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
