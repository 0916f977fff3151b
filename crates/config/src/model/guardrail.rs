//! `guardrail … { … }` of a route: texts within JSON bodies are shown to an agent before the bodies go on.

use super::{AgentUse, BodyInspection};

/// A guardrail on a route. It looks into requests, responses, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guardrail {
    /// Who is asked; never in the shadow.
    pub used: AgentUse,
    /// What it looks for.
    pub inspection: Inspection,
    /// What becomes of a message in which it finds something. Default [`OnDetect::Block`] with 403.
    pub on_detect: OnDetect,
    /// The texts of requests. None: it does not see requests.
    pub request: Option<GuardedBody>,
    /// The texts of responses. None: it does not see responses.
    pub response: Option<GuardedBody>,
    /// Where a body says which model it is for or from. It has no [`PointerToken::Any`].
    pub model: Option<JsonPointer>,
    /// What of it is of interest, in words that the agent knows. Empty, the default: everything.
    pub categories: Vec<String>,
}

impl Guardrail {
    /// The bodies that it sees.
    pub fn bodies(&self) -> impl Iterator<Item = &GuardedBody> {
        self.request.iter().chain(&self.response)
    }
}

/// What a guardrail looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inspection {
    /// Text that would make a model do something else than it is meant to.
    PromptInjection,
    /// What belongs to a person.
    PiiDetection,
}

/// What becomes of a message in which something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnDetect {
    /// It does not go on.
    Block {
        /// What the client gets. Default 403, 400 to 599.
        status: u16,
    },
    /// It goes on without what was found.
    Redact {
        /// What takes the place of what was found where the agent has said that it is. Default `[redacted]`.
        replacement: String,
        /// What the client gets when the agent does not say where it is. Default 403, 400 to 599.
        status: u16,
    },
    /// It goes on as it is.
    Log,
}

/// The texts of the bodies of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardedBody {
    /// Where they are. Never empty.
    pub texts: Vec<JsonPointer>,
    /// How bodies are held: always [`BodyMode::Buffer`](super::BodyMode), decoded, never truncated, with a limit of 1 byte to
    /// 8 MiB; default 1 MiB.
    pub body: BodyInspection,
    /// The most texts of one body. Default 64, 1 to 1024. What becomes of a body with more is that of one that is too large
    /// when that is fail.
    pub max_texts: usize,
    /// What becomes of a body that is not JSON. Default fail.
    pub not_json: Otherwise,
    /// What becomes of JSON without any of the texts. Default pass.
    pub unmatched: Otherwise,
}

/// What becomes of a body in which a guardrail cannot look for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Otherwise {
    /// The message is refused, whatever the failure mode.
    Fail,
    /// It goes on.
    Pass,
}

/// A place in JSON (RFC 6901), or several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonPointer(pub Vec<PointerToken>);

/// A step on the way to a place in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PointerToken {
    /// To every element of an array, or to every member of an object: `*`.
    Any,
    /// To the member of this name, or to the element of this number.
    Named(String),
}
