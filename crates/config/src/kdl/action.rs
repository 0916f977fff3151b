//! What a route does with its requests: `upstream`, `split`, `static`, `redirect`, `respond`.

use super::{
    cursor::{Block, Node},
    split::{self, ParsedSplit},
    static_files,
    value::Value,
};
use crate::{
    diagnostic::code,
    files,
    model::{StaticFiles, Template, TemplatePart, UpstreamId, Variable},
    source::Spanned,
};

/// What a route does as it is written.
#[derive(Debug, Clone)]
pub(crate) enum ParsedAction {
    Upstream(Spanned<UpstreamId>),
    Split(ParsedSplit),
    Static(StaticFiles),
    Redirect {
        location: Template,
        status: u16,
    },
    Respond {
        status: u16,
        body: String,
        content_type: Option<String>,
    },
    /// It was reported as wrong already.
    Broken,
}

impl ParsedAction {
    /// The upstreams that it names.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Spanned<UpstreamId>> {
        let (one, several) = match self {
            Self::Upstream(id) => (Some(id), None),
            Self::Split(split) => (None, Some(split)),
            Self::Static(_) | Self::Redirect { .. } | Self::Respond { .. } | Self::Broken => {
                (None, None)
            }
        };
        let several = several.into_iter().flat_map(|split| &split.members);
        one.into_iter()
            .chain(several.map(|member| &member.upstream))
    }
}

pub(super) fn actions(block: &mut Block<'_>) -> Vec<Spanned<ParsedAction>> {
    let mut actions = Vec::new();
    block.each(
        &["upstream", "split", "redirect", "respond", "static"],
        |node| {
            let action = match node.name() {
                "upstream" => upstream(node),
                "split" => split::split(node).map(ParsedAction::Split),
                "redirect" => redirect(node),
                "respond" => respond(node),
                _ => static_files::static_files(node).map(ParsedAction::Static),
            };
            actions.reserve_exact(1);
            actions.push(Spanned {
                value: action.unwrap_or(ParsedAction::Broken),
                span: node.span(),
            });
        },
    );
    actions
}

fn upstream(node: &mut Node<'_>) -> Option<ParsedAction> {
    let value = node.argument("the name of an upstream")?;
    let id = value.text()?;
    Some(ParsedAction::Upstream(value.spanned(UpstreamId::from(id))))
}

fn redirect(node: &mut Node<'_>) -> Option<ParsedAction> {
    const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
    let value = node.argument("where to, such as \"https://{request.host}{request.path}\"")?;
    let location = value.template();
    let status = match node.property("status") {
        None => Some(302),
        Some(value) => {
            let status = value.integer(0..=999_u16)?;
            if !STATUSES.contains(&status) {
                value.report(
                    value
                        .error(code::INVALID_VALUE, format!("{status} does not redirect"))
                        .help("write 301, 302 (the default), 303, 307 or 308"),
                );
                return None;
            }
            Some(status)
        }
    };
    let location = location?;
    if !is_location(&location) {
        value.report(
            value
                .error(code::INVALID_VALUE, "this is not a place to redirect to")
                .help("write an http or https URL, or a path that begins with a slash, without spaces"),
        );
        return None;
    }
    Some(ParsedAction::Redirect {
        location,
        status: status?,
    })
}

/// Whether a template gives a URL that a browser follows: `http(s)://…`, `{request.scheme}://…` or `/…`.
fn is_location(location: &Template) -> bool {
    let literal = |part: &TemplatePart| match part {
        TemplatePart::Literal(text) => Some(text.clone()),
        TemplatePart::Variable(_) | TemplatePart::RequestHeader(_) => None,
    };
    let clean = location
        .parts
        .iter()
        .filter_map(literal)
        .all(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let starts_well = match location.parts.as_slice() {
        [TemplatePart::Literal(text), rest @ ..] => {
            let after_scheme = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"));
            text.starts_with('/')
                || after_scheme.is_some_and(|host| !host.is_empty() || !rest.is_empty())
        }
        [
            TemplatePart::Variable(Variable::RequestScheme),
            TemplatePart::Literal(text),
            ..,
        ] => text.starts_with("://"),
        [TemplatePart::Variable(Variable::RequestPath), ..] => true,
        _ => false,
    };
    clean && starts_well
}

fn respond(node: &mut Node<'_>) -> Option<ParsedAction> {
    let value = node.argument("a status, such as 200")?;
    let status = value.integer(200..=599_u16);
    let body = node.optional_argument();
    let file = node.property("body-file");
    let kind = node.property("content-type");
    if let (Some(body), Some(file)) = (body, file) {
        file.report(
            file.error(code::CONTRADICTION, "the body is written twice")
                .also(body.span(), "the first time")
                .help("keep one of the two"),
        );
        return None;
    }
    let text = match (body, file) {
        (Some(body), _) => body.text(),
        (None, Some(file)) => body_of_file(file),
        (None, None) => Some(String::new()),
    };
    let kind = kind.map(|kind| (kind, content_type(kind)));
    let (status, text) = (status?, text?);
    if let (204 | 304, Some(body), false) = (status, body.or(file), text.is_empty()) {
        body.report(
            body.error(
                code::CONTRADICTION,
                format!("a {status} answer has no body"),
            )
            .help("remove the text, or use another status"),
        );
        return None;
    }
    let content_type = match kind {
        Some((kind, _)) if text.is_empty() => {
            kind.report(
                kind.error(code::CONTRADICTION, "an answer without a body has no type")
                    .help("remove `content-type`, or write a body"),
            );
            return None;
        }
        Some((_, content_type)) => Some(content_type?),
        None => file.and_then(|file| type_of_name(&file.text()?)),
    };
    Some(ParsedAction::Respond {
        status,
        body: text,
        content_type,
    })
}

fn content_type(value: Value<'_>) -> Option<String> {
    let text = value.nonempty_text()?;
    let is_token = |text: &str| {
        let special = |byte| b"!#$&^_.+-".contains(&byte);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || special(byte);
        !text.is_empty() && text.bytes().all(allowed)
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_type = essence
        .split_once('/')
        .is_some_and(|(kind, of)| is_token(kind) && is_token(of));
    let is_clean = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_type && is_clean {
        return Some(text);
    }
    value.report(
        value
            .error(code::INVALID_VALUE, format!("`{text}` is no content type"))
            .help("write such as \"application/json\" or \"text/html; charset=utf-8\""),
    );
    None
}

/// What browsers need to be told; anything else is plain text unless the operator says what it is.
fn type_of_name(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    let kind = match extension {
        "html" => "text/html; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        _ => return None,
    };
    Some(kind.to_owned())
}

fn body_of_file(value: Value<'_>) -> Option<String> {
    /// It is in memory for as long as the configuration is.
    const MOST_BYTES: usize = 1 << 20;
    let path = value.path()?;
    let error = match files::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) if text.len() <= MOST_BYTES => return Some(text),
        Ok(Ok(_)) => "it has more than 1 MiB".to_owned(),
        Ok(Err(_)) => "it is not UTF-8".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot read the body in `{}`: {error}", path.display());
    value.report(value.error(code::FILE, message).help(
        "put a text of at most 1 MiB there; larger files are for `static`, others for an upstream",
    ));
    None
}
