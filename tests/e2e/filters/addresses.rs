//! `ip-allow` and `ip-deny`.

use super::{get_from, past};
use crate::harness::Origin;

#[test]
fn clients_are_refused_by_their_addresses() {
    let origin = Origin::start();
    let file = "# who has misbehaved\n198.51.100.7\n2001:db8:bad::/48 # all of it\n";
    for (filters, address, status) in [
        (
            r#"ip-allow "192.0.2.0/24" "2001:db8::/32""#,
            "192.0.2.9",
            200,
        ),
        (
            r#"ip-allow "192.0.2.0/24" "2001:db8::/32""#,
            "2001:db8::9",
            200,
        ),
        (
            r#"ip-allow "192.0.2.0/24" "2001:db8::/32""#,
            "192.0.3.1",
            403,
        ),
        (
            r#"ip-allow "192.0.2.0/24" "2001:db8::/32""#,
            "2001:db9::9",
            403,
        ),
        (
            r#"ip-allow "192.0.2.9" file="bad.txt" status=451"#,
            "198.51.100.7",
            200,
        ),
        (
            r#"ip-allow "192.0.2.9" file="bad.txt" status=451"#,
            "198.51.100.8",
            451,
        ),
        (r#"ip-allow "192.0.2.9" mode="shadow""#, "192.0.2.8", 200),
        (r#"ip-deny "192.0.2.9""#, "192.0.2.9", 403),
        (r#"ip-deny "192.0.2.9" status=404"#, "192.0.2.9", 404),
        (r#"ip-deny "192.0.2.9""#, "192.0.2.8", 200),
        (r#"ip-deny file="bad.txt""#, "198.51.100.7", 403),
        (
            r#"ip-deny "192.0.2.9" file="bad.txt""#,
            "2001:db8:bad:1::1",
            403,
        ),
        (r#"ip-deny "192.0.2.9" file="bad.txt""#, "192.0.2.9", 403),
        (r#"ip-deny file="bad.txt""#, "198.51.100.8", 200),
        (r#"ip-deny "192.0.2.9" mode="shadow""#, "192.0.2.9", 200),
        // Both have to let it pass.
        (
            r#"ip-allow "192.0.2.0/24"; ip-deny "192.0.2.9""#,
            "192.0.2.9",
            403,
        ),
        (
            r#"ip-allow "192.0.2.0/24"; ip-deny "192.0.2.9""#,
            "192.0.2.8",
            200,
        ),
    ] {
        let proxy = past(filters, &origin).file("bad.txt", file).start();
        assert_eq!(
            get_from(&proxy, address).status,
            status,
            "{filters} {address}"
        );
    }
}

#[test]
fn the_log_says_who_refused() {
    let origin = Origin::start();
    let proxy = past(r#"ip-allow "192.0.2.0/24""#, &origin).start();
    assert_eq!(get_from(&proxy, "203.0.113.1").status, 403);
    let line = proxy.access_line(|line| line["status"] == 403);
    assert_eq!(line["reason"], "ip_denied");
    assert_eq!(line["blocked_by"], "filter:ip-allow");
    assert_eq!(line["client_ip"], "203.0.113.1");
    assert!(origin.requests().is_empty());
}

#[test]
fn a_reload_reads_the_file_again_and_refuses_a_broken_one() {
    let origin = Origin::start();
    let with = |file: &str| past(r#"ip-deny file="bad.txt""#, &origin).file("bad.txt", file);
    let proxy = with("").start();
    assert_eq!(get_from(&proxy, "192.0.2.9").status, 200);
    proxy.reload(&with("192.0.2.0/24\n"));
    assert_eq!(get_from(&proxy, "192.0.2.9").status, 403);
    proxy.reload_in_vain(&with("192.0.2.0/24\nnonsense\n"));
    assert_eq!(get_from(&proxy, "192.0.2.9").status, 403);
    let said = proxy.log_text();
    assert!(said.contains("line 2 of"), "{said}");
}
