//! The agent `denylist`: it blocks by path, user agent and client address,
//! and allows everything else.
//!
//! Paths are compared with their percent-encodings resolved, so that another
//! spelling of a path is not another path. A block says in its reason code
//! which entry matched, as in `path:/admin`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use http::header::USER_AGENT;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use portcullis_agent_protocol::server::{Agent, AgentError};
use portcullis_agent_protocol::{Decision, RequestHeaders};
use serde_json::Value;

const DEFAULT_STATUS: u16 = 403;
const KEYS: [&str; 6] = [
    "paths",
    "prefixes",
    "user-agents",
    "client-networks",
    "status",
    "body",
];

/// The agent. Without a configuration it allows everything; a proxy's
/// configuration takes the place of the one before.
#[derive(Debug, Default)]
pub(super) struct Denylist {
    rules: RwLock<Arc<Rules>>,
}

#[async_trait]
impl Agent for Denylist {
    fn name(&self) -> &str {
        "denylist"
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let rules = Arc::new(Rules::parse(config)?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(())
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        Ok(match rules.reason_against(event) {
            Some(reason) => rules.block(reason),
            None => Decision::allow(),
        })
    }
}

/// What is denied, and how.
#[derive(Debug, PartialEq)]
struct Rules {
    paths: Vec<PathRule>,
    prefixes: Vec<PathRule>,
    user_agents: Vec<UserAgentRule>,
    client_networks: Vec<IpNet>,
    status: u16,
    body: Option<String>,
}

/// A path as it was written, and as it is compared: decoded, without the
/// slash at its end.
#[derive(Debug, PartialEq)]
struct PathRule {
    written: String,
    compared: Vec<u8>,
}

/// A part of a user agent as it was written, and in lower case.
#[derive(Debug, PartialEq)]
struct UserAgentRule {
    written: String,
    lower: Vec<u8>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            prefixes: Vec::new(),
            user_agents: Vec::new(),
            client_networks: Vec::new(),
            status: DEFAULT_STATUS,
            body: None,
        }
    }
}

impl Rules {
    fn parse(config: &Value) -> Result<Self, String> {
        let members = match config {
            Value::Null => return Ok(Self::default()),
            Value::Object(members) => members,
            _ => return Err("the configuration is not an object".to_owned()),
        };
        if let Some(key) = members.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!(
                "unknown key {key:?}; known are {}",
                KEYS.join(", ")
            ));
        }
        let rules = Self {
            paths: each_text(config, "paths", path_rule)?,
            prefixes: each_text(config, "prefixes", path_rule)?,
            user_agents: each_text(config, "user-agents", user_agent_rule)?,
            client_networks: each_text(config, "client-networks", network)?,
            status: status(config)?,
            body: body(config)?,
        };
        if matches!(rules.status, 204 | 304) && rules.body.is_some() {
            return Err(format!(
                "an answer with status {} has no body",
                rules.status
            ));
        }
        Ok(rules)
    }

    // The reason code of the first entry that matches.
    fn reason_against(&self, event: &RequestHeaders<'_>) -> Option<String> {
        let path: Cow<'_, [u8]> = percent_decode_str(event.path()).into();
        let path = without_slash(&path);
        if let Some(rule) = self.paths.iter().find(|rule| rule.compared == path) {
            return Some(format!("path:{}", rule.written));
        }
        if let Some(rule) = self.prefixes.iter().find(|rule| rule.is_prefix_of(path)) {
            return Some(format!("prefix:{}", rule.written));
        }
        for value in event.headers.get_all(USER_AGENT) {
            let lower = value.as_bytes().to_ascii_lowercase();
            if let Some(rule) = self.user_agents.iter().find(|rule| rule.is_within(&lower)) {
                return Some(format!("user-agent:{}", rule.written));
            }
        }
        // An IPv4 client may come as ::ffff:192.0.2.1.
        let client = event.metadata.client_ip.to_canonical();
        let network = self
            .client_networks
            .iter()
            .find(|network| network.contains(&client))?;
        Some(format!("client-network:{network}"))
    }

    fn block(&self, reason: String) -> Decision {
        let decision = Decision::block(self.status).tag("denylist").reason(reason);
        match &self.body {
            Some(body) => decision.with_body(body.clone()),
            None => decision,
        }
    }
}

