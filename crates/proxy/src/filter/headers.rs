//! `request-headers` and `response-headers`: set, add and remove.

use super::head::Head;
use crate::{request::Request, template::Template};
use http::HeaderName;
use pingora::Result;
use portcullis_config::HeaderEdit;

/// One change.
#[derive(Debug)]
pub(crate) enum Edit {
    Set(HeaderName, Template),
    Add(HeaderName, Template),
    Remove(HeaderName),
}

impl Edit {
    /// What it did to which header, as far as it did anything for this request.
    pub(crate) fn done(&self, request: &Request) -> Option<(&'static str, &HeaderName)> {
        let takes_effect = |value: &Template| value.fill(request).is_some();
        match self {
            Self::Set(name, value) => takes_effect(value).then_some(("set", name)),
            Self::Add(name, value) => takes_effect(value).then_some(("add", name)),
            Self::Remove(name) => Some(("remove", name)),
        }
    }
}

/// # Errors
/// A name that is no header name.
pub(super) fn compile(edits: &[HeaderEdit]) -> Result<Vec<Edit>, String> {
    let name = |text: &String| {
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("header name {text}"))
    };
    edits
        .iter()
        .map(|edit| {
            Ok(match edit {
                HeaderEdit::Set(header, value) => Edit::Set(name(header)?, Template::new(value)),
                HeaderEdit::Add(header, value) => Edit::Add(name(header)?, Template::new(value)),
                HeaderEdit::Remove(header) => Edit::Remove(name(header)?),
            })
        })
        .collect()
}

/// Makes the changes. A value that is no header value for this request leaves the header as it is.
///
/// # Errors
/// The head has no room for more.
pub(super) fn edit(edits: &[Edit], head: &mut impl Head, request: &Request) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                if let Some(value) = value.fill(request) {
                    head.set(name.clone(), value)?;
                }
            }
            Edit::Add(name, value) => {
                if let Some(value) = value.fill(request) {
                    head.add(name.clone(), value)?;
                }
            }
            Edit::Remove(name) => head.remove(name),
        }
    }
    Ok(())
}
