//! Which route a request takes. Pure: a request line in, a route out, so that nothing but the configuration and the request
//! decides.
//!
//! Every `match` block of every route becomes an entry. Entries are sorted once by precedence: priority; host exact, longest
//! wildcard, regex, none; path exact, longest prefix, regex, none; more conditions; place in the file. An entry's position
//! is its rank, and the answer to a request is the lowest rank that matches.
//!
//! To find it without trying all entries they are filed under their host and then under their path. A request looks into the
//! few drawers that can hold its host (the exact name, each suffix of it, the regexes, "any") and there into those that can
//! hold its path (the whole path, each prefix that ends at a segment, the regexes). A drawer lists ranks in ascending order,
//! so looking stops at the first rank that is no better than the best so far. The cost grows with the number of segments and
//! labels of the request and with the number of regexes, not with the number of routes.

mod condition;
mod explain;
pub(crate) mod target;

use condition::FullMatch;
use explain::Reason;
use portcullis_config::{HostPattern, Match, PathPattern};
use regex::Regex;
use smallvec::SmallVec;
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

/// What routing looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLine<'a> {
    /// Lower case, without port and final dot; empty when the request names none.
    pub(crate) host: &'a str,
    /// In normal form, see [`target`].
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) headers: &'a http::HeaderMap,
}

/// Finds the route of a request. `T` is what a route is to the caller.
#[derive(Debug)]
pub(crate) struct Router<T> {
    routes: Vec<T>,
    entries: Vec<Entry>,
    exact_hosts: HashMap<Box<str>, PathIndex>,
    /// By suffix with its leading dot.
    wildcard_hosts: HashMap<Box<str>, PathIndex>,
    regex_hosts: Vec<(Regex, PathIndex)>,
    any_host: PathIndex,
}

#[derive(Debug)]
struct Entry {
    route: usize,
    priority: i64,
    /// All blocks of the route, which are the configuration's own: with many routes a copy of each would be felt.
    matches: Arc<[Match]>,
    /// Which of them this is.
    block: usize,
    /// The route has none, and this one stands for that.
    is_everything: bool,
    /// What is compiled of it.
    not: Box<[FullMatch]>,
}

impl Entry {
    fn matching(&self) -> &Match {
        &self.matches[self.block]
    }

    /// Whether everything holds beside host and path.
    fn holds(&self, line: &RequestLine<'_>) -> bool {
        condition::hold(self.matching(), &self.not, line)
    }
}

/// The route of a request, and the place of the match that it took in the order of precedence, from 0.
#[derive(Debug)]
pub(crate) struct Found<'a, T> {
    pub(crate) route: &'a T,
    pub(crate) rank: u32,
}

/// Ranks in ascending order.
type Ranks = SmallVec<[u32; 2]>;

#[derive(Debug, Default)]
struct PathIndex {
    exact: HashMap<Box<str>, Ranks>,
    /// Without the final slash; the empty prefix is every path.
    prefix: HashMap<Box<str>, Ranks>,
    /// No prefix has more segments than this.
    deepest_prefix: usize,
    regex: Vec<(Regex, u32)>,
}

/// The place of a match in the order of precedence; smaller is better.
type Precedence = (
    Reverse<i64>,
    (u8, Reverse<usize>),
    (u8, Reverse<usize>),
    Reverse<usize>,
);

impl<T> Router<T> {
    /// Compiles routes, given with their priority and matches in the order of the file. A route without matches takes every
    /// request.
    ///
    /// # Errors
    /// A pattern is not a regular expression; the text says which.
    pub(crate) fn new<'a>(
        routes: impl IntoIterator<Item = (T, i64, &'a Arc<[Match]>)>,
    ) -> Result<Self, regex::Error> {
        let every: Arc<[Match]> = [Match::default()].into();
        let mut compiled = Vec::new();
        let mut found: Vec<(Precedence, Entry)> = Vec::new();
        for (route, priority, matches) in routes {
            let is_everything = matches.is_empty();
            let matches = if is_everything { &every } else { matches };
            for (block, matching) in matches.iter().enumerate() {
                let entry = Entry {
                    route: compiled.len(),
                    priority,
                    matches: matches.clone(),
                    block,
                    is_everything,
                    not: condition::compile_not(matching)?,
                };
                found.push((precedence(priority, matching), entry));
            }
            compiled.push(route);
        }
        // Stable: between equals the place in the file decides.
        found.sort_by_key(|(precedence, _)| *precedence);
        let mut router = Self {
            routes: compiled,
            entries: Vec::with_capacity(found.len()),
            exact_hosts: HashMap::new(),
            wildcard_hosts: HashMap::new(),
            regex_hosts: Vec::new(),
            any_host: PathIndex::default(),
        };
        let mut regex_positions = HashMap::new();
        for (rank, (_, entry)) in (0u32..).zip(found) {
            let matching = entry.matching();
            let index = router.index_of(matching.host.as_ref(), &mut regex_positions)?;
            index.insert(rank, matching.path.as_ref())?;
            router.entries.push(entry);
        }
        Ok(router)
    }

