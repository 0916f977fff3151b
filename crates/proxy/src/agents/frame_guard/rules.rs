//! What the agent is configured with.

use serde_json::{Map, Value};

use super::super::content::{Denied, flag, known, number, object, texts};

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// What they were made from.
    pub(super) source: Value,
    pub(super) from_client: MessageRules,
    pub(super) from_server: MessageRules,
}

/// What holds for the messages of one direction.
#[derive(Debug, Default)]
pub(super) struct MessageRules {
    pub(super) denied: Denied,
    pub(super) max_depth: Option<u32>,
    /// Of messages of bytes the depth is not counted.
    pub(super) depth_of_text_only: bool,
    pub(super) max_message_bytes: Option<u64>,
}

impl Rules {
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn parse(config: &Value) -> Result<Self, String> {
        if config.is_null() {
            return Ok(Self::default());
        }
        let members = object(config, "the configuration")?;
        known(members, "", &["from-client", "from-server"])?;
        Ok(Self {
            source: config.clone(),
            from_client: message_rules(members, "from-client")?,
            from_server: message_rules(members, "from-server")?,
        })
    }
}

const KEYS: [&str; 5] = [
    "deny",
    "deny-regex",
    "ignore-case",
    "json",
    "max-message-bytes",
];

fn message_rules(members: &Map<String, Value>, name: &str) -> Result<MessageRules, String> {
    let Some(rules) = members.get(name) else {
        return Ok(MessageRules::default());
    };
    let at = |error: String| format!("{name} {error}");
    let members = object(rules, name)?;
    known(members, &format!("{name} "), &KEYS)?;
    let denied = Denied::new(
        texts(members, "deny").map_err(at)?,
        flag(members, "ignore-case").map_err(at)?,
        &texts(members, "deny-regex").map_err(at)?,
    );
    let mut rules = MessageRules {
        denied: denied.map_err(at)?,
        max_message_bytes: number(members, "max-message-bytes", 1, u64::MAX).map_err(at)?,
        ..MessageRules::default()
    };
    if let Some(json) = members.get("json") {
        let json = object(json, "json").map_err(at)?;
        known(json, &format!("{name} json "), &["max-depth", "text-only"])?;
        let depth = number(json, "max-depth", 1, u32::MAX.into()).map_err(at)?;
        let depth = depth.ok_or_else(|| at("json: `max-depth` is missing".to_owned()))?;
        rules.max_depth = u32::try_from(depth).ok();
        rules.depth_of_text_only = flag(json, "text-only").map_err(at)?;
    }
    Ok(rules)
}
