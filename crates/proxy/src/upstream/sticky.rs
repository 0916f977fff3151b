//! Sticky clients: a cookie tells which target a client was with, and it goes there again as long as that is in order.
//!
//! The key is of the configuration, so that cookies hold over restarts and for all replicas of the proxy. A cookie has no address
//! but a tag that only the key makes of one, and it is authenticated, so that a client can neither learn who is behind the proxy nor
//! choose: `base64url(version ‖ tag ‖ expires ‖ HMAC-SHA-256)`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use portcullis_config::UpstreamId;
use ring::hmac;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const VERSION: u8 = 1;
const TAG: usize = 12;
const SIGNED: usize = 1 + TAG + 8;

/// What stands for a target in a cookie.
pub(super) type Tag = [u8; TAG];

/// What a client brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) tag: Tag,
    /// Half of its time is over.
    pub(super) is_old: bool,
}

/// The cookies of an upstream.
#[derive(Debug)]
pub(super) struct Sticky {
    name: String,
    key: hmac::Key,
    ttl: Duration,
    upstream: UpstreamId,
}

impl Sticky {
    pub(super) fn new(config: &portcullis_config::Sticky, upstream: &UpstreamId) -> Self {
        Self {
            name: config.cookie.clone(),
            key: hmac::Key::new(hmac::HMAC_SHA256, config.key.expose()),
            ttl: config.ttl,
            upstream: upstream.clone(),
        }
    }

    /// What stands for the target of this address.
    pub(super) fn tag(&self, address: &str) -> Tag {
        let mut context = self.context(b"target");
        context.update(address.as_bytes());
        let mut tag = Tag::default();
        tag.copy_from_slice(&context.sign().as_ref()[..TAG]);
        tag
    }

    /// The target that a cookie of ours names that has not expired.
    pub(super) fn read(&self, headers: &HeaderMap, now: SystemTime) -> Option<Kept> {
        let values = headers.get_all(header::COOKIE).iter();
        let pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        pairs
            .filter_map(|pair| pair.trim_ascii().strip_prefix(self.name.as_bytes()))
            .filter_map(|rest| rest.strip_prefix(b"="))
            .find_map(|value| self.verify(value, now))
    }

    fn verify(&self, value: &[u8], now: SystemTime) -> Option<Kept> {
        let mut bytes = [0; SIGNED + 32 + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        let (signed, signature) = bytes[..length].split_at_checked(SIGNED)?;
        let mut context = Vec::new();
        self.prefix(&mut context, b"cookie");
        context.extend_from_slice(signed);
        hmac::verify(&self.key, &context, signature).ok()?;
        let (version, rest) = signed.split_first()?;
        let (tag, expires) = rest.split_at_checked(TAG)?;
        let expires = u64::from_be_bytes(expires.try_into().ok()?);
        let left = expires.checked_sub(seconds(now)).filter(|left| *left > 0)?;
        (*version == VERSION).then_some(Kept {
            tag: tag.try_into().ok()?,
            is_old: left <= self.ttl.as_secs() / 2,
        })
    }

    /// The header that lets a client come back to this target.
    pub(super) fn cookie(&self, tag: Tag, secure: bool, now: SystemTime) -> Option<HeaderValue> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&tag);
        bytes.extend_from_slice(&(seconds(now) + self.ttl.as_secs()).to_be_bytes());
        let mut context = self.context(b"cookie");
        context.update(&bytes);
        bytes.extend_from_slice(context.sign().as_ref());
        let value = URL_SAFE_NO_PAD.encode(&bytes);
        let secure = if secure { "; Secure" } else { "" };
        let text = format!(
            "{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
            self.name,
            self.ttl.as_secs()
        );
        HeaderValue::try_from(text).ok()
    }

    /// What is signed begins with what it is for, so that nothing can be taken for something else.
    fn context(&self, purpose: &[u8]) -> hmac::Context {
        let mut prefix = Vec::new();
        self.prefix(&mut prefix, purpose);
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&prefix);
        context
    }

    fn prefix(&self, bytes: &mut Vec<u8>, purpose: &[u8]) {
        for part in [b"portcullis sticky", purpose, self.upstream.as_bytes()] {
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
    }
}

fn seconds(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(key: &str, upstream: &str) -> Sticky {
        let config = portcullis_config::Sticky {
            cookie: "at".into(),
            key: String::from(key).into(),
            ttl: Duration::from_secs(100),
        };
        Sticky::new(&config, &upstream.into())
    }

    fn headers(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        headers
    }

    const KEY: &str = "a key of thirty-two bytes or more";

    /// The pair of name and value.
    fn pair(of: &Sticky, tag: Tag, now: SystemTime) -> String {
        let cookie = of.cookie(tag, false, now).unwrap();
        let text = cookie.to_str().unwrap();
        text.split(';').next().unwrap().to_owned()
    }

    #[test]
    fn d29_cookies_hold_wherever_the_key_is() {
        let now = SystemTime::now();
        let one = sticky(KEY, "app");
        let tag = one.tag("10.0.0.1:80");
        assert_ne!(tag, one.tag("10.0.0.2:80"));
        let cookie = pair(&one, tag, now);
        let other = sticky(KEY, "app");
        for cookies in [
            vec![&*cookie],
            vec!["a=b", &*format!("x=y;{cookie}")],
            vec![&*format!("at=wrong; {cookie}; at=")],
        ] {
            let kept = other.read(&headers(&cookies), now);
            assert_eq!(kept, Some(Kept { tag, is_old: false }), "{cookies:?}");
        }
        let later = |seconds| other.read(&headers(&[&cookie]), now + Duration::from_secs(seconds));
        assert!(later(60).unwrap().is_old);
        assert_eq!(later(100), None);
    }

    #[test]
    fn nobody_else_can_make_a_cookie() {
        let now = SystemTime::now();
        let one = sticky(KEY, "app");
        let cookie = pair(&one, one.tag("10.0.0.1:80"), now);
        let cookies = headers(&[&cookie]);
        assert_eq!(
            sticky("another key, of that length too..", "app").read(&cookies, now),
            None
        );
        assert_eq!(sticky(KEY, "other").read(&cookies, now), None);
        let value = cookie.strip_prefix("at=").unwrap();
        for at in 0..value.len() {
            let mut forged = value.as_bytes().to_vec();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = format!("at={}", String::from_utf8(forged).unwrap());
            // The last digit has bits that mean nothing, and those that are not zero are refused.
            assert_eq!(one.read(&headers(&[&forged]), now), None, "{at}");
        }
        for wrong in ["at=", "at", "at=AAAA", "xat=1", &"at=".repeat(99)] {
            assert_eq!(one.read(&headers(&[wrong]), now), None, "{wrong}");
        }
    }

    #[test]
    fn scripts_and_other_sites_do_not_get_it() {
        let one = sticky(KEY, "app");
        let tag = one.tag("10.0.0.1:80");
        let text = |secure| {
            let cookie = one.cookie(tag, secure, SystemTime::now()).unwrap();
            let text = cookie.to_str().unwrap();
            text.split_once("; ").unwrap().1.to_owned()
        };
        let plain = "Path=/; Max-Age=100; HttpOnly; SameSite=Lax";
        assert_eq!(text(false), plain);
        assert_eq!(text(true), format!("{plain}; Secure"));
    }
}
