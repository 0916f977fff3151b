//! The `config` block of an agent as JSON.
//!
//! The agent sees what the operator wrote, by these rules:
//!
//! | KDL | JSON |
//! |---|---|
//! | `level 2` | `"level": 2` |
//! | `rules "a" "b"` | `"rules": ["a", "b"]` |
//! | `strict` | `"strict": true` |
//! | `limit max=3 min=1` | `"limit": {"max": 3, "min": 1}` |
//! | `limit { max 3; min 1 }` | `"limit": {"max": 3, "min": 1}` |
//! | `limit max=3 { min 1 }` | `"limit": {"max": 3, "min": 1}` |
//! | `rule { … }` twice | `"rule": [{…}, {…}]` |
//! | `empty {}` | `"empty": {}` |
//!
//! A list of one cannot be told from a single value; an agent that takes a list takes a single value too. Arguments
//! beside properties or a block have no place in JSON and are refused. Variables of the environment are filled in.

use super::{cursor::Context, value::Value};
use crate::{
    diagnostic::{Diagnostic, code},
    model::Json,
};
use ::kdl::{KdlEntry, KdlNode, KdlValue};
use serde_json::Map;

/// The block itself: always an object.
pub(super) fn object(context: &Context<'_>, node: &KdlNode) -> Option<Json> {
    if let Some(argument) = node.entries().iter().find(|entry| entry.name().is_none()) {
        context.report.add(
            Diagnostic::error(
                code::EXTRA_ARGUMENT,
                context.span(argument.span()),
                "`config` takes a block",
            )
            .help("give it a name inside the braces, such as `config { level 2 }`"),
        );
        return None;
    }
    Some(Json::Object(fields(context, node)))
}

fn fields(context: &Context<'_>, node: &KdlNode) -> Map<String, Json> {
    let mut fields = Map::new();
    for entry in node.entries() {
        let Some(key) = entry.name() else { continue };
        let value = scalar(context, entry);
        if fields.insert(key.value().to_owned(), value).is_some() {
            context.report.add(
                Diagnostic::error(
                    code::REPEATED,
                    context.span(entry.span()),
                    format!("the property `{}` is written twice", key.value()),
                )
                .help("remove one of the two"),
            );
        }
    }
    let properties = fields.len();
    let mut repeated = std::collections::HashSet::new();
    for child in node.children().map_or(&[][..], ::kdl::KdlDocument::nodes) {
        let name = child.name().value();
        let value = value_of(context, child);
        match fields.get_mut(name) {
            None => {
                fields.insert(name.to_owned(), value);
            }
            Some(Json::Array(items)) if repeated.contains(name) => items.push(value),
            Some(_)
                if properties > 0
                    && node.entries().iter().any(|entry| is_property(entry, name)) =>
            {
                context.report.add(
                    Diagnostic::error(
                        code::REPEATED,
                        context.span(child.name().span()),
                        format!("`{name}` is a property and a node"),
                    )
                    .help("keep one of the two"),
                );
            }
            Some(first) => {
                let earlier = first.take();
                *first = Json::Array(vec![earlier, value]);
                repeated.insert(name);
            }
        }
    }
    fields
}

fn is_property(entry: &KdlEntry, name: &str) -> bool {
    entry.name().is_some_and(|key| key.value() == name)
}

fn value_of(context: &Context<'_>, node: &KdlNode) -> Json {
    let arguments: Vec<&KdlEntry> = node
        .entries()
        .iter()
        .filter(|entry| entry.name().is_none())
        .collect();
    let has_fields = node.children().is_some() || arguments.len() < node.entries().len();
    match (arguments.as_slice(), has_fields) {
        ([], false) => Json::Bool(true),
        ([], true) => Json::Object(fields(context, node)),
        ([only], false) => scalar(context, only),
        (several, false) => {
            Json::Array(several.iter().map(|entry| scalar(context, entry)).collect())
        }
        ([first, ..], true) => {
            context.report.add(
                Diagnostic::error(
                    code::CONTRADICTION,
                    context.span(first.span()),
                    format!(
                        "`{}` has arguments beside properties or a block",
                        node.name().value()
                    ),
                )
                .label("has no name in JSON")
                .help("give it a name, as a property or as a node of the block"),
            );
            Json::Null
        }
    }
}

fn scalar(context: &Context<'_>, entry: &KdlEntry) -> Json {
    let value = Value::new(context, entry, "config");
    let number = match entry.value() {
        KdlValue::String(_) => return value.text().map_or(Json::Null, Json::String),
        KdlValue::Bool(flag) => return Json::Bool(*flag),
        KdlValue::Null => return Json::Null,
        KdlValue::Integer(number) => i64::try_from(*number)
            .map(Json::from)
            .or_else(|_| u64::try_from(*number).map(Json::from))
            .ok(),
        KdlValue::Float(number) => serde_json::Number::from_f64(*number).map(Json::Number),
    };
    number.unwrap_or_else(|| {
        value.report(
            value
                .error(code::OUT_OF_RANGE, "this number does not fit into JSON")
                .help("write it as text, in quotation marks"),
        );
        Json::Null
    })
}