    /// The route that the request takes, if any.
    pub(crate) fn find(&self, line: &RequestLine<'_>) -> Option<Found<'_, T>> {
        let mut best = None;
        if !self.exact_hosts.is_empty()
            && let Some(index) = self.exact_hosts.get(line.host)
        {
            self.search(index, line, &mut best);
        }
        if !self.wildcard_hosts.is_empty() {
            for (dot, _) in line.host.match_indices('.') {
                if let Some(index) = self.wildcard_hosts.get(&line.host[dot..]) {
                    self.search(index, line, &mut best);
                }
            }
        }
        for (regex, index) in &self.regex_hosts {
            if regex.is_match(line.host) {
                self.search(index, line, &mut best);
            }
        }
        self.search(&self.any_host, line, &mut best);
        let rank = best?;
        let entry = &self.entries[rank as usize];
        Some(Found {
            route: &self.routes[entry.route],
            rank,
        })
    }

    /// Why a request was found to be of a route, and how many matches there are to be ranked among.
    pub(crate) fn reason(&self, rank: u32) -> Option<(Reason<'_>, usize)> {
        let entry = self.entries.get(rank as usize)?;
        let place = match entry.is_everything {
            true => (0, 0),
            false => (entry.block + 1, entry.matches.len()),
        };
        let reason = Reason::new(entry.matching(), entry.priority, place);
        Some((reason, self.entries.len()))
    }

    /// All routes, in the order of the file.
    pub(crate) fn routes(&self) -> &[T] {
        &self.routes
    }

    fn index_of(
        &mut self,
        host: Option<&HostPattern>,
        regex_positions: &mut HashMap<String, usize>,
    ) -> Result<&mut PathIndex, regex::Error> {
        Ok(match host {
            None => &mut self.any_host,
            Some(HostPattern::Exact(name)) => {
                self.exact_hosts.entry(name.as_str().into()).or_default()
            }
            Some(HostPattern::Wildcard(suffix)) => self
                .wildcard_hosts
                .entry(suffix.as_str().into())
                .or_default(),
            Some(HostPattern::Regex(pattern)) => {
                let at = match regex_positions.get(pattern) {
                    Some(at) => *at,
                    None => {
                        let at = self.regex_hosts.len();
                        self.regex_hosts
                            .push((Regex::new(pattern)?, PathIndex::default()));
                        regex_positions.insert(pattern.clone(), at);
                        at
                    }
                };
                &mut self.regex_hosts[at].1
            }
        })
    }

    fn search(&self, index: &PathIndex, line: &RequestLine<'_>, best: &mut Option<u32>) {
        let mut consider = |ranks: &[u32]| {
            for &rank in ranks {
                if best.is_some_and(|best| rank >= best) {
                    return;
                }
                if self.entries[rank as usize].holds(line) {
                    *best = Some(rank);
                    return;
                }
            }
        };
        if !index.exact.is_empty()
            && let Some(ranks) = index.exact.get(line.path)
        {
            consider(ranks);
        }
        if !index.prefix.is_empty() {
            for prefix in segment_prefixes(line.path, index.deepest_prefix) {
                if let Some(ranks) = index.prefix.get(prefix) {
                    consider(ranks);
                }
            }
        }
        for (regex, rank) in &index.regex {
            if best.is_none_or(|best| *rank < best)
                && regex.is_match(line.path)
                && self.entries[*rank as usize].holds(line)
            {
                *best = Some(*rank);
            }
        }
    }
}

impl PathIndex {
    fn insert(&mut self, rank: u32, path: Option<&PathPattern>) -> Result<(), regex::Error> {
        match path {
            None => self.insert_prefix(rank, ""),
            Some(PathPattern::Prefix(prefix)) => self.insert_prefix(rank, trim_prefix(prefix)),
            Some(PathPattern::Exact(path)) => {
                self.exact
                    .entry(path.as_str().into())
                    .or_default()
                    .push(rank);
            }
            Some(PathPattern::Regex(pattern)) => self.regex.push((Regex::new(pattern)?, rank)),
        }
        Ok(())
    }

    fn insert_prefix(&mut self, rank: u32, prefix: &str) {
        let depth = prefix.bytes().filter(|byte| *byte == b'/').count();
        self.deepest_prefix = self.deepest_prefix.max(depth);
        self.prefix.entry(prefix.into()).or_default().push(rank);
    }
}

/// A prefix means the same with and without its final slash.
fn trim_prefix(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Whether `path` is `prefix` or lies below it.
fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(trim_prefix(prefix))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The prefixes of a path that end where a segment ends, of at most `deepest` segments, the empty one first.
fn segment_prefixes(path: &str, deepest: usize) -> impl Iterator<Item = &str> {
    std::iter::once("")
        .chain(path.match_indices('/').skip(1).map(|(at, _)| &path[..at]))
        .chain(std::iter::once(path))
        .take(deepest + 1)
}

fn precedence(priority: i64, matching: &Match) -> Precedence {
    let host = match &matching.host {
        Some(HostPattern::Exact(_)) => (0, Reverse(0)),
        Some(HostPattern::Wildcard(suffix)) => (1, Reverse(suffix.len())),
        Some(HostPattern::Regex(_)) => (2, Reverse(0)),
        None => (3, Reverse(0)),
    };
    let path = match &matching.path {
        Some(PathPattern::Exact(_)) => (0, Reverse(0)),
        Some(PathPattern::Prefix(prefix)) => (1, Reverse(trim_prefix(prefix).len())),
        Some(PathPattern::Regex(_)) => (2, Reverse(0)),
        None => (3, Reverse(0)),
    };
    let conditions = usize::from(!matching.methods.is_empty())
        + matching.headers.len()
        + matching.query.len()
        + matching.not.len();
    (Reverse(priority), host, path, Reverse(conditions))
}

#[cfg(test)]
mod tests;
