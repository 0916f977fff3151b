//! What the agent is configured with.

use serde_json::{Map, Value};

use super::super::content::{Denied, Expression, each, flag, known, number, object, texts};
use super::redact::{Redaction, Redactions};

const DEFAULT_STATUS: u16 = 403;
const DEFAULT_MAX_MATCH: usize = 1024;
const MOST_MAX_MATCH: u64 = 64 << 10;

/// All of it.
#[derive(Debug)]
pub(super) struct Rules {
    /// What they were made from.
    pub(super) source: Value,
    pub(super) request: BodyRules,
    pub(super) response: BodyRules,
    /// In lower case, without parameters.
    content_types: Vec<String>,
    pub(super) status: u16,
}

/// What holds for the bodies of one direction.
#[derive(Debug, Default)]
pub(super) struct BodyRules {
    pub(super) denied: Denied,
    pub(super) redactions: Redactions,
    pub(super) max_depth: Option<u32>,
    pub(super) max_bytes: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            source: Value::Null,
            request: BodyRules::default(),
            response: BodyRules::default(),
            content_types: Vec::new(),
            status: DEFAULT_STATUS,
        }
    }
}

impl Rules {
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn parse(config: &Value) -> Result<Self, String> {
        if config.is_null() {
            return Ok(Self::default());
        }
        let members = object(config, "the configuration")?;
        known(members, "", &["request", "response", "max-match", "status"])?;
        let max_match = number(members, "max-match", 1, MOST_MAX_MATCH)?;
        let max_match = max_match.and_then(|most| usize::try_from(most).ok());
        let max_match = max_match.unwrap_or(DEFAULT_MAX_MATCH);
        let status = number(members, "status", 200, 599)?;
        let status = status.and_then(|status| u16::try_from(status).ok());
        let mut rules = Self {
            source: config.clone(),
            status: status.unwrap_or(DEFAULT_STATUS),
            ..Self::default()
        };
        if let Some(request) = members.get("request") {
            let request = object(request, "request")?;
            known(request, "request ", &BODY_KEYS)?;
            rules.request = body_rules(request, max_match, "request ")?;
        }
        if let Some(response) = members.get("response") {
            let response = object(response, "response")?;
            let keys = [&BODY_KEYS[..], &["block-content-types"]].concat();
            known(response, "response ", &keys)?;
            rules.response = body_rules(response, max_match, "response ")?;
            rules.content_types = texts(response, "block-content-types")?
                .iter()
                .map(|kind| kind.to_ascii_lowercase())
                .collect();
        }
        Ok(rules)
    }

    /// The blocked type that the value of a content-type header names.
    pub(super) fn blocked_content_type(&self, value: &[u8]) -> Option<&str> {
        let kind = value.split(|byte| *byte == b';').next()?.trim_ascii();
        let blocked = self
            .content_types
            .iter()
            .find(|blocked| kind.eq_ignore_ascii_case(blocked.as_bytes()));
        blocked.map(String::as_str)
    }
}

const BODY_KEYS: [&str; 5] = ["deny", "deny-regex", "ignore-case", "redact", "json"];

fn body_rules(
    members: &Map<String, Value>,
    max_match: usize,
    place: &str,
) -> Result<BodyRules, String> {
    let at = |error: String| format!("{place}{error}");
    let denied = Denied::new(
        texts(members, "deny").map_err(at)?,
        flag(members, "ignore-case").map_err(at)?,
        &texts(members, "deny-regex").map_err(at)?,
    );
    let redactions = each(members.get("redact"))
        .into_iter()
        .map(|redaction| self::redaction(redaction).map_err(at))
        .collect::<Result<_, _>>()?;
    let mut rules = BodyRules {
        denied: denied.map_err(at)?,
        redactions: Redactions::new(redactions, max_match),
        ..BodyRules::default()
    };
    if let Some(json) = members.get("json") {
        let json = object(json, "json").map_err(at)?;
        known(json, &format!("{place}json "), &["max-depth", "max-bytes"])?;
        let depth = number(json, "max-depth", 1, u32::MAX.into()).map_err(at)?;
        rules.max_depth = depth.and_then(|depth| u32::try_from(depth).ok());
        rules.max_bytes = number(json, "max-bytes", 1, u64::MAX).map_err(at)?;
    }
    Ok(rules)
}

fn redaction(config: &Value) -> Result<Redaction, String> {
    let members = object(config, "redact")?;
    known(members, "redact ", &["pattern", "with"])?;
    let text = |key: &str| match members.get(key) {
        Some(Value::String(text)) => Ok(Some(text)),
        Some(value) => Err(format!("redact {key}: {value} is not a text")),
        None => Ok(None),
    };
    let pattern = text("pattern")?.ok_or("redact: `pattern` is missing")?;
    Ok(Redaction {
        expression: Expression::new(pattern).map_err(|error| format!("redact: {error}"))?,
        with: text("with")?.cloned().unwrap_or_default(),
    })
}
