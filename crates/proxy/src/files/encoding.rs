//! Codings in which files lie beside themselves, and which of them a client takes (RFC 9110 section 12.5.3).

use http::{HeaderMap, HeaderValue, header};
use portcullis_config::Precompressed;

/// A coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    name: &'static str,
    /// What is behind the name of the file.
    pub(super) suffix: &'static str,
}

impl Encoding {
    pub(super) const fn new(precompressed: &Precompressed) -> Self {
        let (name, suffix) = match precompressed {
            Precompressed::Brotli => ("br", ".br"),
            Precompressed::Gzip => ("gzip", ".gz"),
            Precompressed::Zstd => ("zstd", ".zst"),
        };
        Self { name, suffix }
    }

    pub(super) const fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name)
    }

    /// What tells its entity tags from those of the file itself.
    pub(super) const fn name(self) -> &'static str {
        self.name
    }
}

/// Those of `offered` that the client takes, the one that it likes most first, and between equals as they are offered.
pub(super) fn accepted(headers: &HeaderMap, offered: &[Encoding]) -> Vec<Encoding> {
    if offered.is_empty() {
        return Vec::new();
    }
    let mut wanted: Vec<(u16, Encoding)> = offered
        .iter()
        .map(|encoding| (quality(headers, encoding.name), *encoding))
        .filter(|(quality, _)| *quality > 0)
        .collect();
    wanted.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    wanted.into_iter().map(|(_, encoding)| encoding).collect()
}

/// In thousandths; 0: it is not wanted.
fn quality(headers: &HeaderMap, name: &str) -> u16 {
    let mut of_all = 0;
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        let Ok(line) = line.to_str() else { continue };
        for element in line.split(',') {
            let mut parts = element.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1000, thousandths);
            if coding.eq_ignore_ascii_case(name)
                || name == "gzip" && coding.eq_ignore_ascii_case("x-gzip")
            {
                return weight;
            }
            if coding == "*" {
                of_all = weight;
            }
        }
    }
    of_all
}

/// A weight of at most three digits behind the point; what is none is not wanted.
fn thousandths(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_say_what_they_take() {
        let offered = [
            Precompressed::Brotli,
            Precompressed::Zstd,
            Precompressed::Gzip,
        ]
        .map(|coding| Encoding::new(&coding));
        for (line, expected) in [
            ("", ""),
            ("gzip", "gzip"),
            ("gzip, br, zstd", "br zstd gzip"),
            ("gzip, br;q=0.5", "gzip br"),
            ("br;q=0, *", "zstd gzip"),
            ("*;q=0", ""),
            ("BR", "br"),
            ("x-gzip", "gzip"),
            ("gzip;q=nonsense", ""),
            ("gzip;q=2", ""),
            ("identity", ""),
            ("deflate, brr", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            let names: Vec<_> = accepted(&headers, &offered)
                .iter()
                .map(|encoding| encoding.name())
                .collect();
            assert_eq!(names.join(" "), expected, "{line}");
        }
        assert!(accepted(&HeaderMap::new(), &offered).is_empty());
    }
}
