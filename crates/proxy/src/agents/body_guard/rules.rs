//! What the agent is configured with.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value};

const DEFAULT_STATUS: u16 = 403;
const DEFAULT_MAX_MATCH: usize = 1024;
const MOST_MAX_MATCH: u64 = 64 << 10;
/// A regular expression compiled, in bytes.
const REGEX_BYTES: usize = 1 << 20;

/// All of it.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) request: BodyRules,
    pub(super) response: BodyRules,
    /// In lower case, without parameters.
    content_types: Vec<String>,
    pub(super) max_match: usize,
    pub(super) status: u16,
}

/// What holds for the bodies of one direction.
#[derive(Debug, Default)]
pub(super) struct BodyRules {
    pub(super) deny: Vec<Pattern>,
    pub(super) redact: Vec<Redaction>,
    pub(super) max_depth: Option<u32>,
    pub(super) max_bytes: Option<u64>,
}

/// What a body must not hold.
#[derive(Debug)]
pub(super) struct Pattern {
    /// As it is in the configuration.
    pub(super) written: String,
    pub(super) regex: Regex,
}

/// What is put in the place of what.
#[derive(Debug)]
pub(super) struct Redaction {
    pub(super) regex: Regex,
    pub(super) with: String,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            request: BodyRules::default(),
            response: BodyRules::default(),
            content_types: Vec::new(),
            max_match: DEFAULT_MAX_MATCH,
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
        let status = number(members, "status", 200, 599)?;
        let status = status.and_then(|status| u16::try_from(status).ok());
        let mut rules = Self {
            max_match: max_match.unwrap_or(DEFAULT_MAX_MATCH),
            status: status.unwrap_or(DEFAULT_STATUS),
            ..Self::default()
        };
        if let Some(request) = members.get("request") {
            let request = object(request, "request")?;
            known(request, "request ", &BODY_KEYS)?;
            rules.request = body_rules(request, rules.max_match, "request ")?;
        }
        if let Some(response) = members.get("response") {
            let response = object(response, "response")?;
            let keys = [&BODY_KEYS[..], &["block-content-types"]].concat();
            known(response, "response ", &keys)?;
            rules.response = body_rules(response, rules.max_match, "response ")?;
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

const BODY_KEYS: [&str; 4] = ["deny", "deny-regex", "redact", "json"];

fn body_rules(
    members: &Map<String, Value>,
    max_match: usize,
    place: &str,
) -> Result<BodyRules, String> {
    let at = |error: String| format!("{place}{error}");
    let mut deny = Vec::new();
    for text in texts(members, "deny").map_err(at)? {
        if text.is_empty() || text.len() > max_match {
            return Err(at(format!(
                "deny: {text:?} has to have 1 to {max_match} bytes (`max-match`)"
            )));
        }
        let regex = regex(&regex::escape(&text)).map_err(at)?;
        deny.push(Pattern {
            written: text,
            regex,
        });
    }
    for text in texts(members, "deny-regex").map_err(at)? {
        let regex = regex(&text).map_err(at)?;
        deny.push(Pattern {
            written: text,
            regex,
        });
    }
    let redact = each(members.get("redact"))
        .map(|redaction| self::redaction(redaction).map_err(at))
        .collect::<Result<_, _>>()?;
    let mut rules = BodyRules {
        deny,
        redact,
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
        regex: regex(pattern)?,
        with: text("with")?.cloned().unwrap_or_default(),
    })
}

fn regex(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(REGEX_BYTES)
        .build()
        .map_err(|error| format!("{text:?} is not a regular expression: {error}"))?;
    if regex.is_match(b"") {
        return Err(format!("{text:?} matches where nothing is"));
    }
    Ok(regex)
}

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, String> {
    value
        .as_object()
        .ok_or_else(|| format!("{name} is not an object"))
}

fn known(members: &Map<String, Value>, place: &str, keys: &[&str]) -> Result<(), String> {
    match members.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!(
            "unknown key {place}{key:?}; known are {}",
            keys.join(", ")
        )),
        None => Ok(()),
    }
}

/// A value, or each of a list.
fn each(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let (one, list) = match value {
        Some(Value::Array(values)) => (None, values.as_slice()),
        value => (value, &[][..]),
    };
    one.into_iter().chain(list)
}

fn texts(members: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    each(members.get(key))
        .map(|value| match value {
            Value::String(text) => Ok(text.clone()),
            value => Err(format!("{key}: {value} is not a text")),
        })
        .collect()
}

fn number(
    members: &Map<String, Value>,
    key: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, String> {
    let Some(value) = members.get(key) else {
        return Ok(None);
    };
    let number = value
        .as_u64()
        .filter(|number| (least..=most).contains(number));
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(format!(
            "{key}: {value} is not a number from {least} to {most}"
        )),
    }
}
