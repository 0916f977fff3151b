//! What the proxy's own answers look like when something is wrong: a page, a problem (RFC 9457) or a line of text, as the
//! client likes best. Nothing of the inside is in any of them but the id under which the log has the rest.

use crate::quality::{self, Weight};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use portcullis_config::PagePart;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};

/// The pages that hold for a route, or where there is none.
#[derive(Debug, Default)]
pub(crate) struct ErrorPages {
    by_status: HashMap<u16, Arc<[PagePart]>>,
    others: Option<Arc<[PagePart]>>,
    problem_json: bool,
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ErrorPage {
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
}

/// What is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    pub(crate) request_id: Option<&'a str>,
}

impl ErrorPages {
    /// Those of a route before those of the whole configuration.
    pub(crate) fn new(
        own: &portcullis_config::ErrorPages,
        shared: Option<&portcullis_config::ErrorPages>,
    ) -> Self {
        let mut pages = Self::default();
        for block in shared.into_iter().chain([own]) {
            pages.problem_json = block.problem_json.unwrap_or(pages.problem_json);
            if block.pages.iter().any(|page| page.statuses.is_empty()) {
                // What a route says of all others, it says of those that are named elsewhere too.
                pages.by_status.clear();
            }
            for page in &block.pages {
                if page.statuses.is_empty() {
                    pages.others = Some(page.html.clone());
                }
                let html = page
                    .statuses
                    .iter()
                    .map(|status| (*status, page.html.clone()));
                pages.by_status.extend(html);
            }
        }
        pages
    }

    /// The page for a client with these wishes; `None` where a line of text is all that there is.
    pub(crate) fn choose(&self, said: Said<'_>, headers: &HeaderMap) -> Option<ErrorPage> {
        if said.status < 400 {
            return None;
        }
        let html = self.by_status.get(&said.status).or(self.others.as_ref());
        if html.is_none() && !self.problem_json {
            return None;
        }
        let wishes = Wishes::of(headers);
        let problem = match self.problem_json {
            true => wishes
                .weight("application", "problem+json")
                .max(wishes.weight("application", "json")),
            false => Weight::NONE,
        };
        let as_html = wishes.weight("text", "html");
        let as_text = wishes.weight("text", "plain");
        match html {
            Some(html) if as_html > problem && as_html >= as_text => Some(page(html, said)),
            // Who reads pages reads lines, too.
            _ if problem > Weight::NONE && problem >= as_html.max(as_text) => {
                Some(problem_of(said))
            }
            Some(html) if as_html > Weight::NONE && as_html >= as_text => Some(page(html, said)),
            _ => None,
        }
    }

    /// Whether what is answered depends on what the client likes.
    pub(crate) fn varies(&self, status: u16) -> bool {
        let has_page = self.others.is_some() || self.by_status.contains_key(&status);
        status >= 400 && (has_page || self.problem_json)
    }
}

fn page(parts: &[PagePart], said: Said<'_>) -> ErrorPage {
    let mut html = String::new();
    for part in parts {
        match part {
            PagePart::Literal(text) => html.push_str(text),
            PagePart::Status => html.push_str(&said.status.to_string()),
            PagePart::StatusText => push_escaped(&mut html, said.reason),
            PagePart::RequestId => push_escaped(&mut html, said.request_id.unwrap_or_default()),
        }
    }
    ErrorPage {
        content_type: HeaderValue::from_static("text/html; charset=utf-8"),
        body: html.into(),
    }
}

/// An id may come from a proxy before us.
fn push_escaped(html: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
}

/// The status says it all, so that the type is `about:blank` and the title what HTTP calls it (RFC 9457 section 4.2.1).
fn problem_of(said: Said<'_>) -> ErrorPage {
    let mut problem = json!({
        "type": "about:blank",
        "title": said.reason,
        "status": said.status,
    });
    if let Some(id) = said.request_id {
        problem["request_id"] = id.into();
    }
    ErrorPage {
        content_type: HeaderValue::from_static("application/problem+json"),
        body: format!("{problem}\n").into(),
    }
}

/// What a client says in `Accept` (RFC 9110 section 12.5.1); nothing is everything.
struct Wishes<'a>(Vec<(&'a [u8], Weight)>);

impl<'a> Wishes<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT).iter();
        let lines = lines.map(HeaderValue::as_bytes);
        Self(lines.flat_map(quality::elements).collect())
    }

    /// That of the range that fits best.
    fn weight(&self, kind: &str, subtype: &str) -> Weight {
        if self.0.is_empty() {
            return Weight::FULL;
        }
        let mut best: Option<(u8, Weight)> = None;
        for (range, weight) in &self.0 {
            let Some(precision) = fit(range, kind, subtype) else {
                continue;
            };
            if best.is_none_or(|best| (precision, *weight) > best) {
                best = Some((precision, *weight));
            }
        }
        best.map_or(Weight::NONE, |(_, weight)| weight)
    }
}

