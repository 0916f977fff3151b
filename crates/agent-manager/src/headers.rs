//! Which headers belong to which agent, and what an agent is told.

use http::HeaderMap;
pub use portcullis_agent_protocol::header_name::HeaderNames;

/// What an agent may say and hear.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderRules {
    /// Only this agent may set them, and no client may send them.
    pub owns: HeaderNames,
    /// What it is told of a request's headers.
    pub send: SendHeaders,
}

/// What an agent is told of a request's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SendHeaders {
    /// Everything.
    #[default]
    All,
    /// Everything but these.
    Except(HeaderNames),
    /// These and nothing else.
    Only(HeaderNames),
}

impl SendHeaders {
    /// The headers that are told; `None` when these are all.
    pub(crate) fn filter(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        let keep: &dyn Fn(&str) -> bool = match self {
            Self::All => return None,
            Self::Except(set) => &|name| !set.contains(name),
            Self::Only(set) => &|name| set.contains(name),
        };
        let mut told = HeaderMap::with_capacity(headers.len());
        for (name, value) in headers {
            if keep(name.as_str()) {
                told.append(name.clone(), value.clone());
            }
        }
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(names: &[&'static str]) -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
            .collect()
    }

    #[test]
    fn agents_are_told_what_the_rule_says() {
        let all = headers(&["cookie", "accept", "x-a"]);
        assert_eq!(SendHeaders::All.filter(&all), None);
        let except = SendHeaders::Except(HeaderNames::new(["cookie"]));
        assert_eq!(except.filter(&all), Some(headers(&["accept", "x-a"])));
        let only = SendHeaders::Only(HeaderNames::new(["x-*"]));
        assert_eq!(only.filter(&all), Some(headers(&["x-a"])));
    }
}
