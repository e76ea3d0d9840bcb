//! Strings that are never printed: connection strings and whatever might be a password.

use std::fmt;
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// A string whose `Debug` hides it; it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The largest file that holds one value.
const VALUE_BYTES_MAX: u64 = 64 << 10;

/// The content of a file that holds one value. A pipe could be waited for without end, and a device read without end.
///
/// # Errors
/// Also for what is no regular file, and for one that is too large.
pub fn read_file(path: &Path) -> std::io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > VALUE_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, format!("it has more than {VALUE_BYTES_MAX} bytes")));
    }
    fs::read_to_string(path)
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
