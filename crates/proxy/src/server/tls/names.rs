//! The names that a certificate is for. Pure.

use std::net::IpAddr;

/// Names in lower case, some with `*.` in front, and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    dns: Vec<String>,
    ips: Vec<IpAddr>,
}

impl Names {
    pub(super) fn new(dns: impl IntoIterator<Item = String>, ips: Vec<IpAddr>) -> Self {
        let dns = dns.into_iter().map(|name| {
            let name = name.to_ascii_lowercase();
            name.strip_suffix('.').map(str::to_owned).unwrap_or(name)
        });
        Self {
            dns: dns.collect(),
            ips,
        }
    }

    /// Those that clients can ask for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.dns.iter().map(String::as_str)
    }

    /// Whether the certificate is for this host, which is in lower case, or for this address. A wildcard stands for one label
    /// (RFC 9525 section 6.3).
    pub(crate) fn covers(&self, host: &str, ip: Option<IpAddr>) -> bool {
        if let Some(ip) = ip {
            return self.ips.contains(&ip);
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.dns.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => name == host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_wildcards_and_addresses() {
        let names = ["example.com", "*.Example.com.", "UPPER.test"];
        let names = Names::new(
            names.map(str::to_owned),
            vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        );
        for (host, covered) in [
            ("example.com", true),
            ("a.example.com", true),
            ("a.b.example.com", false),
            (".example.com", true),
            ("xample.com", false),
            ("upper.test", true),
            ("com", false),
            ("", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(names.covers(host, host.parse().ok()), covered, "{host}");
        }
        assert!(!Names::default().covers("", None));
    }
}
