//! What is made of an answer before anybody sees it.

use crate::{
    agent::Agent,
    failure::{Failure, FailureReason},
    headers::HeaderNames,
    operations,
};
use portcullis_agent_protocol::{Decision, Event};

/// The answer, if agents may do what it says. An agent whose dialect has it so loses single operations instead of all of it.
pub(super) fn checked(
    agent: &Agent,
    mut decision: Decision,
    event: &Event<'_>,
    foreign: &HeaderNames,
) -> Result<Decision, Failure> {
    let settings = &agent.settings;
    let own = settings.owns_what_it_sets.then_some(&settings.headers.owns);
    if settings.ignores_bad_operations
        && let Some(dropped) = operations::drop_bad_operations(&mut decision, foreign, own)
    {
        agent.count_ignored(&dropped, event.correlation_id());
    }
    let changes = decision.request_body.is_some() || decision.response_body.is_some();
    let mut operations = decision.request_headers.iter();
    let valid = match changes && agent.settings.reads_only.contains(&event.kind()) {
        true => Err("a change of a body that it only reads".to_owned()),
        false => operations::validate_answer(&decision, event, foreign)
            .and_then(|()| operations.try_for_each(|it| operations::validate_own(it, own))),
    };
    match valid {
        Ok(()) => Ok(decision),
        Err(problem) => {
            agent.count_rejected();
            Err(Failure::new(FailureReason::ProtocolError, problem))
        }
    }
}
