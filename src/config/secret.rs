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
