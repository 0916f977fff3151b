//! `inspect { … }` of an agent: which parts of a request and its response it is asked about.

use super::ByteSize;

/// The events that an agent gets. At least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspect {
    /// The head of the request. The default when there is no `inspect` block.
    pub request_headers: bool,
    /// The body of the request. None: it is not asked.
    pub request_body: Option<BodyInspection>,
    /// The head of the response.
    pub response_headers: bool,
    /// The body of the response. None: it is not asked.
    pub response_body: Option<BodyInspection>,
    /// The frames of WebSockets in both directions, one by one. Default false.
    pub websocket_frames: bool,
    /// What became of the request, told at its end. None: it is not told. Never None for an agent that
    /// [remembers](super::AgentTransport::remembers), whose queue has at least 65 536 places.
    pub request_complete: Option<Completions>,
}

impl Default for Inspect {
    fn default() -> Self {
        Self {
            request_headers: true,
            request_body: None,
            response_headers: false,
            response_body: None,
            websocket_frames: false,
            request_complete: None,
        }
    }
}

impl Inspect {
    /// In how many phases a request waits for its verdict: heads and bodies of request and response, and frames, 0 to 5.
    pub fn phases(&self) -> u32 {
        [
            self.request_headers,
            self.request_body.is_some(),
            self.response_headers,
            self.response_body.is_some(),
            self.websocket_frames,
        ]
        .into_iter()
        .map(u32::from)
        .sum()
    }
}

/// How an agent is shown the bodies of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyInspection {
    /// Whole, or piece by piece.
    pub mode: BodyMode,
    /// The most bytes of a body that it is shown, counted as it sees them. Default 1 MiB in [`BodyMode::Buffer`], where
    /// it is from 1 byte to 1 GiB, at most `buffer-memory`, and never None; none in [`BodyMode::Stream`], where it is
    /// from 1 byte to 1 TiB.
    pub limit: Option<ByteSize>,
    /// What happens to a longer body. Default fail. Without a limit it means nothing.
    pub on_oversize: OnOversize,
    /// Whether it sees the content or its coding. Default decode.
    pub encoding: BodyEncoding,
    /// Decoded bytes that there may be for each encoded one. Default 100, 1 to 100 000. It means nothing with
    /// [`BodyEncoding::Raw`].
    pub max_ratio: u32,
    /// It changes nothing: a change of the body is a failure. Default false. In [`BodyMode::Stream`] the body keeps its
    /// length, which nobody could promise otherwise.
    pub read_only: bool,
}

/// When an agent is shown a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyMode {
    /// At once, when it is complete; nothing of it goes on before the verdict.
    Buffer,
    /// In pieces as they come; each goes on when the agent has let it pass.
    Stream,
}

/// What happens to a body that is longer than the limit of an agent that inspects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnOversize {
    /// The request or the response is refused, whatever the failure mode. The default.
    #[default]
    Fail,
    /// The agent judges as much of the beginning as the limit allows; the rest goes on unseen.
    Truncate,
    /// The agent is not asked about the body, or about no more of it; it goes on unseen.
    Skip,
}

/// What an agent sees of a body with a content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BodyEncoding {
    /// The content: gzip, deflate, br and zstd are decoded for it. The default.
    #[default]
    Decode,
    /// The bytes as they are transferred.
    Raw,
}

/// How an agent is told what became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completions {
    /// Events that may wait for the agent, of each worker; beyond it they are dropped and counted. Default 1024, 1 to
    /// 1 000 000.
    pub queue: usize,
}

impl Default for Completions {
    fn default() -> Self {
        Self { queue: 1024 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_those_that_a_request_waits_for() {
        let body = BodyInspection {
            mode: BodyMode::Stream,
            limit: None,
            on_oversize: OnOversize::Fail,
            encoding: BodyEncoding::Decode,
            max_ratio: 100,
            read_only: false,
        };
        let nothing = Inspect {
            request_headers: false,
            ..Inspect::default()
        };
        let everything = Inspect {
            request_headers: true,
            request_body: Some(body),
            response_headers: true,
            response_body: Some(body),
            websocket_frames: true,
            request_complete: None,
        };
        let told = |inspect| Inspect {
            request_complete: Some(Completions::default()),
            ..inspect
        };
        for (inspect, phases) in [
            (Inspect::default(), 1),
            (nothing, 0),
            (told(nothing), 0),
            (everything, 5),
            (told(everything), 5),
        ] {
            assert_eq!(inspect.phases(), phases, "{inspect:?}");
        }
    }
}
