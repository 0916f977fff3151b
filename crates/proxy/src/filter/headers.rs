//! `request-headers` and `response-headers`: set, add and remove.

use crate::{request::Request, template::Template};
use http::HeaderName;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_config::HeaderEdit;

/// One change.
#[derive(Debug)]
pub(crate) enum Edit {
    Set(HeaderName, Template),
    Add(HeaderName, Template),
    Remove(HeaderName),
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

pub(super) fn edit_request(
    edits: &[Edit],
    head: &mut RequestHeader,
    request: &Request,
) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                if let Some(value) = value.fill(request) {
                    head.insert_header(name.clone(), value)?;
                }
            }
            Edit::Add(name, value) => {
                if let Some(value) = value.fill(request) {
                    head.append_header(name.clone(), value)?;
                }
            }
            Edit::Remove(name) => {
                head.remove_header(name);
            }
        }
    }
    Ok(())
}

pub(super) fn edit_response(
    edits: &[Edit],
    head: &mut ResponseHeader,
    request: &Request,
) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                if let Some(value) = value.fill(request) {
                    head.insert_header(name.clone(), value)?;
                }
            }
            Edit::Add(name, value) => {
                if let Some(value) = value.fill(request) {
                    head.append_header(name.clone(), value)?;
                }
            }
            Edit::Remove(name) => {
                head.remove_header(name);
            }
        }
    }
    Ok(())
}
