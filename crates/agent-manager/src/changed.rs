//! Which headers agents changed, by name alone: values may be secrets, and whoever explains a request needs none.

use crate::{
    chain::{Answer, Changes},
    record::Phase,
};
use portcullis_agent_protocol::{HeaderOp, Verdict};
use portcullis_config::AgentId;

/// More changes of one request are not written down.
pub(crate) const MOST_CHANGES: usize = 256;

/// An agent changed a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderChange {
    /// Who.
    pub agent: AgentId,
    /// When in the request's life.
    pub phase: Phase,
    /// Whether it is a header of the response. Otherwise it is one of the request.
    pub of_response: bool,
    /// What was done to it: `set`, `add` or `remove`.
    pub done: &'static str,
    /// The name, as the agent wrote it.
    pub name: String,
}

/// The changes that come with an answer which takes effect.
pub(crate) fn of_answer<'a>(
    agent: &'a AgentId,
    phase: Phase,
    answer: &'a Answer,
) -> Box<dyn Iterator<Item = HeaderChange> + 'a> {
    match answer {
        Answer::Continue(changes) => Box::new(of_changes(agent, phase, changes)),
        Answer::Final {
            verdict, response, ..
        } => {
            let headers = match verdict {
                Verdict::Block { headers, .. } => headers.as_slice(),
                Verdict::Allow | Verdict::Redirect { .. } | Verdict::Challenge { .. } => &[],
            };
            let of_verdict = headers
                .iter()
                .map(move |(name, _)| change(agent, phase, true, ("set", name)));
            let of_response = response
                .iter()
                .map(move |operation| change(agent, phase, true, named(operation)));
            Box::new(of_verdict.chain(of_response))
        }
        Answer::Close { .. } | Answer::Refused(_) => Box::new(std::iter::empty()),
    }
}

/// The same of changes that let the request go on.
pub(crate) fn of_changes<'a>(
    agent: &'a AgentId,
    phase: Phase,
    changes: &'a Changes,
) -> impl Iterator<Item = HeaderChange> + 'a {
    let sides = [(false, &changes.request), (true, &changes.response)];
    sides
        .into_iter()
        .flat_map(move |(of_response, operations)| {
            operations
                .iter()
                .map(move |operation| change(agent, phase, of_response, named(operation)))
        })
}

fn named(operation: &HeaderOp) -> (&'static str, &str) {
    match operation {
        HeaderOp::Set { name, .. } => ("set", name),
        HeaderOp::Add { name, .. } => ("add", name),
        HeaderOp::Remove { name } => ("remove", name),
    }
}

fn change(
    agent: &AgentId,
    phase: Phase,
    of_response: bool,
    (done, name): (&'static str, &str),
) -> HeaderChange {
    HeaderChange {
        agent: agent.clone(),
        phase,
        of_response,
        done,
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_and_values_never() {
        let agent = AgentId::from("waf".to_owned());
        let set = |name: &str| HeaderOp::Set {
            name: name.into(),
            value: "secret".into(),
        };
        let remove = HeaderOp::Remove {
            name: "x-gone".into(),
        };
        let allowed = Answer::Continue(Changes {
            request: vec![set("x-user"), remove],
            response: vec![set("x-seen")],
            ..Changes::default()
        });
        let blocked = Answer::Final {
            agent: agent.clone(),
            verdict: Verdict::Block {
                status: 403,
                body: None,
                headers: vec![("x-why".into(), "secret".into())],
            },
            response: vec![set("x-seen")],
            reason: None,
        };
        for (answer, expected) in [
            (
                allowed,
                vec![
                    (false, "set", "x-user"),
                    (false, "remove", "x-gone"),
                    (true, "set", "x-seen"),
                ],
            ),
            (
                blocked,
                vec![(true, "set", "x-why"), (true, "set", "x-seen")],
            ),
        ] {
            let found: Vec<_> = of_answer(&agent, Phase::RequestHeaders, &answer).collect();
            assert!(!format!("{found:?}").contains("secret"));
            let told: Vec<_> = found
                .iter()
                .map(|change| (change.of_response, change.done, change.name.as_str()))
                .collect();
            assert_eq!(told, expected);
        }
    }
}
