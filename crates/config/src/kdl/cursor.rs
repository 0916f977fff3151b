//! Reading a KDL document without forgetting anything: take what you know, then nothing may be left.
//!
//! A [`Node`] hands out its arguments, properties and block, a [`Block`] its nodes. Both are read inside a closure;
//! when it ends, whatever was not asked for becomes a diagnostic, with the names that *were* asked for as suggestions.
//! So a setting is either read by somebody or refused; there is no third way.

pub(crate) use super::later::Later;
use super::{asked, value::Value};
use crate::{
    diagnostic::{Code, Diagnostic, Report, code, did_you_mean, list},
    source::{Span, Spanned},
};
use ::kdl::{KdlDocument, KdlEntry, KdlNode};
use miette::SourceSpan;
use std::path::Path;

/// What is known while one file is read.
pub(crate) struct Context<'a> {
    /// The number of the file.
    pub(crate) source: u32,
    /// Where in the file the piece begins that is being read.
    pub(crate) offset: usize,
    /// The folder that relative paths of this file start from.
    pub(crate) folder: &'a Path,
    /// The environment, for `${NAME}`.
    pub(crate) environment: &'a dyn Fn(&str) -> Option<String>,
    /// Where mistakes go.
    pub(crate) report: &'a Report,
}

impl Context<'_> {
    pub(crate) fn span(&self, span: SourceSpan) -> Span {
        let start = self.offset + span.offset();
        Span::new(self.source, start..start + span.len())
    }
}

/// Reads a piece of a file like a block. `list` is the block that the piece was cut out of; without it the piece
/// stood at the top of the file.
pub(crate) fn document<'a>(
    context: &'a Context<'a>,
    document: &'a KdlDocument,
    list: Option<Spanned<&'a str>>,
    read: impl FnOnce(&mut Block<'a>),
) {
    let top = Span::new(context.source, 0..0);
    let owner = list.as_ref().map_or(top, |list| list.span);
    let name = list.map(|list| list.value);
    let mut block = Block::new(context, document.nodes(), owner, name);
    read(&mut block);
    block.finish();
}

/// A node that is being read.
pub(crate) struct Node<'a> {
    context: &'a Context<'a>,
    node: &'a KdlNode,
    entries: Vec<Option<&'a KdlEntry>>,
    /// No argument is left in front of this entry.
    next_argument: usize,
    properties: Vec<&'static str>,
    block_taken: bool,
    /// An argument is missing, so reading stopped before everything was asked for.
    broken: bool,
}

impl<'a> Node<'a> {
    /// Lets `read` take what it knows and reports the rest.
    pub(crate) fn read<T>(
        context: &'a Context<'a>,
        node: &'a KdlNode,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let entries = node.entries().iter().map(Some).collect();
        let mut cursor = Self {
            context,
            node,
            entries,
            next_argument: 0,
            properties: Vec::new(),
            block_taken: false,
            broken: false,
        };
        let result = read(&mut cursor);
        cursor.finish();
        result
    }

