//! Names of header fields, as those read them for whom `_` and `-` are the same: CGI and WSGI make one variable of `x_user`
//! and `x-user`, so that who sends one of them speaks for both.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The form in which names are compared: lower case, hyphens instead of underscores.
#[must_use]
pub fn folded(name: &str) -> Cow<'_, str> {
    let differs = |byte: u8| byte == b'_' || byte.is_ascii_uppercase();
    match name.bytes().any(differs) {
        true => Cow::Owned(name.to_ascii_lowercase().replace('_', "-")),
        false => Cow::Borrowed(name),
    }
}

/// The names of a message that are another one and read as this one: in every mixture of the two signs.
#[must_use]
pub fn twins(headers: &HeaderMap, name: &HeaderName) -> Vec<HeaderName> {
    let wanted = name.as_str();
    // There must be a place for the other sign.
    if !wanted.contains(['-', '_']) {
        return Vec::new();
    }
    let is_twin = |other: &&HeaderName| reads_as(other.as_str(), wanted) && *other != name;
    headers.keys().filter(is_twin).cloned().collect()
}

/// Whether two names in lower case are the same when underscores count as hyphens.
fn reads_as(one: &str, other: &str) -> bool {
    let fold = |byte| if byte == b'_' { b'-' } else { byte };
    let mut pairs = one.bytes().zip(other.bytes());
    one.len() == other.len() && pairs.all(|(one, other)| fold(one) == fold(other))
}

/// Takes out all fields that are read as this name.
pub fn remove_alike(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    for twin in twins(headers, name) {
        headers.remove(twin);
    }
}

/// Makes this the only field that is read as this name.
pub fn insert_alone(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    remove_alike(headers, &name);
    headers.insert(name, value);
}

/// A set of header names, some of them by their beginning. Case does not count, and underscores count as hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderNames {
    /// Folded.
    names: Vec<String>,
    /// Folded; what stood before the final `*`.
    prefixes: Vec<String>,
}

impl HeaderNames {
    /// A set of names; one that ends in `*` stands for all that begin so.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self::default();
        for pattern in patterns {
            let pattern = folded(pattern);
            match pattern.strip_suffix('*') {
                Some(prefix) => set.prefixes.push(prefix.to_owned()),
                None => set.names.push(pattern.into_owned()),
            }
        }
        set
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty()
    }

    /// Whether a name is in the set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let name = folded(name);
        self.names.iter().any(|known| *known == name)
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
    #[must_use]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")))
            .collect()
    }

    #[test]
    fn names_prefixes_and_underscores() {
        let set = HeaderNames::new(["X-User", "x-auth-*", "X_Remote_User"]);
        for (name, inside) in [
            ("x-user", true),
            ("X-USER", true),
            ("x_user", true),
            ("x-user-id", false),
            ("x-auth-", true),
            ("x-auth-role", true),
            ("X_Auth_Role", true),
            ("x-author", false),
            ("x-remote-user", true),
            ("x_remote-user", true),
        ] {
            assert_eq!(set.contains(name), inside, "{name}");
        }
        assert!(!HeaderNames::default().contains("x-user"));
        let message = headers(&["x_user", "accept", "x-auth-role"]);
        assert_eq!(set.found_in(&message).len(), 2);
    }

    #[test]
    fn d27_what_is_said_under_a_name_is_all_that_is_read_under_it() {
        let name = HeaderName::from_static;
        let sent = ["x-a-b", "x_a_b", "x-a_b", "x_a-b", "x-a-bc", "xa-b", "x_a"];
        let mut said = headers(&sent);
        insert_alone(&mut said, name("x-a-b"), HeaderValue::from_static("ours"));
        let mut expected = headers(&["x-a-bc", "xa-b", "x_a"]);
        expected.insert("x-a-b", HeaderValue::from_static("ours"));
        assert_eq!(said, expected);
        let mut removed = headers(&sent);
        remove_alike(&mut removed, &name("x_a_b"));
        assert_eq!(removed, headers(&["x-a-bc", "xa-b", "x_a"]));
        let mut plain = headers(&["te", "t_e"]);
        remove_alike(&mut plain, &name("te"));
        assert_eq!(plain, headers(&["t_e"]));
    }
}
