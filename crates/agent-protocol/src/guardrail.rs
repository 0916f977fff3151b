//! Texts of messages: what a guardrail is shown of them, and what it finds.

use std::time::Duration;

/// What a guardrail is to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InspectionType {
    /// Text that would make a model do something else than it is meant to.
    PromptInjection,
    /// What belongs to a person: names, numbers, addresses.
    PiiDetection,
}

impl InspectionType {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::PromptInjection, Self::PiiDetection];

    /// The name, as in `prompt_injection`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PromptInjection => "prompt_injection",
            Self::PiiDetection => "pii_detection",
        }
    }

    /// The type of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// A text out of the body of a request or of a response, before that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardrailInspect<'a> {
    /// The id that all events of the request have.
    pub correlation_id: &'a str,
    /// What to look for.
    pub inspection_type: InspectionType,
    /// The text. A body that has several of them is asked about several times.
    pub content: &'a str,
    /// The model that the text is for or from, when that is known.
    pub model: Option<&'a str>,
    /// What of it is of interest, as in `email`; empty: everything.
    pub categories: &'a [String],
    /// The route that the request took.
    pub route_id: Option<&'a str>,
    /// Whether the text is from a response. Goes over the wire as the member
    /// `direction` of the metadata, which is `request` or `response`; a peer
    /// that does not say is taken to speak of a request.
    pub is_response: bool,
    /// What else there is to know, in order, no name twice and none of them
    /// `direction`.
    pub metadata: &'a [(String, String)],
    /// As [`RequestHeaders::budget_left`](crate::RequestHeaders::budget_left).
    pub budget_left: Option<Duration>,
}

/// What a guardrail found in a text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GuardrailResult {
    /// Whether it found anything.
    pub detected: bool,
    /// How sure it is, from 0 to 1.
    pub confidence: f32,
    /// What it found.
    pub detections: Vec<Detection>,
    /// The text without what was found; `None` when the guardrail has made
    /// none.
    pub redacted_content: Option<String>,
}

/// Something that a guardrail found.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Its kind, as in `credit_card`.
    pub category: String,
    /// For people.
    pub description: String,
    /// How bad it is.
    pub severity: Severity,
    /// How sure the guardrail is of it, from 0 to 1.
    pub confidence: Option<f32>,
    /// Where it is; `None` when that cannot be said.
    pub span: Option<TextSpan>,
}

/// A part of a text, in bytes of its UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSpan {
    /// Where it begins.
    pub start: u64,
    /// Where what follows it begins.
    pub end: u64,
}

/// How bad something is that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Severity {
    /// Good to know.
    Low,
    /// The default, also when the guardrail says something else.
    #[default]
    Medium,
    /// Should not pass.
    High,
    /// Must not pass.
    Critical,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The name, as in `high`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity of this name; the default for others.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|it| it.name() == name);
        known.unwrap_or_default()
    }
}

impl GuardrailResult {
    /// Nothing was found.
    #[must_use]
    pub fn clean() -> Self {
        Self::default()
    }

    /// Something of this kind was found.
    #[must_use]
    pub fn found(category: impl Into<String>, description: impl Into<String>) -> Self {
        Self::clean().and(category, description, None)
    }

    /// Something of this kind was found, there.
    #[must_use]
    pub fn found_at(
        category: impl Into<String>,
        description: impl Into<String>,
        span: std::ops::Range<usize>,
    ) -> Self {
        Self::clean().and(category, description, Some(span))
    }

    /// Something else was found, too.
    #[must_use]
    pub fn and(
        mut self,
        category: impl Into<String>,
        description: impl Into<String>,
        span: Option<std::ops::Range<usize>>,
    ) -> Self {
        self.detected = true;
        self.confidence = 1.0;
        self.detections.push(Detection {
            category: category.into(),
            description: description.into(),
            severity: Severity::default(),
            confidence: None,
            span: span.map(|span| TextSpan {
                start: span.start as u64,
                end: span.end as u64,
            }),
        });
        self
    }

    /// The text without what was found.
    #[must_use]
    pub fn with_redacted_content(mut self, content: impl Into<String>) -> Self {
        self.redacted_content = Some(content.into());
        self
    }

    /// Whether it can be about this text.
    ///
    /// # Errors
    /// What is wrong with it, in words for a log.
    pub fn validate(&self, content: &str) -> Result<(), String> {
        let is_place = |at: u64| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            content.is_char_boundary(at)
        };
        for span in self.detections.iter().filter_map(|it| it.span) {
            let TextSpan { start, end } = span;
            if start > end || !is_place(start) || !is_place(end) {
                return Err(format!(
                    "a detection from {start} to {end}, which is no part of the text"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        for kind in InspectionType::ALL {
            assert_eq!(InspectionType::from_name(kind.name()), Some(kind));
        }
        for severity in Severity::ALL {
            assert_eq!(Severity::from_name(severity.name()), severity);
        }
        assert_eq!(InspectionType::from_name("PromptInjection"), None);
        assert_eq!(Severity::from_name("terrible"), Severity::Medium);
    }

    #[test]
    fn a_detection_is_a_part_of_the_text() {
        let text = "aé";
        for (span, good) in [
            (0..0, true),
            (0..1, true),
            (1..3, true),
            (3..3, true),
            (1..2, false),
            (2..3, false),
            (0..4, false),
            (usize::MAX..usize::MAX, false),
        ] {
            let result = GuardrailResult::found_at("x", "", span.clone());
            assert_eq!(result.validate(text).is_ok(), good, "{span:?}");
        }
        let mut result = GuardrailResult::found_at("x", "", 0..1);
        result.detections[0].span = Some(TextSpan { start: 1, end: 0 });
        assert!(result.validate(text).is_err());
        assert!(GuardrailResult::found("x", "").validate("").is_ok());
    }
}
