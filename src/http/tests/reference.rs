//! A second reading of the same grammar, as plain and as strict as can be: of a whole connection at once, by splitting text.
//! It shares no code with the parser, and says only what was understood and whether something was left.

use super::script::{Message, limits};

/// The messages in `bytes`, and whether they ended where the bytes do.
pub fn read(bytes: &[u8]) -> (Vec<Message>, bool) {
    // One character each byte, so that text can be split anywhere.
    let text: String = bytes.iter().map(|byte| *byte as char).collect();
    let mut rest = text.as_str();
    let mut messages = Vec::new();
    loop {
        if rest.is_empty() || rest == "\r\n" || rest == "\r" {
            return (messages, true);
        }
        let Some((message, behind, last)) = message(rest) else {
            return (messages, false);
        };
        messages.push(message);
        if last {
            return (messages, true);
        }
        rest = behind;
    }
}

/// The first message, what is behind it, and whether the peer wants no other.
fn message(text: &str) -> Option<(Message, &str, bool)> {
    let limits = limits();
    let without_blank = text.strip_prefix("\r\n").unwrap_or(text);
    let (head, behind) = without_blank.split_once("\r\n\r\n")?;
    let all = text.chars().count() - behind.chars().count();
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, version] = words[..] else {
        return None;
    };
    let http11 = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return None,
    };
    let headers: Vec<(&str, &str)> = lines.map(header).collect::<Option<_>>()?;
    if all > limits.head_bytes_max || headers.len() > limits.headers_max || !is_token(method) {
        return None;
    }
    let values = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect()
    };
    let path = path(method, target, &values("host"), http11)?;
    if http11 && values("expect").iter().any(|value| !value.eq_ignore_ascii_case("100-continue")) {
        return None;
    }
    let (body, behind) = body(method, http11, &values("content-length"), &values("transfer-encoding"), behind)?;
    let options: Vec<String> = values("connection").join(",").split(',').map(|o| o.trim().to_lowercase()).collect();
    let has = |option: &str| options.iter().any(|found| found == option);
    let last = has("close") || (!http11 && !has("keep-alive"));
    let message = Message {
        method: method.into(),
        target: target.into(),
        path,
        http11,
        headers: headers.iter().map(|(name, value)| (name.to_string(), to_bytes(value))).collect(),
        body: to_bytes(&body),
    };
    Some((message, behind, last))
}

fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let odd = |c: char| c != '\t' && (c < ' ' || c == '\x7f');
    (is_token(name) && !value.contains(odd)).then(|| (name, value.trim_matches([' ', '\t'])))
}

fn path(method: &str, target: &str, hosts: &[&str], http11: bool) -> Option<String> {
    let is_host = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=:[]".contains(c));
    if hosts.len() > 1 || (http11 && hosts.is_empty()) || !hosts.iter().all(|host| is_host(host)) {
        return None;
    }
    if method == "CONNECT" || target.contains('#') || !target.chars().all(|c| c.is_ascii_graphic()) {
        return None;
    }
    let mut path = target.to_owned();
    if !target.starts_with('/') {
        let (scheme, rest) = target.split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let authority = &rest[..end];
        let same = hosts.iter().all(|host| host.eq_ignore_ascii_case(authority));
        if !scheme.eq_ignore_ascii_case("http") || authority.is_empty() || !is_host(authority) || !same {
            return None;
        }
        path = rest[end..].to_owned();
    }
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    decode(query, "")?;
    let decoded = decode(path, "/%")?;
    (!decoded.contains(|c: char| c.is_ascii_control())).then(|| if decoded.is_empty() { "/".into() } else { decoded })
}

fn decode(text: &str, keep: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if keep.contains(byte as char) {
            out.extend(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(byte);
        }
        out.extend(rest.as_bytes());
    }
    String::from_utf8(out).ok()
}

fn body<'a>(
    method: &str,
    http11: bool,
    lengths: &[&str],
    codings: &[&str],
    behind: &'a str,
) -> Option<(String, &'a str)> {
    let length = match (lengths, codings) {
        ([], [coding]) if http11 && coding.eq_ignore_ascii_case("chunked") => return chunks(behind),
        ([], []) if !http11 && ["POST", "PUT", "PATCH"].contains(&method) => return None,
        ([], []) => 0,
        ([length], []) if is_number(length, 10) && length.len() < 20 => length.parse::<u64>().ok()?,
        _ => return None,
    };
    if length > limits().body_bytes_max as u64 {
        return None;
    }
    split(behind, length as usize).map(|(body, behind)| (body.to_owned(), behind))
}

fn chunks(mut text: &str) -> Option<(String, &str)> {
    let (mut body, mut extensions) = (String::new(), 0);
    loop {
        let (line, behind) = text.split_once("\r\n")?;
        let (size, extension) = line.split_once(';').unwrap_or((line, "x"));
        extensions += if line.contains(';') { extension.chars().count() } else { 0 };
        let odd = |c: char| c != '\t' && (c < ' ' || c == '\x7f');
        let begins_well = extension.chars().next().is_some_and(|c| is_token(&c.to_string()));
        if !is_number(size, 16) || size.len() > 8 || !begins_well || extension.contains(odd) || extensions > 1024 {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        if body.chars().count() + size > limits().body_bytes_max {
            return None;
        }
        if size == 0 {
            return trailers(behind).map(|behind| (body, behind));
        }
        let (chunk, behind) = split(behind, size)?;
        body.push_str(chunk);
        text = behind.strip_prefix("\r\n")?;
    }
}

fn trailers(mut text: &str) -> Option<&str> {
    let mut length = 0;
    loop {
        let (line, behind) = text.split_once("\r\n")?;
        if line.is_empty() {
            return Some(behind);
        }
        header(line)?;
        length += line.chars().count();
        if length > 4096 {
            return None;
        }
        text = behind;
    }
}

/// The first `length` characters, and the others.
fn split(text: &str, length: usize) -> Option<(&str, &str)> {
    let at = text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(length)?;
    Some(text.split_at(at))
}

fn is_number(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii() && c.is_digit(radix))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn to_bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}
