//! `observability { … }`: logs.

use super::ByteSize;
use std::path::PathBuf;

/// What is logged, where and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observability {
    /// One line per request. None: `access-log "off"`. Default: JSON on the standard output.
    pub access_log: Option<AccessLog>,
    /// What the program says about itself.
    pub log: LogSettings,
}

impl Default for Observability {
    fn default() -> Self {
        Self {
            access_log: Some(AccessLog::default()),
            log: LogSettings::default(),
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
