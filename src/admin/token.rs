//! Whether a request brings the token along that somebody wants.

use crate::config::secret::Secret;
use crate::http::Request;

/// In a time that does not depend on where they differ.
pub fn brings(request: &Request<'_>, token: &Secret) -> bool {
    let given = request.header("authorization").and_then(bearer);
    let expected = token.0.as_bytes();
    given.is_some_and(|given| given.len() == expected.len() && openssl::memcmp::eq(given, expected))
}

/// What an `Authorization` of the scheme Bearer brings along; the scheme's name is written in any case (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_written_in_any_case() {
        for value in ["Bearer abc", "bearer abc", "BEARER  abc"] {
            assert_eq!(bearer(value.as_bytes()), Some(&b"abc"[..]), "{value}");
        }
        for value in ["Basic abc", "Bearerabc", "Bearer", "", "abc Bearer"] {
            assert_eq!(bearer(value.as_bytes()), None, "{value}");
        }
    }
}
