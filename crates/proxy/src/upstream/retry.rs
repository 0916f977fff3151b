//! When a request is sent once more, as its route says.
//!
//! What has reached a target may have had an effect there, so it is sent again only when its method is idempotent (RFC 9110
//! section 9.2.2); and never when something of an answer has gone to the client, or when a part of the body is no longer here.

use super::connect;
use pingora::{
    Error,
    ErrorType::{
        self, ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ConnectionClosed,
        CustomCode, ReadError, ReadTimedout, WriteError, WriteTimedout,
    },
};
use portcullis_config::{Retry, RetryOn};
use std::borrow::Cow;

/// The error that stands for a response that nobody gets to see.
pub(super) const REPEAT: &str = "upstream_repeated";

/// Why a target did not get to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    ConnectFailure,
    Reset,
    Timeout,
    Status(u16),
    /// A connection that was kept had been closed.
    Stale,
    Other,
}

impl Why {
    pub(super) fn of(error: &Error) -> Self {
        match error.etype() {
            kind if connect::is_about_tls(kind) => Self::ConnectFailure,
            ConnectRefused | ConnectNoRoute | ConnectTimedout | ConnectError => {
                Self::ConnectFailure
            }
            ConnectionClosed | ReadError | WriteError | ErrorType::H2Error => Self::Reset,
            ReadTimedout | WriteTimedout => Self::Timeout,
            CustomCode(REPEAT, status) => Self::Status(*status),
            _ => Self::Other,
        }
    }

    /// As in the configuration.
    pub(crate) fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ConnectFailure => "connect-failure",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Stale => "stale",
            Self::Other => "error",
            Self::Status(status) => return Cow::Owned(status.to_string()),
        })
    }

    /// Whether this is a reason to send the request once more.
    pub(super) fn is_reason(self, retry: &Retry) -> bool {
        retry.on.iter().any(|on| match (on, self) {
            (RetryOn::ConnectFailure, Self::ConnectFailure)
            | (RetryOn::Reset, Self::Reset)
            | (RetryOn::Timeout, Self::Timeout) => true,
            (RetryOn::Status(range), Self::Status(status)) => range.contains(&status),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_is_a_reason() {
        let retry = |on: Vec<RetryOn>| Retry {
            attempts: 1,
            per_try_timeout: None,
            on,
        };
        let all = [
            Why::ConnectFailure,
            Why::Reset,
            Why::Timeout,
            Why::Status(502),
            Why::Status(503),
            Why::Stale,
            Why::Other,
        ];
        for (on, expected) in [
            (vec![], vec![]),
            (vec![RetryOn::ConnectFailure], vec![Why::ConnectFailure]),
            (
                vec![RetryOn::Reset, RetryOn::Timeout],
                vec![Why::Reset, Why::Timeout],
            ),
            (vec![RetryOn::Status(503..=503)], vec![Why::Status(503)]),
            (
                vec![RetryOn::Status(500..=599)],
                vec![Why::Status(502), Why::Status(503)],
            ),
        ] {
            let retry = retry(on);
            let reasons = all.into_iter().filter(|why| why.is_reason(&retry));
            assert_eq!(reasons.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn errors_have_their_names() {
        for (etype, name) in [
            (ConnectRefused, "connect-failure"),
            (ReadTimedout, "timeout"),
            (ConnectionClosed, "reset"),
            (CustomCode(REPEAT, 503), "503"),
            (ErrorType::InvalidHTTPHeader, "error"),
        ] {
            let error = Error::new(etype);
            assert_eq!(Why::of(&error).name(), name);
        }
    }
}
