//! Whether a body that is read as UTF-8 here could be read as something else by whoever believes its head.

use http::HeaderMap;
use portcullis_agent_protocol::header_name::folded;

/// The charsets in which UTF-8 is what it looks like.
const READ_ALIKE: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];
const NAME: &str = "charset";

/// Whether the head of a message declares a charset in which its bytes are another text than in UTF-8. JSON has no such
/// parameter (RFC 8259 section 11), but some read it. How they take a header apart is not known, so wherever the word stands in
/// one it has to be followed by a charset that is well known.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let names = headers.keys();
    let mut types = names.filter(|name| folded(name.as_str()) == "content-type");
    types.any(|name| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| declares_foreign(value.as_bytes()))
    })
}

fn declares_foreign(value: &[u8]) -> bool {
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    let mut behind = value.split(NAME);
    // What is before the first.
    behind.next();
    !behind.all(|behind| {
        let Some(declared) = behind.trim_start().strip_prefix('=') else {
            return false;
        };
        let end = declared.find([';', ',']).unwrap_or(declared.len());
        let quotes = [' ', '\t', '"', '\''];
        READ_ALIKE.contains(&declared[..end].trim_matches(quotes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn a_declared_charset_has_to_be_one_that_is_read_alike() {
        for (value, foreign) in [
            ("", false),
            ("application/json", false),
            ("application/json; charset=utf-8", false),
            ("application/json;charset=\"UTF-8\"; x=y", false),
            ("application/json; Charset = us-ascii", false),
            ("application/json; charset=utf-7", true),
            ("application/json; charset=UTF-16LE", true),
            ("application/json; charset=\"utf-7\"", true),
            ("application/json; charset=utf-8; charset=utf-7", true),
            (
                "application/json; x=\"; charset=utf-8\"; CHARSET=utf-7",
                true,
            ),
            ("application/json; charset=utf-8 utf-7", true),
            ("application/json; charset*=utf-7''x", true),
            ("application/json; charset=", true),
            ("application/json; charset", true),
            ("application/json, text/plain; charset=utf-7", true),
        ] {
            for name in ["content-type", "content_type"] {
                let mut headers = HeaderMap::new();
                headers.append("content-type", HeaderValue::from_static("application/json"));
                let name = HeaderName::from_static(name);
                headers.append(name.clone(), HeaderValue::from_static(value));
                assert_eq!(is_foreign(&headers), foreign, "{name}: {value}");
            }
        }
        let mut odd = HeaderMap::new();
        odd.append(
            "content-type",
            HeaderValue::from_bytes(b"a/b; charset=\xff").unwrap(),
        );
        assert!(is_foreign(&odd));
        assert!(!is_foreign(&HeaderMap::new()));
    }
}
