//! Header operations: what an agent wants changed in a message's head.

use serde::{Deserialize, Serialize};

/// One change of one header field.
///
/// Values are text because JSON peers can send nothing else; the proxy writes
/// their UTF-8 bytes. Whether a name may be changed at all, and whether a
/// value is fit for a header, is for the receiver to check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderOp {
    /// Replaces all values of the name by this one.
    Set {
        /// The name of the field, in any case.
        name: String,
        /// The new and only value.
        value: String,
    },
    /// Adds a value and keeps those that are there.
    Add {
        /// The name of the field, in any case.
        name: String,
        /// The additional value.
        value: String,
    },
    /// Removes all values of the name.
    Remove {
        /// The name of the field, in any case.
        name: String,
    },
}

impl HeaderOp {
    /// The name of the header field that the operation changes.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Set { name, .. } | Self::Add { name, .. } | Self::Remove { name } => name,
        }
    }
}
