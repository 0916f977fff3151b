//! Which headers of a request its filters have changed. Known on routes where verdicts are kept, because these depend on it.

use super::headers::Edit;
use http::HeaderName;
use portcullis_agent_protocol::HeaderOp;

/// The names, each once, in the order of the first change.
#[derive(Debug, Default)]
pub(crate) struct Changed(Vec<HeaderName>);

impl Changed {
    pub(super) fn names(&self) -> &[HeaderName] {
        &self.0
    }

    /// A header filter has run.
    pub(super) fn edited(&mut self, edits: &[Edit]) {
        for edit in edits {
            let (Edit::Set(name, _) | Edit::Add(name, _) | Edit::Remove(name)) = edit;
            self.note(name);
        }
    }

    /// Agents have changed something.
    pub(super) fn operated(&mut self, operations: &[HeaderOp]) {
        for operation in operations {
            // What is no name has changed nothing.
            if let Ok(name) = HeaderName::from_bytes(operation.name().as_bytes()) {
                self.note(&name);
            }
        }
    }

    fn note(&mut self, name: &HeaderName) {
        if !self.0.contains(name) {
            self.0.push(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_counts_once() {
        let mut changed = Changed::default();
        let op = |name: &str| HeaderOp::Remove { name: name.into() };
        changed.operated(&[op("X-B"), op("no name"), op("x-a")]);
        let name = HeaderName::from_static;
        changed.edited(&[Edit::Remove(name("x-c")), Edit::Remove(name("x-b"))]);
        assert_eq!(changed.names(), ["x-b", "x-a", "x-c"]);
    }
}
