//! Which names the language has: whatever the cursor is asked for. Nobody but tests wants to know; see the tests of the crate.

/// A name, and what it is written in.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// The node that has it; empty at the top of a file.
    pub(crate) owner: String,
    /// A node in its block, or a property.
    pub(crate) is_node: bool,
    pub(crate) name: String,
}

#[cfg(test)]
thread_local! {
    /// Of the files that were read on this thread.
    pub(crate) static ASKED: std::cell::RefCell<std::collections::BTreeSet<Asked>> =
        const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

/// Somebody wants to know whether these are there.
#[cfg(test)]
pub(crate) fn note(owner: &str, is_node: bool, names: &[&'static str]) {
    ASKED.with_borrow_mut(|asked| {
        asked.extend(names.iter().map(|name| Asked {
            owner: owner.to_owned(),
            is_node,
            name: (*name).to_owned(),
        }));
    });
}

/// Somebody wants to know whether these are there.
#[cfg(not(test))]
pub(crate) const fn note(_owner: &str, _is_node: bool, _names: &[&'static str]) {}
