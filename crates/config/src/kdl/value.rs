//! One argument or property value, and what it can be read as. Every reading reports what is wrong and says `None`.

use super::{
    cursor::{Context, Later},
    unit,
};
use crate::{
    diagnostic::{Code, Diagnostic, code, did_you_mean, list},
    model::{ByteSize, Share, Template},
    source::{Span, Spanned},
    substitute::{self, Purpose},
    template,
};
use ::kdl::{KdlEntry, KdlValue};
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// The longest time that any setting takes. More is a slip of the unit.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest time that a timeout can be.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// An argument or the value of a property.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    context: &'a Context<'a>,
    entry: &'a KdlEntry,
    /// What it is called in messages: the property, or the node of the argument.
    name: &'a str,
}

impl<'a> Value<'a> {
    pub(super) fn new(context: &'a Context<'a>, entry: &'a KdlEntry, name: &'a str) -> Self {
        Self {
            context,
            entry,
            name,
        }
    }

    /// The value alone, without the name of its property.
    pub(crate) fn span(&self) -> Span {
        let whole = self.context.span(self.entry.span());
        let written = self
            .entry
            .format()
            .map_or(0, |format| format.value_repr.len());
        match u32::try_from(written) {
            Ok(written) if written > 0 => Span {
                start: whole.start.max(whole.end.saturating_sub(written)),
                ..whole
            },
            _ => whole,
        }
    }

    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.context.report.add(diagnostic);
    }

    /// What is written here is never shown, whatever is wrong with it.
    pub(crate) fn hide(&self) {
        self.context.report.hide(self.span());
    }

    pub(crate) fn error(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, self.span(), message)
    }

    pub(crate) fn raw(&self) -> &'a KdlValue {
        self.entry.value()
    }

    fn wrong_type<T>(&self, wanted: &str, help: impl Into<String>) -> Option<T> {
        let found = describe(self.entry.value());
        self.report(
            self.error(
                code::WRONG_TYPE,
                format!("`{}` takes {wanted}, not {found}", self.name),
            )
            .label(found)
            .help(help),
        );
        None
    }

    /// Text, with variables of the environment filled in unless it is a raw string.
    pub(crate) fn text(&self) -> Option<String> {
        self.substituted(Purpose::Text)
    }

    fn substituted(&self, purpose: Purpose) -> Option<String> {
        let KdlValue::String(text) = self.entry.value() else {
            return self.wrong_type("text", "put it in quotation marks");
        };
        let is_raw = self
            .entry
            .format()
            .is_some_and(|format| format.value_repr.starts_with('#'));
        if is_raw {
            return Some(text.clone());
        }
        match substitute::substitute(text, self.context.environment, purpose) {
            Ok(text) => Some(text),
            Err(error) => {
                self.report(error.diagnostic(self.span()));
                None
            }
        }
    }

    /// Text that is not empty.
    pub(crate) fn nonempty_text(&self) -> Option<String> {
        let text = self.text()?;
        if text.is_empty() {
            self.report(
                self.error(code::INVALID_VALUE, format!("`{}` is empty", self.name))
                    .help("write something"),
            );
            return None;
        }
        Some(text)
    }

    pub(crate) fn spanned<T>(&self, value: T) -> Spanned<T> {
        Spanned {
            value,
            span: self.span(),
        }
    }

    /// The name of a thing. Names become labels of metrics and parts of file names, so they are kept simple.
    pub(crate) fn id<T: From<String>>(&self) -> Option<Spanned<T>> {
        let text = self.nonempty_text()?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !starts_well || !text.bytes().all(allowed) || text.len() > 64 {
            self.report(self.error(code::INVALID_VALUE, format!("`{text}` cannot be a name")).help(
                "a name is a letter or digit, then letters, digits, `-`, `_` and `.`, 64 characters at most",
            ));
            return None;
        }
        Some(self.spanned(T::from(text)))
    }

    /// Text with request variables.
    pub(crate) fn template(&self) -> Option<Template> {
        self.parsed_template(template::parse)
    }

    /// Text with request variables, headers of the request among them.
    pub(crate) fn template_with_headers(&self) -> Option<Template> {
        self.parsed_template(template::parse_with_headers)
    }

    fn parsed_template(
        &self,
        parse: fn(&str) -> Result<Template, template::Wrong>,
    ) -> Option<Template> {
        let text = self.substituted(Purpose::Template)?;
        match parse(&text) {
            Ok(template) => Some(template),
            Err(error) => {
                self.report(error.diagnostic(self.span()));
                None
            }
        }
    }

    /// `#true` or `#false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.entry.value() {
            KdlValue::Bool(value) => Some(*value),
            _ => self.wrong_type(
                "#true or #false",
                "write #true or #false, without quotation marks",
            ),
        }
    }

    /// A whole number in a range.
    pub(crate) fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + Into<i128> + Copy,
    {
        let KdlValue::Integer(number) = *self.entry.value() else {
            return self.wrong_type(
                "a whole number",
                "write digits only, without quotation marks",
            );
        };
        let (least, most): (i128, i128) = ((*range.start()).into(), (*range.end()).into());
        match T::try_from(number) {
            Ok(value) if (least..=most).contains(&number) => Some(value),
            _ => {
                self.report(
                    self.error(
                        code::OUT_OF_RANGE,
                        format!("`{}` cannot be {number}", self.name),
                    )
                    .help(format!("write a number from {least} to {most}")),
                );
                None
            }
        }
    }

    /// Like [`Value::integer`], for a `usize`, which does not convert to `i128` by itself.
    pub(crate) fn count(&self, range: RangeInclusive<u32>) -> Option<usize> {
        self.integer(range)
            .and_then(|number| usize::try_from(number).ok())
    }

    /// A length of time with its unit.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.quantity("a duration", ["ms", "s"], unit::duration)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let message = format!(
            "`{}` cannot be {}",
            self.name,
            unit::show_duration(duration)
        );
        self.report(self.error(code::OUT_OF_RANGE, message).help(format!(
            "write a duration from {} to {}",
            unit::show_duration(*range.start()),
            unit::show_duration(*range.end())
        )));
        None
    }

    /// A timeout: a duration that is not zero.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.duration(SHORTEST..=LONGEST)
    }

    /// A number of bytes with its unit.
    pub(crate) fn size(&self, range: RangeInclusive<ByteSize>) -> Option<ByteSize> {
        let size = self.quantity("a size", ["B", "KiB"], unit::size)?;
        if range.contains(&size) {
            return Some(size);
        }
        self.report(
            self.error(
                code::OUT_OF_RANGE,
                format!("`{}` cannot be {size}", self.name),
            )
            .help(format!(
                "write a size from {} to {}",
                range.start(),
                range.end()
            )),
        );
        None
    }

    /// A share in percent.
    pub(crate) fn share(&self, range: RangeInclusive<Share>) -> Option<Share> {
        let KdlValue::String(_) = self.entry.value() else {
            return self.wrong_type(
                "a share",
                "write percent in quotation marks, such as \"5%\"",
            );
        };
        let text = self.text()?;
        let share = match unit::share(&text) {
            Ok(share) => share,
            Err(wrong) => {
                let message = format!("`{text}` is not a share: {}", wrong.message);
                self.report(self.error(code::WRONG_UNIT, message).help(wrong.help));
                return None;
            }
        };
        if range.contains(&share) {
            return Some(share);
        }
        let message = format!("`{}` cannot be {share}", self.name);
        self.report(self.error(code::OUT_OF_RANGE, message).help(format!(
            "write a share from {} to {}",
            range.start(),
            range.end()
        )));
        None
    }

    fn quantity<T>(
        &self,
        what: &str,
        units: [&str; 2],
        parse: fn(&str) -> Result<T, unit::Wrong>,
    ) -> Option<T> {
        let [small, large] = units;
        let text = match self.entry.value() {
            KdlValue::Integer(number) => {
                self.report(
                    self.error(
                        code::WRONG_UNIT,
                        format!("`{}` takes {what}, and {number} has no unit", self.name),
                    )
                    .label("a bare number")
                    .help(format!("write it with its unit and in quotation marks: \"{number}{small}\" or \"{number}{large}\"")),
                );
                return None;
            }
            KdlValue::String(_) => self.text()?,
            _ => return self.wrong_type(what, format!("write it such as \"10{large}\"")),
        };
        match parse(&text) {
            Ok(quantity) => Some(quantity),
            Err(wrong) => {
                self.report(
                    self.error(
                        code::WRONG_UNIT,
                        format!("`{text}` is not {what}: {}", wrong.message),
                    )
                    .help(wrong.help),
                );
                None
            }
        }
    }

    /// One of a few words. Words that will come later are refused as such.
    pub(crate) fn choice<T: Copy>(
        &self,
        choices: &[(&'static str, T)],
        later: &[&'static str],
    ) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = || choices.iter().map(|(word, _)| *word);
        if let Some(word) = later.iter().find(|word| **word == text) {
            let remedy = format!("use {}", list(words(), "or"));
            self.report(
                Later {
                    name: word,
                    remedy: "",
                }
                .diagnostic(self.span())
                .help(remedy),
            );
            return None;
        }
        let help = did_you_mean(&text, words())
            .unwrap_or_else(|| format!("write {}", list(words(), "or")));
        self.report(
            self.error(
                code::INVALID_VALUE,
                format!("`{}` cannot be `{text}`", self.name),
            )
            .help(help),
        );
        None
    }

    /// A path, from the folder of the configuration file unless it is absolute.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let text = self.nonempty_text()?;
        self.resolve(&text)
    }

    fn resolve(&self, text: &str) -> Option<PathBuf> {
        if text.contains('\0') {
            self.report(
                self.error(code::INVALID_VALUE, "a path cannot contain a NUL character")
                    .help("remove it"),
            );
            return None;
        }
        Some(self.context.folder.join(text))
    }

    /// The path of a Unix socket, which the kernel keeps short. A prefix such as `unix:` is not part of it.
    pub(crate) fn socket_path(&self, prefix: &str) -> Option<PathBuf> {
        /// `sun_path` without its final NUL.
        const MOST_BYTES: usize = 107;
        let text = self.nonempty_text()?;
        let path = self.resolve(text.strip_prefix(prefix).unwrap_or(&text))?;
        let length = path.as_os_str().len();
        if length > MOST_BYTES {
            let message =
                format!("this path has {length} bytes, and a socket's has {MOST_BYTES} at most");
            self.report(
                self.error(code::INVALID_VALUE, message).help(
                    "put the socket into a folder with a shorter path, such as /run/portcullis",
                ),
            );
            return None;
        }
        Some(path)
    }
}

/// What a value is, for a sentence.
pub(crate) fn describe(value: &KdlValue) -> &'static str {
    match value {
        KdlValue::String(_) => "text",
        KdlValue::Integer(_) => "a number",
        KdlValue::Float(_) => "a number with a fraction",
        KdlValue::Bool(_) => "#true or #false",
        KdlValue::Null => "#null",
    }
}