impl PathRule {
    // A prefix matches whole segments: `/v1` is `/v1` and `/v1/…`.
    fn is_prefix_of(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.compared.as_slice())
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }
}

impl UserAgentRule {
    fn is_within(&self, lower: &[u8]) -> bool {
        lower
            .windows(self.lower.len())
            .any(|part| part == self.lower)
    }
}

fn without_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

// Reads a text or a list of texts; nothing when the key is missing.
fn each_text<T>(
    config: &Value,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let texts = match config.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(texts)) => texts.as_slice(),
        Some(text) => std::slice::from_ref(text),
    };
    let parse = |text: &Value| match text.as_str() {
        Some(text) => parse(text).map_err(|detail| format!("{key}: {text:?} {detail}")),
        None => Err(format!("{key}: {text} is not a text")),
    };
    texts.iter().map(parse).collect()
}

fn path_rule(text: &str) -> Result<PathRule, String> {
    if !text.starts_with('/') {
        return Err("does not begin with a slash".to_owned());
    }
    let decoded: Cow<'_, [u8]> = percent_decode_str(text).into();
    Ok(PathRule {
        written: text.to_owned(),
        compared: without_slash(&decoded).to_owned(),
    })
}

fn user_agent_rule(text: &str) -> Result<UserAgentRule, String> {
    if text.is_empty() {
        return Err("is in every user agent".to_owned());
    }
    Ok(UserAgentRule {
        written: text.to_owned(),
        lower: text.to_ascii_lowercase().into_bytes(),
    })
}

// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = address.or_else(|_| text.parse::<IpNet>());
    network
        .map(|network| network.trunc())
        .map_err(|_| "is not an address or network".to_owned())
}

fn status(config: &Value) -> Result<u16, String> {
    let Some(value) = single(config, "status")? else {
        return Ok(DEFAULT_STATUS);
    };
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|status| (200..=599).contains(status));
    number.ok_or_else(|| format!("status: {value} is not a number from 200 to 599"))
}

fn body(config: &Value) -> Result<Option<String>, String> {
    match single(config, "body")? {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(value) => Err(format!("body: {value} is not a text")),
    }
}

