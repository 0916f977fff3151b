//! Shows the frames of sockets to agents, one by one, and says what becomes of them.

use super::{AgentOfRoute, Filter};
use crate::{
    request::{Begun, Request},
    snapshot::{Route, Serving},
    websocket::{
        close,
        frame::{Frame, Opcode},
    },
};
use bytes::Bytes;
use portcullis_agent_manager::{
    Answer, Ask, FailureReason, Phase, Record, RecordedVerdict, Refusal,
};
use portcullis_agent_protocol::{Event, FrameOpcode, WebSocketFrame};
use smallvec::SmallVec;
use std::time::Duration;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameDirection {
    ClientToServer,
    ServerToClient,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It goes on as it is.
    Pass,
    /// It goes on with this in it.
    Replace(Bytes),
    /// It does not go on.
    Drop,
    /// The socket is closed on both sides.
    Close {
        code: u16,
        /// For the two ends.
        said: String,
    },
}

/// The steps of a chain with agents that see frames, in the order of the chain.
pub(super) fn steps(filters: &[Filter]) -> Vec<usize> {
    let sees = |filter: &Filter| match filter {
        Filter::Agents(of_route) => of_route.iter().any(|agent| agent.inspect.websocket_frames),
        Filter::Guardrail(_) | Filter::Own(_) => false,
    };
    let filters = filters.iter().enumerate();
    filters
        .filter(|(_, filter)| sees(filter))
        .map(|(position, _)| position)
        .collect()
}

/// The agents that see the frames of a socket.
pub(crate) struct FrameAgents<'a> {
    pub(crate) request: &'a Request,
    pub(crate) begun: &'a Begun,
    pub(crate) route: &'a Route,
}

