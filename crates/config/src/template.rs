//! Reading templates: `"{client.ip}"`, with `{{` for a literal brace.

use crate::{
    diagnostic::{Diagnostic, code, did_you_mean, list},
    kdl::is_token,
    model::{Template, TemplatePart, Variable},
    source::Span,
};
use thiserror::Error;

#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum Wrong {
    #[error("there is no request variable `{{{0}}}`")]
    Unknown(String),
    #[error("`{{` has no `}}` after it")]
    Unclosed,
    #[error("`{0}` is not a header name")]
    NoHeader(String),
    #[error("`{{request.header.{0}}}` cannot be used here")]
    HeaderElsewhere(String),
}

/// What else a template can ask of a request than [`Variable`]s: a header, whose name follows.
const REQUEST_HEADER: &str = "request.header.";

impl Wrong {
    pub(crate) fn diagnostic(&self, span: Span) -> Diagnostic {
        let diagnostic = Diagnostic::error(code::UNKNOWN_VARIABLE, span, self.to_string());
        let names = || Variable::ALL.into_iter().map(Variable::name);
        let help = match self {
            Self::Unknown(name) => did_you_mean(name, names()).unwrap_or_else(|| {
                format!(
                    "the variables are {}; a literal brace is `{{{{`",
                    list(names(), "and")
                )
            }),
            Self::NoHeader(_) => {
                "a name has letters, digits and the characters !#$%&'*+-.^_`|~".to_owned()
            }
            Self::HeaderElsewhere(_) => format!(
                "it can be used in `request-headers` and `response-headers`; here are {}",
                list(names(), "and")
            ),
            Self::Unclosed => "close it, or write `{{` for a literal brace".to_owned(),
        };
        diagnostic.help(help)
    }
}

/// A template without headers of the request, for places where they are not at hand.
pub(crate) fn parse(text: &str) -> Result<Template, Wrong> {
    let template = parse_with_headers(text)?;
    let header = template.parts.iter().find_map(|part| match part {
        TemplatePart::RequestHeader(name) => Some(name.clone()),
        TemplatePart::Literal(_) | TemplatePart::Variable(_) => None,
    });
    match header {
        Some(name) => Err(Wrong::HeaderElsewhere(name)),
        None => Ok(template),
    }
}

pub(crate) fn parse_with_headers(text: &str) -> Result<Template, Wrong> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            literal.push('{');
            rest = after;
            continue;
        }
        let (name, after) = after.split_once('}').ok_or(Wrong::Unclosed)?;
        let part = part(name)?;
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
        }
        parts.push(part);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Ok(Template { parts })
}

/// What stands between two braces.
fn part(name: &str) -> Result<TemplatePart, Wrong> {
    if let Some(header) = name.strip_prefix(REQUEST_HEADER) {
        return match is_token(header) {
            true => Ok(TemplatePart::RequestHeader(header.to_ascii_lowercase())),
            false => Err(Wrong::NoHeader(header.to_owned())),
        };
    }
    let mut variables = Variable::ALL.into_iter();
    let variable = variables.find(|variable| variable.name() == name);
    variable
        .map(TemplatePart::Variable)
        .ok_or_else(|| Wrong::Unknown(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> TemplatePart {
        TemplatePart::Literal(text.to_owned())
    }

    #[test]
    fn templates_are_literals_and_variables() {
        let ip = TemplatePart::Variable(Variable::ClientIp);
        let path = TemplatePart::Variable(Variable::RequestPath);
        for (text, parts) in [
            ("", vec![]),
            ("plain", vec![literal("plain")]),
            ("{client.ip}", vec![ip.clone()]),
            (
                "a{client.ip}{request.path}b",
                vec![literal("a"), ip.clone(), path, literal("b")],
            ),
            ("{{client.ip}", vec![literal("{client.ip}")]),
            ("a}b", vec![literal("a}b")]),
            ("{{{client.ip}", vec![literal("{"), ip]),
        ] {
            assert_eq!(parse(text), Ok(Template { parts }), "{text}");
        }
    }

    #[test]
    fn wrong_templates_are_refused() {
        assert_eq!(
            parse("{client.ips}"),
            Err(Wrong::Unknown("client.ips".to_owned()))
        );
        assert_eq!(parse("x{"), Err(Wrong::Unclosed));
        assert_eq!(parse("{}"), Err(Wrong::Unknown(String::new())));
        assert_eq!(
            parse_with_headers("{request.header.a b}"),
            Err(Wrong::NoHeader("a b".to_owned()))
        );
        assert_eq!(
            parse("{request.header.X-A}"),
            Err(Wrong::HeaderElsewhere("x-a".to_owned()))
        );
    }

    #[test]
    fn headers_are_read_by_their_names() {
        let parts = vec![
            literal("a "),
            TemplatePart::RequestHeader("x-tenant".to_owned()),
        ];
        let template = parse_with_headers("a {request.header.X-Tenant}");
        assert_eq!(template, Ok(Template { parts }));
    }

    #[test]
    fn every_variable_is_read_by_its_name() {
        for variable in Variable::ALL {
            let parts = vec![TemplatePart::Variable(variable)];
            assert_eq!(
                parse(&format!("{{{}}}", variable.name())),
                Ok(Template { parts })
            );
        }
    }
}