    pub(crate) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    pub(crate) fn name(&self) -> &'a str {
        self.node.name().value()
    }

    /// The name alone.
    pub(crate) fn name_span(&self) -> Span {
        self.context.span(self.node.name().span())
    }

    /// The name with arguments and properties, without the block.
    pub(crate) fn span(&self) -> Span {
        let name = self.name_span();
        let end = self
            .node
            .entries()
            .last()
            .map_or(name.end, |entry| self.context.span(entry.span()).end);
        Span {
            end: end.max(name.end),
            ..name
        }
    }

    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.context.report.add(diagnostic);
    }

    pub(crate) fn error(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, self.span(), message)
    }

    /// Whether nothing at all is written after the name.
    pub(crate) fn is_bare(&self) -> bool {
        self.node.entries().is_empty() && self.node.children().is_none()
    }

    /// The next argument, if there is one.
    pub(crate) fn optional_argument(&mut self) -> Option<Value<'a>> {
        let rest = self.entries.get_mut(self.next_argument..)?;
        let is_argument =
            |slot: &Option<&KdlEntry>| slot.is_some_and(|entry| entry.name().is_none());
        let Some(index) = rest.iter().position(is_argument) else {
            self.next_argument = self.entries.len();
            return None;
        };
        self.next_argument += index + 1;
        let slot = rest.get_mut(index)?;
        slot.take()
            .map(|entry| Value::new(self.context, entry, self.node.name().value()))
    }

    /// The next argument; `what` says what it should be, for example `an address, such as "0.0.0.0:80"`.
    pub(crate) fn argument(&mut self, what: &str) -> Option<Value<'a>> {
        let value = self.optional_argument();
        if value.is_none() {
            self.broken = true;
            let name = self.name();
            self.report(
                Diagnostic::error(
                    code::MISSING,
                    self.name_span(),
                    format!("`{name}` needs a value"),
                )
                .label(if self.node.entries().is_empty() {
                    "nothing is written after it"
                } else {
                    "more is needed after it"
                })
                .help(format!("write after it {what}")),
            );
        }
        value
    }

    /// All arguments that are left; none is an error.
    pub(crate) fn arguments(&mut self, what: &str) -> Vec<Value<'a>> {
        let Some(first) = self.argument(what) else {
            return Vec::new();
        };
        let mut values = vec![first];
        while let Some(value) = self.optional_argument() {
            values.push(value);
        }
        values
    }

    /// The value of a property. A second one of the same name is reported and not used.
    pub(crate) fn property(&mut self, name: &'static str) -> Option<Value<'a>> {
        asked::note(self.node.name().value(), false, &[name]);
        self.properties.push(name);
        let mut found: Option<&'a KdlEntry> = None;
        for slot in &mut self.entries {
            if slot.is_none_or(|entry| entry.name().is_none_or(|key| key.value() != name)) {
                continue;
            }
            let Some(entry) = slot.take() else { continue };
            match found {
                None => found = Some(entry),
                Some(first) => self.context.report.add(
                    Diagnostic::error(
                        code::REPEATED,
                        self.context.span(entry.span()),
                        format!("the property `{name}` is written twice"),
                    )
                    .label("the second time")
                    .also(self.context.span(first.span()), "the first time")
                    .help("a property holds one value: remove one of the two"),
                ),
            }
        }
        found.map(|entry| Value::new(self.context, entry, name))
    }

    /// Refuses properties that the language will have later.
    pub(crate) fn later_properties(&mut self, later: &[Later]) {
        for slot in &mut self.entries {
            let Some(entry) = *slot else { continue };
            let Some(known) = later
                .iter()
                .find(|known| entry.name().is_some_and(|key| key.value() == known.name))
            else {
                continue;
            };
            *slot = None;
            self.context
                .report
                .add(known.diagnostic(self.context.span(entry.span())));
        }
    }

    /// A switch: on by being there, or as its one argument says.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        self.optional_argument()
            .map_or(Some(true), |value| value.boolean())
    }

    /// The name that the operator gave to the thing.
    pub(crate) fn id<T: From<String>>(&mut self) -> Option<Spanned<T>> {
        let value = self.optional_argument();
        if value.is_none() {
            let name = self.name();
            self.report(
                Diagnostic::error(
                    code::MISSING,
                    self.name_span(),
                    format!("this `{name}` has no name"),
                )
                .help(format!("give it one, such as `{name} \"main\"`")),
            );
        }
        value?.id()
    }

    /// The block in braces; an empty one if there is none.
    pub(crate) fn block<T>(&mut self, read: impl FnOnce(&mut Block<'a>) -> T) -> T {
        self.block_taken = true;
        let nodes = self.node.children().map_or(&[][..], KdlDocument::nodes);
        let mut block = Block::new(self.context, nodes, self.span(), Some(self.name()));
        let result = read(&mut block);
        block.finish();
        result
    }

    /// What is written here and is not about a file is never shown, whatever is wrong with it.
    pub(crate) fn hide_values(&self) {
        for entry in self.node.entries() {
            let is_path = entry
                .name()
                .is_some_and(|key| key.value().ends_with("-file"));
            if !is_path {
                let value = Value::new(self.context, entry, self.node.name().value());
                self.context.report.hide(value.span());
            }
        }
        if let Some(block) = self.node.children() {
            self.context.report.hide(self.context.span(block.span()));
        }
    }

    /// Takes everything that is left, for nodes that are refused as a whole.
    pub(crate) fn ignore_rest(&mut self) {
        self.entries.clear();
        self.block_taken = true;
    }

    /// The entries and the block as they are, for a block that is not ours to understand.
    pub(crate) fn take_raw(&mut self) -> &'a KdlNode {
        self.ignore_rest();
        self.node
    }

    fn finish(self) {
        if self.broken {
            return;
        }
        for entry in self.entries.iter().copied().flatten() {
            let span = self.context.span(entry.span());
            self.context.report.add_error(|| match entry.name() {
                Some(key) => self.unknown_property(key.value(), span),
                None => self.extra_argument(entry, span),
            });
        }
        if let (false, Some(_)) = (self.block_taken, self.node.children()) {
            self.report(
                self.error(
                    code::UNEXPECTED,
                    format!("`{}` takes no block in braces", self.name()),
                )
                .help("remove the braces and what is in them"),
            );
        }
    }

    fn extra_argument(&self, entry: &KdlEntry, span: Span) -> Diagnostic {
        let is_word = entry
            .format()
            .is_some_and(|format| format.value_repr.starts_with(char::is_alphabetic));
        Diagnostic::error(
            code::EXTRA_ARGUMENT,
            span,
            format!("`{}` takes no further argument", self.name()),
        )
        .label("not expected")
        .help(if is_word {
            "remove it, or put a `;` or a line break before it if it is a setting of its own"
        } else {
            "remove it, or put it where it belongs"
        })
    }

    fn unknown_property(&self, key: &str, span: Span) -> Diagnostic {
        let message = format!("`{}` has no property `{key}`", self.name());
        let diagnostic = Diagnostic::error(code::UNKNOWN_PROPERTY, span, message).label("unknown");
        let known = &self.properties;
        match did_you_mean(key, known.iter().copied()) {
            Some(hint) => diagnostic.help(hint),
            None if known.is_empty() => diagnostic.help("it has no properties at all"),
            None => diagnostic.help(format!("it has {}", list(known.iter().copied(), "and"))),
        }
    }
}

