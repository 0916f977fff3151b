//! Header fields that nobody edits, whoever asks for it.

use crate::header_pattern::folded;

/// Fields that frame a message, route it or say where it comes from, each with the reason. They follow from the message
/// itself, so nobody edits them: not an agent, not the configuration. A change would make the proxy, the upstream and agents
/// disagree on what the message is (RFC 9110 section 7.6.1, RFC 9112 section 6). One that ends in `-` stands for all that
/// begin so.
pub(crate) const PROTECTED: [(&str, &str); 16] = [
    ("host", "the upstream gets the host that was asked for"),
    ("content-length", "it follows from the body"),
    ("transfer-encoding", "it follows from the body"),
    (
        "connection",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "keep-alive",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "proxy-connection",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "upgrade",
        "it belongs to one connection; `websocket` on a route lets it pass",
    ),
    (
        "http2-settings",
        "it belongs to one connection, and each side has its own",
    ),
    (
        "te",
        "it belongs to one connection, and each side has its own",
    ),
    ("trailer", "it follows from the body"),
    ("via", "the proxy writes it"),
    (
        "x-real-ip",
        "it says who the client is, and the proxy knows; see `trusted-proxies`",
    ),
    (
        "forwarded",
        "it says who the client is, and the proxy knows; see `trusted-proxies`",
    ),
    (
        "x-request-id",
        "it is the same in logs, agents and upstreams; see `trusted-proxies`",
    ),
    (
        "traceparent",
        "it ties traces together, so the proxy writes it",
    ),
    (
        "x-forwarded-",
        "it says who the client is, and the proxy knows; see `trusted-proxies`",
    ),
];

/// Why nobody may edit a header, in words; `None` when it is like any other. Case does not count, and underscores count as
/// hyphens, because many servers take them for the same.
#[must_use]
pub fn why_protected(name: &str) -> Option<&'static str> {
    let name = folded(name);
    let is = |pattern: &str| match pattern.ends_with('-') {
        true => name.starts_with(pattern),
        false => *name == *pattern,
    };
    let (_, why) = PROTECTED.iter().find(|(pattern, _)| is(pattern))?;
    Some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_a_protected_name_is_protected() {
        for (name, _) in PROTECTED {
            assert!(why_protected(name).is_some(), "{name}");
            let name = name.to_ascii_uppercase().replace('-', "_");
            assert!(why_protected(&name).is_some(), "{name}");
        }
        for (name, is_protected) in [
            ("x_forwarded-For", true),
            ("X-Forwarded-Anything", true),
            ("x-forwarded", false),
            ("content_length", true),
            ("content-type", false),
            ("t-e", false),
            ("x-host", false),
        ] {
            assert_eq!(why_protected(name).is_some(), is_protected, "{name}");
        }
    }
}