/// How exactly a range names a type; `None`: not at all.
fn fit(range: &[u8], kind: &str, subtype: &str) -> Option<u8> {
    let mut parts = range.split(|byte| *byte == b'/');
    let (own_kind, own_subtype) = (parts.next()?, parts.next()?);
    if own_kind == b"*" && own_subtype == b"*" {
        return Some(0);
    }
    if !own_kind.eq_ignore_ascii_case(kind.as_bytes()) {
        return None;
    }
    if own_subtype == b"*" {
        return Some(1);
    }
    own_subtype
        .eq_ignore_ascii_case(subtype.as_bytes())
        .then_some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Said<'_> = Said {
        status: 404,
        reason: "Not Found",
        request_id: Some("<id>"),
    };

    fn pages(html: &[&[u16]], problem_json: bool) -> portcullis_config::ErrorPages {
        let page = |statuses: &&[u16]| portcullis_config::ErrorPage {
            statuses: statuses.to_vec(),
            html: [
                PagePart::Literal(format!("{statuses:?} ")),
                PagePart::Status,
                PagePart::RequestId,
            ]
            .into(),
        };
        portcullis_config::ErrorPages {
            pages: html.iter().map(page).collect(),
            problem_json: Some(problem_json),
        }
    }

    fn chosen(pages: &ErrorPages, accept: Option<&str>) -> &'static str {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        match pages.choose(SAID, &headers) {
            None => "text",
            Some(page) if page.content_type.as_bytes().starts_with(b"text/html") => "html",
            Some(_) => "problem",
        }
    }

    #[test]
    fn clients_get_what_they_like_best() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        let both = ErrorPages::new(&pages(&[&[404]], true), None);
        let html = ErrorPages::new(&pages(&[&[404]], false), None);
        let problem = ErrorPages::new(&pages(&[&[502]], true), None);
        let none = ErrorPages::new(&pages(&[&[502]], false), None);
        for (accept, of_both, of_html, of_problem) in [
            (None, "problem", "html", "problem"),
            (Some("*/*"), "problem", "html", "problem"),
            (Some(browser), "html", "html", "text"),
            (Some("text/html"), "html", "html", "text"),
            (Some("text/*"), "html", "html", "text"),
            (Some("text/plain"), "text", "text", "text"),
            (
                Some("text/plain;q=0.5, text/html;q=0.4"),
                "text",
                "text",
                "text",
            ),
            (Some("application/json"), "problem", "text", "problem"),
            (
                Some("application/problem+json"),
                "problem",
                "text",
                "problem",
            ),
            (Some("application/*"), "problem", "text", "problem"),
            (
                Some("application/json;q=0.1, text/html;q=0.2"),
                "html",
                "html",
                "text",
            ),
            (
                Some("application/json;q=0.2, text/html;q=0.1"),
                "problem",
                "html",
                "problem",
            ),
            (Some("*/*, text/html;q=0"), "problem", "text", "problem"),
            (Some("image/png"), "text", "text", "text"),
            (Some("nonsense"), "text", "text", "text"),
        ] {
            assert_eq!(chosen(&both, accept), of_both, "both, {accept:?}");
            assert_eq!(chosen(&html, accept), of_html, "html, {accept:?}");
            assert_eq!(chosen(&problem, accept), of_problem, "problem, {accept:?}");
            assert_eq!(chosen(&none, accept), "text", "none, {accept:?}");
        }
    }

    #[test]
    fn pages_of_a_route_come_before_those_of_all() {
        let body = |pages: &ErrorPages, status| {
            let said = Said { status, ..SAID };
            let page = pages.choose(said, &HeaderMap::new());
            page.map(|page| String::from_utf8(page.body.to_vec()).unwrap())
        };
        let shared = pages(&[&[404, 502], &[]], false);
        let own = ErrorPages::new(&pages(&[&[502]], false), Some(&shared));
        assert_eq!(body(&own, 502).unwrap(), "[502] 502&lt;id&gt;");
        assert_eq!(body(&own, 404).unwrap(), "[404, 502] 404&lt;id&gt;");
        assert_eq!(body(&own, 500).unwrap(), "[] 500&lt;id&gt;");
        let all = ErrorPages::new(&pages(&[&[]], false), Some(&pages(&[&[404]], false)));
        assert_eq!(body(&all, 404).unwrap(), "[] 404&lt;id&gt;");
        assert_eq!(body(&all, 302), None);
        assert!(all.varies(404) && !all.varies(302));
    }

    #[test]
    fn a_problem_says_what_everybody_may_know() {
        let pages = ErrorPages::new(&pages(&[], true), None);
        let page = pages.choose(SAID, &HeaderMap::new()).unwrap();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&page.body).unwrap(),
            json!({"type": "about:blank", "title": "Not Found", "status": 404, "request_id": "<id>"})
        );
    }
}
