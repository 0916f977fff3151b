//! The merge of decisions that all allow. Pure: the order of the lines in the configuration is the order of the changes.

use crate::chain::Changes;
use portcullis_agent_protocol::HeaderOp;
use portcullis_config::AgentId;

/// Two agents of one parallel group wrote the same header; the later line won.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Lower-case name of the header.
    pub(crate) header: String,
    /// Whose value is lost.
    pub(crate) lost: AgentId,
    /// Whose value stands.
    pub(crate) won: AgentId,
}

/// Puts the changes of several agents together in the order given. Applying the result has the effect of applying each
/// agent's changes one after the other.
pub(crate) fn merge(parts: Vec<(AgentId, Changes)>) -> (Changes, Vec<Conflict>) {
    let mut merged = Changes::default();
    let mut conflicts = Vec::new();
    let mut writers: Vec<(bool, String, AgentId)> = Vec::new();
    for (agent, changes) in parts {
        let before = writers.len();
        for (request_side, operations) in [(true, &changes.request), (false, &changes.response)] {
            for operation in operations {
                let HeaderOp::Set { name, .. } = operation else {
                    continue;
                };
                let name = name.to_ascii_lowercase();
                if let Some((_, _, earlier)) = writers[..before]
                    .iter()
                    .rev()
                    .find(|(side, written, _)| *side == request_side && *written == name)
                {
                    conflicts.push(Conflict {
                        header: name.clone(),
                        lost: earlier.clone(),
                        won: agent.clone(),
                    });
                }
                writers.push((request_side, name, agent.clone()));
            }
        }
        merged.request.extend(changes.request);
        merged.response.extend(changes.response);
        merged.pieces.extend(changes.pieces);
        merged.drops_frame |= changes.drops_frame;
    }
    (merged, conflicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(name: &str, value: &str) -> HeaderOp {
        HeaderOp::Set {
            name: name.into(),
            value: value.into(),
        }
    }

    fn request(operations: Vec<HeaderOp>) -> Changes {
        Changes {
            request: operations,
            ..Changes::default()
        }
    }

    #[test]
    fn the_later_line_wins_and_the_conflict_is_named() {
        let (merged, conflicts) = merge(vec![
            ("a".into(), request(vec![set("x-user", "1")])),
            ("b".into(), request(vec![set("X-User", "2")])),
        ]);
        assert_eq!(merged.request, vec![set("x-user", "1"), set("X-User", "2")]);
        assert_eq!(
            conflicts,
            vec![Conflict {
                header: "x-user".into(),
                lost: "a".into(),
                won: "b".into()
            }]
        );
    }

    #[test]
    fn one_agent_does_not_conflict_with_itself_nor_across_directions() {
        let (_, conflicts) = merge(vec![
            ("a".into(), request(vec![set("x", "1"), set("x", "2")])),
            (
                "b".into(),
                Changes {
                    response: vec![set("x", "3")],
                    ..Changes::default()
                },
            ),
        ]);
        assert_eq!(conflicts, vec![]);
    }

    proptest! {
        /// Merging in two groups gives the same changes as merging all at once, in the order written.
        #[test]
        fn merging_is_associative(values in proptest::collection::vec("[a-c]", 0..12), cut in 0usize..12) {
            let parts: Vec<(AgentId, Changes)> = values
                .iter()
                .enumerate()
                .map(|(index, name)| (AgentId::from(format!("agent{index}")), request(vec![set(name, &index.to_string())])))
                .collect();
            let cut = cut.min(parts.len());
            let whole = merge(parts.clone()).0;
            let left = merge(parts[..cut].to_vec()).0;
            let right = merge(parts[cut..].to_vec()).0;
            let both = merge(vec![("left".into(), left), ("right".into(), right)]).0;
            prop_assert_eq!(whole, both);
        }
    }
}
