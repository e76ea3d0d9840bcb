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

/// Whether a property of librdkafka is a password by itself: `ssl.key.location`, for one, only says where one is.
pub fn is_secret_property(name: &str) -> bool {
    is_sensitive(name)
        && !name.ends_with(".location")
        && (name.contains("password") || name.contains("secret") || name.ends_with(".pem"))
}
