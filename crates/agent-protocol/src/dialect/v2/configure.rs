//! Handing an agent its configuration: while the connection opens, and again
//! later.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use serde_json::Value;

use super::calls::{CallId, Outcome};
use super::connection::queue;
use super::outbox::{NewConfiguration, Outgoing};
use super::shared::{Shared, wake};
use crate::codec::handshake::Configure;
use crate::{CallError, ConfigureError, Decision, Verdict};

/// How much is kept of what an agent says when it refuses.
const REASON_BYTES: usize = 1024;

/// Numbers the configurations of this process.
static CONFIGURATIONS: AtomicU64 = AtomicU64::new(1);

/// A correlation id that no event has, and no other configuration.
pub(super) fn correlation_id(agent_name: &str) -> String {
    let number = CONFIGURATIONS.fetch_add(1, Ordering::Relaxed);
    format!("configure-{agent_name}-{number}")
}

pub(super) fn message<'a>(
    config: &'a Value,
    version: Option<&'a str>,
    correlation_id: &'a str,
    event_id: Option<u64>,
) -> Configure<'a> {
    Configure {
        config: Cow::Borrowed(config),
        config_version: version.map(Cow::Borrowed),
        correlation_id: Cow::Borrowed(correlation_id),
        event_id,
    }
}

/// What the answer to a configuration means.
pub(in crate::dialect) fn outcome(answer: Outcome) -> Result<(), ConfigureError> {
    let reason = match answer {
        Ok(decision) if decision.is_allow() => return Ok(()),
        Ok(decision) => refusal(decision),
        Err(CallError::Agent(message)) => message,
        Err(error) => return Err(error.into()),
    };
    Err(ConfigureError::Refused {
        reason: shortened(reason),
    })
}

// Anything but an allow is a refusal; the agent's own words are looked for
// where agents of different makes put them.
fn refusal(decision: Decision) -> String {
    let audit = decision.audit.unwrap_or_default();
    if let Some(Value::String(message)) = audit.custom.get("error") {
        return message.clone();
    }
    if let Verdict::Block {
        body: Some(body), ..
    } = &decision.verdict
    {
        return String::from_utf8_lossy(body).into_owned();
    }
    match audit.reason_codes.as_slice() {
        [] => "the agent did not accept its configuration".to_owned(),
        codes => codes.join(", "),
    }
}

/// As much of a reason as is kept.
pub(super) fn shortened(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES));
    reason
}

/// Whether the agent takes its new configuration.
///
/// Dropping it does not take the message back: it is not known then which
/// configuration holds, and its owner should retire the connection.
#[must_use = "the agent may refuse"]
pub struct PendingConfiguration {
    shared: Arc<Shared>,
    /// Why there is none; then, after it has been answered,
    /// [`CallError::Closed`].
    call: Result<CallId, CallError>,
}

impl PendingConfiguration {
    pub(super) fn new(shared: &Arc<Shared>, config: &Value, version: Option<&str>) -> Self {
        let correlation_id = correlation_id(&shared.agent_name);
        let outgoing = Outgoing::Configure(NewConfiguration {
            config,
            version,
            correlation_id: &correlation_id,
            is_initial: false,
        });
        let mut state = shared.lock();
        let call = match shared.answers_configure {
            true => queue(&mut state, shared, &correlation_id, &outgoing),
            false => {
                let reason = "the agent would not say whether it takes another configuration";
                Err(CallError::Agent(reason.to_owned()))
            }
        };
        let writer = match call {
            Ok(_) => state.writer.take(),
            Err(_) => None,
        };
        drop(state);
        wake([writer, None]);
        Self {
            shared: Arc::clone(shared),
            call,
        }
    }
}

impl Future for PendingConfiguration {
    type Output = Result<(), ConfigureError>;

    /// After the answer, every further poll yields [`CallError::Closed`].
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &self.call {
            Ok(call) => ready!(self.shared.lock().calls.poll(*call, cx)),
            Err(error) => Err(error.clone()),
        };
        self.call = Err(CallError::Closed);
        Poll::Ready(outcome(answer))
    }
}

impl Drop for PendingConfiguration {
    fn drop(&mut self) {
        let Ok(call) = self.call else {
            return;
        };
        let mut state = self.shared.lock();
        // Not cancelled: half a configuration is worse than a late one. Its
        // id is its own, so that the late answer is not taken for another.
        state.calls.forget(call);
        let closing = state.close_if_retired();
        drop(state);
        wake(closing);
    }
}

impl fmt::Debug for PendingConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingConfiguration")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
