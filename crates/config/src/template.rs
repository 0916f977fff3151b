//! Reading templates: `"{client.ip}"`, with `{{` for a literal brace.

use crate::{
    diagnostic::{Diagnostic, code, did_you_mean, list},
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
}

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
            Self::Unclosed => "close it, or write `{{` for a literal brace".to_owned(),
        };
        diagnostic.help(help)
    }
}

pub(crate) fn parse(text: &str) -> Result<Template, Wrong> {
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
        let variable = Variable::ALL
            .into_iter()
            .find(|variable| variable.name() == name);
        let variable = variable.ok_or_else(|| Wrong::Unknown(name.to_owned()))?;
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
        }
        parts.push(TemplatePart::Variable(variable));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Ok(Template { parts })
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
