//! The head of a request or of a response, as far as changing it goes.

use http::{HeaderName, HeaderValue};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_agent_protocol::header_name;

/// What the heads of both directions have in common. Pingora has it on both, but not as a trait.
pub(crate) trait Head {
    /// Replaces all fields of the name.
    fn set(&mut self, name: HeaderName, value: HeaderValue) -> Result<()>;
    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<()>;
    fn remove(&mut self, name: &HeaderName);
}

/// What is said or taken back on the way to a server or an agent holds for all names that it may read as this one: none of
/// the client's is left beside it.
impl Head for RequestHeader {
    fn set(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
        remove_twins(self, &name);
        self.insert_header(name, value)
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
        self.append_header(name, value).map(|_| ())
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
        remove_twins(self, name);
    }
}

fn remove_twins(head: &mut RequestHeader, name: &HeaderName) {
    for twin in header_name::twins(&head.headers, name) {
        head.remove_header(&twin);
    }
}

impl Head for ResponseHeader {
    fn set(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
        self.insert_header(name, value)
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<()> {
        self.append_header(name, value).map(|_| ())
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d27_nothing_of_a_client_is_left_beside_what_is_said_to_servers() {
        let build = || {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            for name in ["x-user", "x_user", "X_User", "x-other"] {
                head.append_header(name, "client").unwrap();
            }
            head
        };
        let left = |head: &RequestHeader| {
            let lines = head.headers.iter();
            let mut lines: Vec<String> = lines
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            lines.sort_unstable();
            lines
        };
        let name = HeaderName::from_static("x-user");
        let mut head = build();
        Head::set(&mut head, name.clone(), HeaderValue::from_static("proxy")).unwrap();
        assert_eq!(left(&head), ["x-other: client", "x-user: proxy"]);
        let mut head = build();
        Head::remove(&mut head, &HeaderName::from_static("x_user"));
        assert_eq!(left(&head), ["x-other: client"]);
        // Who adds wants to keep what is there.
        let mut head = build();
        Head::add(&mut head, name, HeaderValue::from_static("proxy")).unwrap();
        assert_eq!(left(&head).len(), 5);
    }
}
