//! `request-headers` and `response-headers`: set, add and remove.

use super::head::Head;
use crate::{request::Request, template::Template};
use http::{HeaderName, HeaderValue};
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

/// Makes the changes in the head of a request. A value that is no header value for this request leaves the header as it is.
///
/// # Errors
/// The head has no room for more.
pub(super) fn edit_request(
    edits: &[Edit],
    head: &mut RequestHeader,
    request: &Request,
) -> Result<()> {
    edit(edits, head, |head, _, value| {
        value.fill_with(request, Some(&head.headers))
    })
}

/// The same in the head of a response, with what was remembered of the request's.
///
/// # Errors
/// The head has no room for more.
pub(super) fn edit_response(
    edits: &[Edit],
    position: usize,
    head: &mut ResponseHeader,
    request: &Request,
) -> Result<()> {
    let remembered = request.remembered.of(position);
    edit(edits, head, |_, number, value| {
        match value.reads_headers() {
            true => remembered.get(number)?.clone(),
            false => value.fill(request),
        }
    })
}

fn edit<H: Head>(
    edits: &[Edit],
    head: &mut H,
    fill: impl Fn(&H, usize, &Template) -> Option<HeaderValue>,
) -> Result<()> {
    for (number, edit) in edits.iter().enumerate() {
        match edit {
            Edit::Set(name, value) => {
                if let Some(value) = fill(head, number, value) {
                    head.set(name.clone(), value)?;
                }
            }
            Edit::Add(name, value) => {
                if let Some(value) = fill(head, number, value) {
                    head.add(name.clone(), value)?;
                }
            }
            Edit::Remove(name) => head.remove(name),
        }
    }
    Ok(())
}

/// Values of changes of the response that have headers of the request in them. The request is gone by the time that they are
/// wanted, so they are filled in where their line is passed on the way in.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Vec<(usize, Vec<Option<HeaderValue>>)>);

impl Remembered {
    /// Fills in what the line at this place of the chain will want. Most want nothing.
    pub(super) fn fill(
        edits: &[Edit],
        position: usize,
        head: &RequestHeader,
        request: &mut Request,
    ) {
        let value = |edit: &Edit| match edit {
            Edit::Set(_, value) | Edit::Add(_, value) if value.reads_headers() => {
                value.fill_with(request, Some(&head.headers))
            }
            Edit::Set(..) | Edit::Add(..) | Edit::Remove(_) => None,
        };
        let values: Vec<_> = edits.iter().map(value).collect();
        request.remembered.0.push((position, values));
    }

    fn of(&self, position: usize) -> &[Option<HeaderValue>] {
        let mut known = self.0.iter();
        known
            .find(|(of, _)| *of == position)
            .map_or(&[], |(_, values)| values)
    }
}

/// Whether any of the changes has headers of the request in it.
pub(super) fn read_headers(edits: &[Edit]) -> bool {
    edits.iter().any(|edit| match edit {
        Edit::Set(_, value) | Edit::Add(_, value) => value.reads_headers(),
        Edit::Remove(_) => false,
    })
}