/// The nodes between two braces that are being read.
pub(crate) struct Block<'a> {
    context: &'a Context<'a>,
    nodes: Vec<Option<&'a KdlNode>>,
    owner: Span,
    /// None: the file itself.
    owner_name: Option<&'a str>,
    known: Vec<&'static str>,
}

impl<'a> Block<'a> {
    fn new(
        context: &'a Context<'a>,
        nodes: &'a [KdlNode],
        owner: Span,
        owner_name: Option<&'a str>,
    ) -> Self {
        Self {
            context,
            nodes: nodes.iter().map(Some).collect(),
            owner,
            owner_name,
            known: Vec::new(),
        }
    }

    pub(crate) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        self.context.report.add(diagnostic);
    }

    /// A node that may be there once. A second one is read too, so that its mistakes show, and then refused.
    pub(crate) fn one<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Node<'a>) -> Option<T>,
    ) -> Option<T> {
        let mut first: Option<(Span, Option<T>)> = None;
        let context = self.context;
        self.each(&[name], |node| {
            let result = read(node);
            match &first {
                None => first = Some((node.span(), result)),
                Some((earlier, _)) => context.report.add(
                    Diagnostic::error(
                        code::REPEATED,
                        node.span(),
                        format!("`{name}` is written twice"),
                    )
                    .label("the second time")
                    .also(*earlier, "the first time")
                    .help("keep one of the two"),
                ),
            }
        });
        first.and_then(|(_, result)| result)
    }

    /// A node that must be there once. `such_as` is how to write it.
    pub(crate) fn required<T>(
        &mut self,
        name: &'static str,
        such_as: &str,
        read: impl FnMut(&mut Node<'a>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(name) && !self.has_near(name) {
            self.report(
                Diagnostic::error(
                    code::MISSING,
                    self.owner,
                    format!("`{}` needs `{name}`", self.owner_name.unwrap_or_default()),
                )
                .label(format!("has no `{name}`"))
                .help(format!("add a line such as `{such_as}` inside its braces")),
            );
        }
        self.one(name, read)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.nodes
            .iter()
            .flatten()
            .any(|node| node.name().value() == name)
    }

    /// A name that will be reported as misspelled, with the right one as a hint.
    fn has_near(&self, name: &str) -> bool {
        self.nodes
            .iter()
            .flatten()
            .any(|node| did_you_mean(node.name().value(), [name]).is_some())
    }

    /// All nodes of a name, in their order.
    pub(crate) fn many<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Node<'a>) -> Option<T>,
    ) -> Vec<T> {
        let mut results = Vec::new();
        self.each(&[name], |node| results.extend(read(node)));
        results.shrink_to_fit();
        results
    }

    /// All nodes of several names, in their order.
    pub(crate) fn each(&mut self, names: &[&'static str], mut read: impl FnMut(&mut Node<'a>)) {
        asked::note(self.owner_name.unwrap_or_default(), true, names);
        self.known.extend_from_slice(names);
        for slot in &mut self.nodes {
            let Some(node) = *slot else { continue };
            if names.contains(&node.name().value()) {
                *slot = None;
                Node::read(self.context, node, &mut read);
            }
        }
    }

    /// Refuses nodes that the language will have later.
    pub(crate) fn later(&mut self, later: &[Later]) {
        for slot in &mut self.nodes {
            let Some(node) = *slot else { continue };
            let Some(known) = later.iter().find(|known| known.name == node.name().value()) else {
                continue;
            };
            *slot = None;
            Node::read(self.context, node, |node| {
                node.report(known.diagnostic(node.span()));
                node.ignore_rest();
            });
        }
    }

    fn finish(self) {
        for node in self.nodes.iter().copied().flatten() {
            self.context.report.add_error(|| self.unknown_node(node));
        }
    }

    fn unknown_node(&self, node: &KdlNode) -> Diagnostic {
        let name = node.name().value();
        let span = self.context.span(node.name().span());
        let message = match self.owner_name {
            Some(owner) => format!("`{owner}` has nothing called `{name}`"),
            None => format!("a configuration has no block called `{name}`"),
        };
        let known = || self.known.iter().copied();
        Diagnostic::error(code::UNKNOWN_NODE, span, message)
            .label("unknown")
            .help(
                did_you_mean(name, known())
                    .unwrap_or_else(|| format!("here can be {}", list(known(), "or"))),
            )
    }
}
