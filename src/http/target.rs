//! What a request is for: the target's forms, and its escapes.
//!
//! A path is never decoded into one that means something else. An escaped slash is no separator, so it stays escaped in the
//! decoded path, and so does an escaped percent sign, lest the two be mixed up: `/a%2Fb` and `/a%252Fb` and `/a/b` are three
//! paths. Whoever takes a path apart uses its segments, which are decoded one by one, and wholly. Dots mean nothing.

use std::borrow::Cow;

use super::refusal::{Refusal, quoted};

/// A target in its parts, as it was sent. The path is empty where a target in absolute form has none.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Of a target in absolute form.
    pub authority: Option<&'a str>,
}

/// Takes a target apart. It has visible characters only.
pub fn split(target: &str) -> Result<Target<'_>, Refusal> {
    if target.contains('#') {
        return Err(Refusal::bad("found \"#\" in the target; expected no fragment"));
    }
    let (authority, rest) = match absolute(target) {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        None if target.starts_with('/') => (None, target),
        None => {
            let found = quoted(target.as_bytes());
            return Err(Refusal::bad(format!(
                "found the target {found}; expected it to begin with \"/\" or \"http://\""
            )));
        }
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    Ok(Target { path, query, authority })
}

/// What follows the scheme of a target in absolute form.
fn absolute(target: &str) -> Option<&str> {
    let scheme = target.get(..7)?;
    scheme.eq_ignore_ascii_case("http://").then(|| &target[7..])
}

/// Whether a `Host`, or the authority of a target, has only what a host and a port may have (RFC 3986, 3.2.2 and 3.2.3). No "@":
/// it would make what comes before it look like a host.
pub fn is_authority(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

/// Decodes a path as the head of this file says, into `out`.
pub fn decode_path(path: &str, out: &mut String) -> Result<(), Refusal> {
    decode_into(path, out, |byte| matches!(byte, b'/' | b'%'), "path")?;
    match out.bytes().find(u8::is_ascii_control) {
        Some(byte) => {
            Err(Refusal::bad(format!("found the character 0x{byte:02x} in the path; expected no control character")))
        }
        None => Ok(()),
    }
}

/// Checks that a query can be decoded. `scratch` is overwritten.
pub fn check_query(query: &str, scratch: &mut String) -> Result<(), Refusal> {
    decode_into(query, scratch, |_| false, "query")
}

/// Decodes escapes, but keeps those of which `keep` says so, in upper case.
fn decode_into(text: &str, out: &mut String, keep: fn(u8) -> bool, what: &str) -> Result<(), Refusal> {
    let mut bytes = std::mem::take(out).into_bytes();
    bytes.clear();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = behind;
            continue;
        }
        let Some(decoded) = escape(behind) else {
            let found = quoted(&rest[..rest.len().min(3)]);
            return Err(Refusal::bad(format!(
                "found {found} in the {what}; expected two hexadecimal digits behind \"%\""
            )));
        };
        if keep(decoded) {
            bytes.push(b'%');
            bytes.extend(behind[..2].iter().map(u8::to_ascii_uppercase));
        } else {
            bytes.push(decoded);
        }
        rest = &behind[2..];
    }
    *out = String::from_utf8(bytes)
        .map_err(|_| Refusal::bad(format!("found escapes in the {what} that decode to no UTF-8; expected UTF-8")))?;
    Ok(())
}

fn escape(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| (digit as char).to_digit(16);
    let (high, low) = (value(*digits.first()?)?, value(*digits.get(1)?)?);
    Some((high * 16 + low) as u8)
}

/// The parts of a path between its slashes, each decoded. The path was checked by [`decode_path`].
pub fn segments(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    path.strip_prefix('/').unwrap_or(path).split('/').map(|segment| decoded(segment, false))
}

/// The names and values of a query, each decoded, with "+" for a blank. The query was checked by [`check_query`].
pub fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name, true), decoded(value, true))
    })
}

/// Between two ASCII characters of what is UTF-8 decoded lies what is UTF-8 decoded, so this changes nothing that was checked.
fn decoded(text: &str, plus_is_blank: bool) -> Cow<'_, str> {
    let plus = plus_is_blank && text.contains('+');
    if !plus && !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let blanks = if plus { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    let mut out = String::new();
    match decode_into(&blanks, &mut out, |_| false, "target") {
        Ok(()) => Cow::Owned(out),
        Err(_) => blanks.into_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Result<String, String> {
        let mut out = "left from before".to_owned();
        decode_path(path, &mut out).map(|()| out).map_err(|refusal| refusal.reason.into_owned())
    }

    #[test]
    fn a_path_is_decoded_into_no_other() {
        assert_eq!(path("/metrics"), Ok("/metrics".into()));
        assert_eq!(path("/%6detrics"), Ok("/metrics".into()));
        assert_eq!(path("/%c3%a9/x"), Ok("/é/x".into()));
        let different = ["/a/b", "/a%2fb", "/a%252fb", "/a%25252fb", "/a%2Fb/", "//a/b"].map(|p| path(p).unwrap());
        for (index, one) in different.iter().enumerate() {
            assert!(!different[index + 1..].contains(one), "{different:?}");
        }
        assert_eq!(path("/a%2fb"), path("/a%2Fb"), "an escape's case means nothing");
        assert_eq!(path("/../a/./%2e%2E"), Ok("/../a/./..".into()), "dots mean nothing");
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for odd in ["/%", "/%4", "/%zz", "/%4g", "/%+1", "/%c3", "/%c3/%a9", "/%ff", "/%00", "/a%0d%0a", "/%7f"] {
            assert!(path(odd).is_err(), "{odd}");
        }
        let mut scratch = String::new();
        assert!(check_query("a=%0a&b=%c3%a9", &mut scratch).is_ok());
        for odd in ["a=%", "%c3=%a9", "a=%f"] {
            assert!(check_query(odd, &mut scratch).is_err(), "{odd}");
        }
    }

    #[test]
    fn parts() {
        let segments = |path| segments(path).collect::<Vec<_>>();
        assert_eq!(segments("/apps/a%2Fb/x%20y/"), ["apps", "a/b", "x y", ""]);
        assert_eq!(segments("/"), [""]);
        let pairs = pairs("a=1&&b=x+%2B%26y&c&=d&a=2").collect::<Vec<_>>();
        let expected = [("a", "1"), ("b", "x +&y"), ("c", ""), ("", "d"), ("a", "2")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn forms() {
        let target = |path, query, authority| Ok(Target { path, query, authority });
        assert_eq!(split("/a?b?c"), target("/a", Some("b?c"), None));
        assert_eq!(split("//a"), target("//a", None, None));
        assert_eq!(split("HTTP://h:1/a?"), target("/a", Some(""), Some("h:1")));
        assert_eq!(split("http://h?x"), target("", Some("x"), Some("h")));
        for odd in ["*", "a", "h:80", "https://h/", "ftp://h/", "http:/h", "/a#b", "http:"] {
            assert!(split(odd).is_err(), "{odd}");
        }
    }
}