// A value, or a list of one.
fn single<'a>(config: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match config.get(key) {
        None => Ok(None),
        Some(Value::Array(values)) => match values.as_slice() {
            [value] => Ok(Some(value)),
            _ => Err(format!(
                "{key}: one value is needed, there are {}",
                values.len()
            )),
        },
        Some(value) => Ok(Some(value)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderMap;
    use portcullis_agent_protocol::RequestMetadata;
    use serde_json::json;

    use super::*;

    fn reason(rules: &Rules, uri: &str, user_agents: &[&[u8]], client: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in user_agents {
            headers.append(USER_AGENT, http::HeaderValue::from_bytes(value).unwrap());
        }
        rules.reason_against(&RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: "c",
                request_id: "c",
                client_ip: client.parse().unwrap(),
                client_port: 1,
                server_name: None,
                protocol: "HTTP/1.1",
                tls_version: None,
                tls_cipher: None,
                client_certificate: None,
                route_id: None,
                upstream_id: None,
                timestamp: UNIX_EPOCH,
                traceparent: None,
            },
            method: "GET",
            uri,
            headers: &headers,
            budget_left: None,
        })
    }

    #[test]
    fn paths_and_prefixes() {
        let config = json!({"paths": ["/admin", "/with space/"], "prefixes": "/v1/"});
        let rules = Rules::parse(&config).unwrap();
        let table = [
            ("/", None),
            ("/admin", Some("path:/admin")),
            ("/admin/", Some("path:/admin")),
            ("/admin?x=1", Some("path:/admin")),
            ("/%61dmin", Some("path:/admin")),
            ("/admin/users", None),
            ("/administrator", None),
            ("/Admin", None),
            ("/?/admin", None),
            ("/with%20space", Some("path:/with space/")),
            ("/v1", Some("prefix:/v1/")),
            ("/v1/users", Some("prefix:/v1/")),
            ("/v1%2Fusers", Some("prefix:/v1/")),
            ("/v10", None),
            ("/api/v1", None),
        ];
        for (uri, expected) in table {
            assert_eq!(
                reason(&rules, uri, &[], "192.0.2.1").as_deref(),
                expected,
                "{uri}"
            );
        }
        let everything = Rules::parse(&json!({"prefixes": "/"})).unwrap();
        for uri in ["/", "/a", "/a/b?c"] {
            assert_eq!(
                reason(&everything, uri, &[], "::1").as_deref(),
                Some("prefix:/")
            );
        }
        let root = Rules::parse(&json!({"paths": "/"})).unwrap();
        assert_eq!(reason(&root, "/?a", &[], "::1").as_deref(), Some("path:/"));
        assert_eq!(reason(&root, "/a", &[], "::1"), None);
    }

    #[test]
    fn user_agents() {
        let rules = Rules::parse(&json!({"user-agents": ["SQLmap", "zgrab"]})).unwrap();
        let table: [(&[&[u8]], _); 6] = [
            (&[], None),
            (&[b""], None),
            (&[b"sql"], None),
            (&[b"Mozilla", b"sqlMAP/1.7"], Some("user-agent:SQLmap")),
            (&[b"\xff zgrab/0.x"], Some("user-agent:zgrab")),
            (&[b"Mozilla/5.0"], None),
        ];
        for (user_agents, expected) in table {
            assert_eq!(reason(&rules, "/", user_agents, "::1").as_deref(), expected);
        }
    }

    #[test]
    fn client_networks() {
        let config = json!({"client-networks": ["192.0.2.77/24", "2001:db8::1"]});
        let rules = Rules::parse(&config).unwrap();
        let table = [
            ("192.0.2.1", Some("client-network:192.0.2.0/24")),
            ("::ffff:192.0.2.1", Some("client-network:192.0.2.0/24")),
            ("192.0.3.1", None),
            ("2001:db8::1", Some("client-network:2001:db8::1/128")),
            ("2001:db8::2", None),
        ];
        for (client, expected) in table {
            assert_eq!(
                reason(&rules, "/", &[], client).as_deref(),
                expected,
                "{client}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_configuration_is_said() {
        let table = [
            (json!([]), "the configuration is not an object"),
            (
                json!({"path": "/"}),
                "unknown key \"path\"; known are paths, prefixes, user-agents, client-networks, status, body",
            ),
            (
                json!({"paths": "admin"}),
                "paths: \"admin\" does not begin with a slash",
            ),
            (json!({"prefixes": [1]}), "prefixes: 1 is not a text"),
            (
                json!({"user-agents": ["ok", ""]}),
                "user-agents: \"\" is in every user agent",
            ),
            (
                json!({"client-networks": "10.0.0.0/33"}),
                "client-networks: \"10.0.0.0/33\" is not an address or network",
            ),
            (
                json!({"status": 600}),
                "status: 600 is not a number from 200 to 599",
            ),
            (
                json!({"status": "403"}),
                "status: \"403\" is not a number from 200 to 599",
            ),
            (
                json!({"status": [403, 404]}),
                "status: one value is needed, there are 2",
            ),
            (json!({"body": 1}), "body: 1 is not a text"),
            (
                json!({"status": 204, "body": "x"}),
                "an answer with status 204 has no body",
            ),
        ];
        for (config, expected) in table {
            assert_eq!(Rules::parse(&config), Err(expected.to_owned()), "{config}");
        }
        assert_eq!(Rules::parse(&Value::Null), Ok(Rules::default()));
        assert_eq!(Rules::parse(&json!({})), Ok(Rules::default()));
    }

    #[test]
    fn a_block_says_why() {
        let config = json!({"status": [451], "body": ["gone\n"]});
        let decision = Rules::parse(&config).unwrap().block("path:/x".to_owned());
        let expected = Decision::block(451)
            .with_body("gone\n")
            .tag("denylist")
            .reason("path:/x");
        assert_eq!(decision, expected);
        let plain = Rules::default().block("path:/x".to_owned());
        assert_eq!(
            plain,
            Decision::block(403).tag("denylist").reason("path:/x")
        );
    }
}
