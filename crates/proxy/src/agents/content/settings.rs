//! What is written in an agent's configuration, which is JSON: a value where
//! the type asks for it, or what is wrong with it.

use serde_json::{Map, Value};

/// An object, that is called so in errors.
pub(crate) fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, String> {
    value
        .as_object()
        .ok_or_else(|| format!("{name} is not an object"))
}

/// There are no other keys than these.
pub(crate) fn known(
    members: &Map<String, Value>,
    place: &str,
    keys: &[&str],
) -> Result<(), String> {
    match members.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!(
            "unknown key {place}{key:?}; known are {}",
            keys.join(", ")
        )),
        None => Ok(()),
    }
}

/// A value, or each of a list. What is written over several nodes comes as a list of lists.
pub(crate) fn each(value: Option<&Value>) -> Vec<&Value> {
    match value {
        Some(Value::Array(values)) => values
            .iter()
            .flat_map(|value| match value {
                Value::Array(values) => values.iter().collect(),
                value => vec![value],
            })
            .collect(),
        value => value.into_iter().collect(),
    }
}

/// A text, or each of a list.
pub(crate) fn texts(members: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    each(members.get(key))
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Ok(text.clone()),
            value => Err(format!("{key}: {value} is not a text")),
        })
        .collect()
}

/// A whole number within limits.
pub(crate) fn number(
    members: &Map<String, Value>,
    key: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, String> {
    let Some(value) = members.get(key) else {
        return Ok(None);
    };
    let number = value
        .as_u64()
        .filter(|number| (least..=most).contains(number));
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(format!(
            "{key}: {value} is not a number from {least} to {most}"
        )),
    }
}

/// True or false; false when it is not there.
pub(crate) fn flag(members: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match members.get(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(value) => Err(format!("{key}: {value} is not true or false")),
    }
}
