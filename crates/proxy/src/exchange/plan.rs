//! What a route's agents want to see beyond the head of the request.

use portcullis_config::{BodyEncoding, BodyInspection, BodyMode, OnOversize};

/// The inspection of a route, in the order in which the messages pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those who see bodies of requests.
    pub(crate) request: Vec<Step>,
    /// Whether anybody sees heads of responses.
    pub(crate) response_heads: bool,
    /// Those who see bodies of responses.
    pub(crate) response: Vec<Step>,
    /// Responses are asked for whole, because an agent could not judge a slice.
    pub(crate) whole_responses: bool,
    /// The places in the route's filters of those who see the frames of sockets, on the way to the upstream.
    pub(crate) frames: Vec<usize>,
    /// Whether anybody is told that a request is over.
    pub(crate) completes: Vec<usize>,
}

/// Agents that see a body at the same time: one, or those of a `parallel`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The place in the route's filters.
    pub(crate) filter: usize,
    /// Nothing goes on before they have seen all that they want to see. If one of several wants that, it holds for all.
    pub(crate) holds: bool,
    pub(crate) members: Vec<Member>,
}

/// How one agent sees a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The place among the agents of the filter.
    pub(crate) agent: usize,
    /// Bytes that it is shown at most.
    pub(crate) limit: u64,
    pub(crate) on_oversize: OnOversize,
    /// Decoded bytes per encoded byte, at most; `None` when it sees bodies as they are.
    pub(crate) decoded: Option<u32>,
    /// It changes nothing.
    pub(crate) read_only: bool,
}

impl Member {
    pub(crate) fn new(agent: usize, inspection: &BodyInspection) -> Self {
        Self {
            agent,
            limit: inspection.limit.map_or(u64::MAX, |limit| limit.bytes()),
            on_oversize: inspection.on_oversize,
            decoded: (inspection.encoding == BodyEncoding::Decode).then_some(inspection.max_ratio),
            read_only: inspection.read_only,
        }
    }
}

impl Step {
    /// The step of these agents at this place of the chain; `None` when none of them sees the body.
    pub(crate) fn new<'a>(
        filter: usize,
        inspections: impl Iterator<Item = Option<&'a BodyInspection>>,
    ) -> Option<Self> {
        let seeing: Vec<_> = inspections
            .enumerate()
            .filter_map(|(agent, inspection)| Some((agent, inspection?)))
            .collect();
        let members = seeing
            .iter()
            .map(|(agent, inspection)| Member::new(*agent, inspection))
            .collect();
        (!seeing.is_empty()).then(|| Self {
            filter,
            holds: seeing
                .iter()
                .any(|(_, inspection)| inspection.mode == BodyMode::Buffer),
            members,
        })
    }
}

/// The ratio up to which bodies of these steps are decoded, the least that one of them allows; `None` when they are shown as
/// they are.
pub(crate) fn decoded(steps: &[Step]) -> Option<u32> {
    let members = steps.iter().flat_map(|step| &step.members);
    members.filter_map(|member| member.decoded).min()
}

impl Plan {
    /// Whether a request has to go through agents beyond its head.
    pub(crate) fn inspects(&self, has_body: bool) -> bool {
        self.response_heads || !self.response.is_empty() || has_body && !self.request.is_empty()
    }
}
