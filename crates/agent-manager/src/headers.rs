//! Which headers belong to which agent, and what an agent is told.

use http::{HeaderMap, HeaderName};

/// What an agent may say and hear.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderRules {
    /// Only this agent may set them, and no client may send them.
    pub owns: OwnedHeaders,
    /// What it is told of a request's headers.
    pub send: SendHeaders,
}

/// A set of header names, some of them by their beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnedHeaders {
    /// Lower case.
    names: Vec<String>,
    /// Lower case; what stood before the final `*`.
    prefixes: Vec<String>,
}

impl OwnedHeaders {
    /// A set of names; one that ends in `*` stands for all that begin so.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self::default();
        for pattern in patterns {
            let pattern = dashed(pattern);
            match pattern.strip_suffix('*') {
                Some(prefix) => set.prefixes.push(prefix.to_owned()),
                None => set.names.push(pattern),
            }
        }
        set
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty()
    }

    /// Whether a name is in the set. Underscores count as hyphens, because many servers take them for the same.
    pub fn contains(&self, name: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let name = dashed(name);
        self.names.contains(&name)
            || self
                .prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Adds another set to this one.
    pub fn extend(&mut self, other: &Self) {
        self.names.extend_from_slice(&other.names);
        self.prefixes.extend_from_slice(&other.prefixes);
    }

    /// The names of a message that are in the set.
    pub fn found_in(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        if self.is_empty() {
            return Vec::new();
        }
        headers
            .keys()
            .filter(|name| self.contains(name.as_str()))
            .cloned()
            .collect()
    }
}

fn dashed(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// What an agent is told of a request's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SendHeaders {
    /// Everything.
    #[default]
    All,
    /// Everything but these.
    Except(OwnedHeaders),
    /// These and nothing else.
    Only(OwnedHeaders),
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
    use http::HeaderValue;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
            .collect()
    }

    #[test]
    fn names_prefixes_and_underscores() {
        let set = OwnedHeaders::new(["X-User", "x-auth-*"]);
        for (name, inside) in [
            ("x-user", true),
            ("X-USER", true),
            ("x_user", true),
            ("x-user-id", false),
            ("x-auth-", true),
            ("x-auth-role", true),
            ("X_Auth_Role", true),
            ("x-author", false),
        ] {
            assert_eq!(set.contains(name), inside, "{name}");
        }
        assert!(!OwnedHeaders::default().contains("x-user"));
        assert_eq!(
            set.found_in(&headers(&["x_user", "accept", "x-auth-role"]))
                .len(),
            2
        );
    }

    #[test]
    fn agents_are_told_what_the_rule_says() {
        let all = headers(&["cookie", "accept", "x-a"]);
        assert_eq!(SendHeaders::All.filter(&all), None);
        let except = SendHeaders::Except(OwnedHeaders::new(["cookie"]));
        assert_eq!(except.filter(&all), Some(headers(&["accept", "x-a"])));
        let only = SendHeaders::Only(OwnedHeaders::new(["x-*"]));
        assert_eq!(only.filter(&all), Some(headers(&["x-a"])));
    }
}
