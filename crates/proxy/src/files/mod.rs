//! Files of a folder as answers.
//!
//! Nothing outside of the folder is ever opened: the kernel resolves each path beneath it ([`lookup`]), and refuses where a
//! symbolic link leads out. Files are opened and read on threads of their own ([`pool`]), a piece at a time ([`body`]), so that a
//! slow disk keeps no other request waiting and no file is in memory as a whole.

mod body;
mod conditions;
mod encoding;
mod lookup;
pub(crate) mod pool;
mod ranges;

use crate::{reply::Reply, request::Begun};
use body::{FileBody, Part};
use conditions::{Conditions, Outcome, Validators};
use encoding::Encoding;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use lookup::{Missed, Opened, Place};
use pingora::{Result, http::ResponseHeader};
use pool::FilePool;
use portcullis_config::StaticFiles;
use ranges::Slices;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A folder that is served.
pub(crate) struct Files {
    settings: StaticFiles,
    encodings: Vec<Encoding>,
    pool: Arc<FilePool>,
}

/// What a request is answered with.
pub(crate) enum Answer {
    /// Something of our own, and the reason for the log if there is more to say than the status does.
    Own(Reply, Option<&'static str>),
    File(Box<FileAnswer>),
}

/// A file, or what there is to say about one.
pub(crate) struct FileAnswer {
    pub(crate) head: ResponseHeader,
    /// `None`: the head is all.
    pub(crate) body: Option<FileBody>,
}

/// What of a request decides about the answer.
struct Asked {
    conditions: Conditions,
    /// Without those that the client does not take, the one that is preferred first.
    encodings: Vec<Encoding>,
    is_head: bool,
}

impl Files {
    pub(crate) fn new(settings: &StaticFiles, pool: &Arc<FilePool>) -> Self {
        if let Err(error) = std::fs::read_dir(&settings.root) {
            // It may come later; until then nothing is found.
            let folder = settings.root.display();
            tracing::warn!(%folder, %error, "the folder of a static route cannot be read");
        }
        Self {
            settings: settings.clone(),
            encodings: settings.precompressed.iter().map(Encoding::new).collect(),
            pool: pool.clone(),
        }
    }

    /// The answer to a request for `path`, which is in its normal form. Where `whole` is set, slices are not given out.
    ///
    /// # Errors
    /// None that can be caused from outside; the signature is Pingora's.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        begun: &Begun,
        path: &str,
        headers: &HeaderMap,
        whole: bool,
    ) -> Result<Answer> {
        if begun.method != Method::GET && begun.method != Method::HEAD {
            let allowed = HeaderValue::from_static("GET, HEAD");
            let reply = Reply::status(405).with_header(header::ALLOW, allowed);
            return Ok(Answer::Own(reply, Some("method_not_allowed")));
        }
        let Some(place) = Place::of(path, self.settings.dot_files) else {
            return Ok(Answer::Own(Reply::status(404), None));
        };
        let asked = Asked {
            conditions: Conditions::of(headers, whole),
            encodings: encoding::accepted(headers, &self.encodings),
            is_head: begun.method == Method::HEAD,
        };
        let files = self.clone();
        let found = self.pool.run(move || files.find(&place, &asked)).await;
        let Ok(found) = found else {
            let reply = Reply::status(503).with_retry_after(Some(RETRY_AFTER));
            return Ok(Answer::Own(reply, Some("static_unavailable")));
        };
        Ok(match found {
            Ok(found) => Answer::File(Box::new(found.into_answer(&self.pool)?)),
            Err(Missed::Nothing) => Answer::Own(Reply::status(404), None),
            Err(Missed::Refused) => Answer::Own(Reply::status(404), Some("static_refused")),
            Err(Missed::Failed) => {
                let reply = Reply::status(503).with_retry_after(Some(RETRY_AFTER));
                Answer::Own(reply, Some("static_unavailable"))
            }
            Err(Missed::Folder) => Answer::Own(with_slash(begun), None),
        })
    }

