//! Strings that are never printed: connection strings and whatever might be a password.

use std::fmt;

/// A string whose `Debug` hides it; it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether a key's value is kept out of messages.
pub fn is_sensitive(key: &str) -> bool {
    ["dsn", "password", "secret", "key", "token", "jaas"].iter().any(|word| key.to_ascii_lowercase().contains(word))
}

/// Whether a text may be a connection string in the wrong place: it is kept out of messages whatever its key.
pub fn looks_secret(text: &str) -> bool {
    text.contains(['=', ' ']) || text.contains("://")
}

/// A text as messages show it.
pub fn shown(text: &str) -> String {
    match text {
        text if looks_secret(text) => "a text that is not shown".to_owned(),
        text if text.chars().count() > 60 => "a long text".to_owned(),
        text => format!("{text:?}"),
    }
}

/// Whether a property of librdkafka is a password by itself: `ssl.key.location`, for one, only says where one is.
pub fn is_secret_property(name: &str) -> bool {
    is_sensitive(name)
        && !name.ends_with(".location")
        && (name.contains("password") || name.contains("secret") || name.ends_with(".pem"))
}
