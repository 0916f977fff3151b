//! The kinds of mistakes. A code is a promise: it is searched for, and tools may rely on it.

use std::fmt;

/// The kind of a mistake, such as `unknown-node`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(&'static str);

impl Code {
    /// The code as it is printed.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Code = Code($text);)*

        /// Every code there is.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    /// A file cannot be read, or is too large.
    FILE = "file";
    /// A file is not UTF-8.
    ENCODING = "encoding";
    /// The text is not KDL.
    SYNTAX = "syntax";
    /// A file includes itself, directly or through others.
    INCLUDE_LOOP = "include-loop";
    /// A file is included a second time.
    INCLUDED_TWICE = "included-twice";
    /// The schema version is missing or not one that this program reads.
    SCHEMA_VERSION = "schema-version";
    /// A node that means nothing here.
    UNKNOWN_NODE = "unknown-node";
    /// A property that means nothing here.
    UNKNOWN_PROPERTY = "unknown-property";
    /// More arguments than the node takes.
    EXTRA_ARGUMENT = "extra-argument";
    /// A block where none belongs, or a type annotation.
    UNEXPECTED = "unexpected";
    /// Something that must be written is not.
    MISSING = "missing";
    /// Something that may be written once is written twice.
    REPEATED = "repeated";
    /// Text where a number is due, and the like.
    WRONG_TYPE = "wrong-type";
    /// A quantity without its unit, or with one that does not exist.
    WRONG_UNIT = "wrong-unit";
    /// A number that is too large or too small.
    OUT_OF_RANGE = "out-of-range";
    /// A value that cannot be understood.
    INVALID_VALUE = "invalid-value";
    /// A header name that HTTP does not allow.
    INVALID_HEADER = "invalid-header";
    /// A header that nobody may change.
    PROTECTED_HEADER = "protected-header";
    /// A regular expression that does not compile.
    INVALID_REGEX = "invalid-regex";
    /// A variable of the environment that is not set.
    UNSET_VARIABLE = "unset-variable";
    /// A request variable that does not exist.
    UNKNOWN_VARIABLE = "unknown-variable";
    /// In the language, but not in this program yet.
    NOT_SUPPORTED_YET = "not-supported-yet";
    /// An id that is used twice.
    DUPLICATE_ID = "duplicate-id";
    /// A name that nothing has.
    DANGLING_REFERENCE = "dangling-reference";
    /// Chains that use each other in a circle.
    USE_LOOP = "use-loop";
    /// Two sockets on one address.
    ADDRESS_IN_USE = "address-in-use";
    /// No listener at all.
    NO_LISTENERS = "no-listeners";
    /// A route that does nothing.
    NO_ACTION = "no-action";
    /// A route that does two things.
    TWO_ACTIONS = "two-actions";
    /// Settings that exclude each other, or of which one makes the other useless.
    CONTRADICTION = "contradiction";
    /// A condition that no request can fulfil.
    NEVER_MATCHES = "never-matches";
    /// Warning: no route at all.
    NO_ROUTES = "no-routes";
    /// Warning: defined, but nothing refers to it.
    UNUSED = "unused";
    /// Warning: only the order in the file decides between two routes.
    FILE_ORDER = "file-order";
    /// Warning: an agent is asked twice about the same request.
    ASKED_TWICE = "asked-twice";
    /// Warning: an agent inspects what it is not asked about on a route.
    NEVER_ASKED = "never-asked";
    /// Warning: a verdict about one client may be used for another.
    SHARED_VERDICTS = "shared-verdicts";
    /// Warning: requests pass by an agent that must not be passed by.
    PASSED_BY = "passed-by";
    /// Warning: everybody is believed.
    TRUSTS_EVERYBODY = "trusts-everybody";
    /// Warning: an upstream's certificate is not looked at.
    UNVERIFIED = "unverified";
    /// Warning: an upstream target is one of our own listeners.
    PROXY_LOOP = "proxy-loop";
    /// A mistake of this program.
    INTERNAL = "internal";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_spelled_alike() {
        let mut seen = std::collections::HashSet::new();
        for code in ALL {
            assert!(seen.insert(code.as_str()), "{code} is there twice");
            assert!(
                code.as_str()
                    .bytes()
                    .all(|byte| byte == b'-' || byte.is_ascii_lowercase()),
                "{code}"
            );
        }
    }
}