    /// Opens the file and works out the answer. Blocks.
    fn find(&self, place: &Place, asked: &Asked) -> Result<Found, Missed> {
        let settings = &self.settings;
        let mut opened = lookup::open(settings, place, &asked.encodings);
        if let (Err(Missed::Nothing), Some(fallback)) = (&opened, &settings.fallback) {
            opened = lookup::open(settings, &Place::fixed(fallback), &asked.encodings);
        }
        let opened = opened?;
        let validators = Validators::new(&opened, SystemTime::now());
        let outcome = asked
            .conditions
            .judge(&validators, opened.length, asked.is_head);
        let mut found = Found {
            validators,
            outcome,
            varies: !self.encodings.is_empty(),
            is_head: asked.is_head,
            first: None,
            opened,
        };
        found.read_ahead();
        Ok(found)
    }
}

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A folder is asked for with a slash at the end, so that what its index names is found.
fn with_slash(begun: &Begun) -> Reply {
    let (path, query) = begun.target.split_at(begun.path().len());
    // Two slashes would name another host (RFC 3986 section 4.2).
    let location = HeaderValue::try_from(format!("{path}/{query}"));
    match location {
        Ok(location) if !path.starts_with("//") => Reply::status(301)
            .with_header(header::LOCATION, location)
            .with_body(""),
        _ => Reply::status(404),
    }
}

/// A file that is open, and what is to be said with it.
struct Found {
    opened: Opened,
    validators: Validators,
    outcome: Outcome,
    /// Another client could get the file in another coding.
    varies: bool,
    is_head: bool,
    /// Of a small file or slice, all of it.
    first: Option<bytes::Bytes>,
}

impl Found {
    /// Reads what fits into one piece, so that most files need one turn on the other threads.
    fn read_ahead(&mut self) {
        let (start, length) = match &self.outcome {
            Outcome::Whole => (0, self.opened.length),
            Outcome::Slices(Slices::One(slice)) => (slice.start, slice.length),
            _ => return,
        };
        if !self.is_head && length <= body::PIECE {
            // What cannot be read now fails once more, and is told then.
            self.first = body::read(&self.opened.file, start, length).ok();
        }
    }

    /// # Errors
    /// None that can be caused from outside; the signature is Pingora's.
    fn into_answer(self, pool: &Arc<FilePool>) -> Result<FileAnswer> {
        let status = match &self.outcome {
            Outcome::Whole => 200,
            Outcome::Slices(_) => 206,
            Outcome::NotModified => 304,
            Outcome::Failed => 412,
            Outcome::NotSatisfiable => 416,
        };
        let mut head = ResponseHeader::build(status, Some(12))?;
        let mut set = |name: HeaderName, value: HeaderValue| head.insert_header(name, value);
        set(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))?;
        if self.varies {
            set(header::VARY, HeaderValue::from_static("accept-encoding"))?;
        }
        if status < 400 {
            set(header::ETAG, self.validators.etag_value())?;
            if let Some(modified) = self.validators.modified_value() {
                set(header::LAST_MODIFIED, modified)?;
            }
        }
        let length = self.opened.length;
        let kind = HeaderValue::from_str(&self.opened.content_type);
        let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        if matches!(status, 200 | 206)
            && let Some(encoding) = self.opened.encoding
        {
            set(header::CONTENT_ENCODING, encoding.value())?;
        }
        let parts = match self.outcome {
            Outcome::NotModified => None,
            Outcome::Failed => {
                set(header::CONTENT_LENGTH, HeaderValue::from(0))?;
                None
            }
            Outcome::NotSatisfiable => {
                set(header::CONTENT_LENGTH, HeaderValue::from(0))?;
                let whole = HeaderValue::try_from(format!("bytes */{length}"));
                // Digits are a header's value.
                set(
                    header::CONTENT_RANGE,
                    whole.unwrap_or(HeaderValue::from_static("bytes */*")),
                )?;
                None
            }
            Outcome::Whole => {
                set(header::CONTENT_TYPE, kind)?;
                set(header::CONTENT_LENGTH, HeaderValue::from(length))?;
                Some(vec![Part::Slice { start: 0, length }])
            }
            Outcome::Slices(slices) => {
                let described = slices.describe(length, kind);
                set(header::CONTENT_TYPE, described.content_type)?;
                set(header::CONTENT_LENGTH, HeaderValue::from(described.length))?;
                if let Some(range) = described.content_range {
                    set(header::CONTENT_RANGE, range)?;
                }
                Some(described.parts)
            }
        };
        let parts = match self.first {
            Some(first) => parts.map(|_| vec![Part::Bytes(first)]),
            None => parts,
        };
        let body = parts.filter(|_| !self.is_head && length > 0);
        Ok(FileAnswer {
            body: body.map(|parts| FileBody::new(self.opened.file, parts, pool)),
            head,
        })
    }
}

#[cfg(test)]
mod tests;