impl FrameAgents<'_> {
    /// Asks one step of agents after the other: on the way to the upstream in the order of the chain, on the way back in
    /// reverse. `index` counts the frames of the direction.
    pub(crate) async fn judge(
        &self,
        direction: FrameDirection,
        index: u64,
        frame: &Frame,
    ) -> Judged {
        let judged = self.pass_steps(direction, index, frame).await;
        self.settle();
        judged
    }

    /// Counts the questions that have been answered since the last time.
    fn settle(&self) {
        let conversation = &self.request.agents.conversation;
        conversation.settle(Phase::WebSocketFrames, |record| {
            let known = &self.begun.snapshot().agent_metrics;
            if let Some((_, agent)) = known.iter().find(|(id, _)| *id == record.agent) {
                agent.asked(record);
            }
        });
    }

    async fn pass_steps(&self, direction: FrameDirection, index: u64, frame: &Frame) -> Judged {
        let steps = self.route.plan.frames.iter();
        let steps: SmallVec<[usize; 4]> = match direction {
            FrameDirection::ClientToServer => steps.copied().collect(),
            FrameDirection::ServerToClient => steps.rev().copied().collect(),
        };
        let mut replaced = None;
        for step in steps {
            let Some(Filter::Agents(of_route)) = self.route.filters.get(step) else {
                continue;
            };
            let data = replaced.as_ref().unwrap_or(&frame.data).clone();
            let frame = self.event(direction, index, frame, data);
            if let Some(shadows) = &self.request.shadows {
                shadows.frame(step, &frame, self.begun);
            }
            match self.ask(step, of_route, frame).await {
                Step::Continue { other: None } => {}
                Step::Continue { other } => replaced = other,
                Step::End(judged) => return judged,
            }
        }
        match replaced {
            None => Judged::Pass,
            Some(data) => Judged::Replace(data),
        }
    }

    fn event<'a>(
        &'a self,
        direction: FrameDirection,
        index: u64,
        frame: &Frame,
        data: Bytes,
    ) -> WebSocketFrame<'a> {
        WebSocketFrame {
            correlation_id: self.begun.identity.correlation_id(),
            opcode: match frame.opcode {
                Opcode::Continuation => FrameOpcode::Continuation,
                Opcode::Text => FrameOpcode::Text,
                Opcode::Binary => FrameOpcode::Binary,
                Opcode::Close => FrameOpcode::Close,
                Opcode::Ping => FrameOpcode::Ping,
                Opcode::Pong => FrameOpcode::Pong,
            },
            data,
            client_to_server: direction == FrameDirection::ClientToServer,
            index,
            fin: frame.fin,
            route_id: Some(self.route.id.as_str()),
            client_ip: self.begun.identity.ip,
            budget_left: None,
        }
    }

    /// Whether the agent at this place sees frames and decides about them.
    fn decides(&self, step: usize, member: usize, agent: &AgentOfRoute) -> bool {
        agent.inspect.websocket_frames && self.request.obeys(step, member)
    }

    /// The first agent that decides about frames. `None` when all of them are asked in the shadow of the socket.
    fn first(&self) -> Option<&AgentOfRoute> {
        self.route.plan.frames.iter().find_map(|step| {
            let Some(Filter::Agents(of_route)) = self.route.filters.get(*step) else {
                return None;
            };
            let mut members = of_route.iter().enumerate();
            let deciding = members.find(|(member, agent)| self.decides(*step, *member, agent));
            deciding.map(|(_, agent)| agent)
        })
    }

    async fn ask(&self, step: usize, of_route: &[AgentOfRoute], frame: WebSocketFrame<'_>) -> Step {
        let event = Event::WebSocketFrame(frame);
        let asks: SmallVec<[Ask<'_>; 2]> = of_route
            .iter()
            .enumerate()
            .filter(|(member, agent)| self.decides(step, *member, agent))
            .map(|(_, agent)| Ask {
                used: &agent.used,
                event: &event,
                // A verdict about a frame is one, whatever comes behind it.
                more: false,
                streamed: true,
            })
            .collect();
        if asks.is_empty() {
            return Step::Continue { other: None };
        }
        let Serving { snapshot, links } = &*self.begun.serving;
        let run = &self.request.agents;
        match snapshot.agents.ask(links, &asks, &run.conversation).await {
            Answer::Continue(changes) if changes.drops_frame => Step::End(Judged::Drop),
            // Of several that changed it, the later line wins.
            Answer::Continue(changes) => Step::Continue {
                other: changes.pieces.into_iter().next_back().map(|(_, data)| data),
            },
            Answer::Close {
                agent,
                code,
                said,
                reason,
            } => {
                let why = reason.or_else(|| (!said.is_empty()).then(|| said.clone()));
                run.end(agent, why);
                Step::End(Judged::Close { code, said })
            }
            // There is no answer to a frame that could have a status or a place to go to.
            Answer::Final { agent, reason, .. } => {
                run.end(agent, reason);
                Step::End(Judged::Close {
                    code: close::POLICY,
                    said: String::new(),
                })
            }
            Answer::Refused(refusal) => Step::End(self.refused(refusal)),
        }
    }

    /// What ends a socket whose frames cannot be shown because the memory for them is used up.
    pub(crate) fn buffer_full(&self) -> Option<Judged> {
        let agent = self.first()?;
        let reason = FailureReason::BufferFull;
        let agent = self.begun.snapshot().agents.name(agent.used.agent).clone();
        let detail = "buffer-memory is used up".to_owned();
        self.request.agents.conversation.note(Record {
            agent: agent.clone(),
            phase: Phase::WebSocketFrames,
            verdict: RecordedVerdict::Refused(reason),
            reason: Some(detail.clone()),
            tags: Vec::new(),
            duration: Duration::ZERO,
            calls: 0,
            cached: false,
        });
        Some(self.refused(Refusal {
            agent,
            reason,
            detail,
            retry_after: None,
        }))
    }

    fn refused(&self, refusal: Refusal) -> Judged {
        let Refusal {
            agent,
            reason,
            detail,
            ..
        } = refusal;
        tracing::debug!(%agent, %reason, detail, request_id = self.begun.identity.request_id(), "socket closed: no verdict");
        self.request
            .agents
            .end(agent, Some(reason.name().to_owned()));
        closed()
    }
}

/// What a step of agents makes of a frame.
enum Step {
    Continue { other: Option<Bytes> },
    End(Judged),
}

/// A failure is no policy, and the two ends learn nothing of the inside.
fn closed() -> Judged {
    Judged::Close {
        code: close::INTERNAL_ERROR,
        said: String::new(),
    }
}
