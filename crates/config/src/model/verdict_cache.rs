//! `verdict-cache` of an agent: its verdicts about the heads of requests are kept and used again.

use super::ByteSize;
use std::time::Duration;

/// How verdicts of an agent are kept. Only those that the agent gives a time to live are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictCache {
    /// Verdicts that are kept at most, of the whole process. Default 10 000, 1 to 10 000 000.
    pub max_entries: usize,
    /// What they take up at most, with their keys. Default 16 MiB, 64 KiB to 64 GiB.
    pub max_bytes: ByteSize,
    /// No verdict is used for longer, whatever the agent says. Default 30 s, 1 ms to 24 h.
    pub max_ttl: Duration,
    /// What the agent may say that its verdicts do not depend on. Default nothing; no part twice.
    pub may_ignore: Vec<KeyPart>,
}

impl Default for VerdictCache {
    fn default() -> Self {
        Self {
            max_entries: 10_000,
            max_bytes: ByteSize::mib(16),
            max_ttl: Duration::from_secs(30),
            may_ignore: Vec::new(),
        }
    }
}

/// What a verdict is kept under and an agent may be allowed to ignore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// The fields `Authorization`.
    Authorization,
    /// The fields `Cookie`.
    Cookie,
    /// What stands behind the `?` of the target.
    Query,
    /// The certificate that the client has shown.
    ClientCertificate,
    /// Header fields that some agent owns, as earlier agents have set them.
    OwnedHeaders,
    /// Every other header field that an earlier filter has set, added or removed.
    EarlierChanges,
}

impl KeyPart {
    /// Every part, in the order in which they are documented.
    pub const ALL: [Self; 6] = [
        Self::Authorization,
        Self::Cookie,
        Self::Query,
        Self::ClientCertificate,
        Self::OwnedHeaders,
        Self::EarlierChanges,
    ];

    /// The name as it is written in the configuration and by agents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::Query => "query",
            Self::ClientCertificate => "client-certificate",
            Self::OwnedHeaders => "owned-headers",
            Self::EarlierChanges => "earlier-changes",
        }
    }

    /// Whether it says who the client is, or stands for it.
    pub const fn names_client(self) -> bool {
        match self {
            Self::Authorization | Self::Cookie | Self::ClientCertificate | Self::OwnedHeaders => {
                true
            }
            Self::Query | Self::EarlierChanges => false,
        }
    }
}
