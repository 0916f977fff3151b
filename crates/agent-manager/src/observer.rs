//! What the owner of the agents is told while it happens.

use crate::{
    agent::Agent,
    failure::{Failure, FailureReason},
    record::Record,
    reports::Granted,
};
use portcullis_agent_protocol::{ConfigChange, Decision, Event, RequestHeaders};
use std::time::{Duration, Instant};

/// Counts for one agent what no request can, and may follow its conversations.
pub trait AgentObserver: Send + Sync {
    /// A call waited this long for its permit.
    fn waited(&self, time: Duration);

    /// The agent was told, or could not be told, that a request is over.
    fn completed(&self, record: &Record);

    /// The agent is not told that a request is over, because too many such events wait already.
    fn completion_dropped(&self);

    /// The agent wants this changed, and this is what becomes of it. After [`Granted::Yes`] the configuration is to be read
    /// again.
    fn config_update(&self, wanted: &ConfigChange, granted: Granted);

    /// Whether [`heard`](Self::heard) is to be called about the request of this correlation id. It is asked about every
    /// question, so it has to be quick; by default nothing is followed.
    fn follows(&self, correlation_id: &str) -> bool {
        let _ = correlation_id;
        false
    }

    /// A question, as it was put to the agent or would have been, and what came of it after this time. Verdicts that are used
    /// again are none.
    fn heard(&self, told: &Event<'_>, answer: Result<&Decision, FailureReason>, took: Duration) {
        let _ = (told, answer, took);
    }
}

/// Passes on what came of a question that was put at the first of these times and was over at the second, to who follows it.
pub(crate) fn pass_on(
    agent: &Agent,
    event: &Event<'_>,
    result: &Result<Decision, Failure>,
    [began, ended]: [Instant; 2],
) {
    let Some(observer) = &agent.observer else {
        return;
    };
    if !observer.follows(event.correlation_id()) {
        return;
    }
    let answer = result.as_ref().map_err(|failure| failure.reason);
    let took = ended.saturating_duration_since(began);
    let Event::RequestHeaders(head) = event else {
        return observer.heard(event, answer, took);
    };
    // The agent may be told less than there is.
    match agent.told(head.headers) {
        None => observer.heard(event, answer, took),
        Some(headers) => {
            let head = RequestHeaders {
                headers: &headers,
                ..head.clone()
            };
            observer.heard(&Event::RequestHeaders(head), answer, took);
        }
    }
}
