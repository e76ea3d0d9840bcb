//! Connection strings: read without ever quoting them in a message, with the TLS options that rust-postgres leaves out.

use std::time::Duration;

use postgres::config::{SslMode, TargetSessionAttrs};

const PAIRS: &str = "a connection string (host=… port=… user=… dbname=…, values with spaces in single quotes; or \
                     postgresql://…) of options that rust-postgres knows";

/// A connection string's meaning.
#[derive(Clone)]
pub struct Dsn {
    pub config: postgres::Config,
    pub tls: Tls,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// The options about certificates; rust-postgres knows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    pub verify_ca: bool,
    pub verify_host: bool,
    pub root: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

/// Reads `host=… user=…` or `postgresql://…`. The error says what is expected and quotes nothing.
pub fn parse(text: &str) -> Result<Dsn, String> {
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if text.contains('\0') || (is_url && text.contains("%00")) {
        return Err("a connection string without zero bytes".to_owned());
    }
    let (mut rest, pairs) = if is_url { url_pairs(text)? } else { (String::new(), keyword_pairs(text)?) };
    let (mut tls, mut user_timeout, mut separator) = (Tls::default(), None, if is_url { "?" } else { "" });
    for (name, value) in pairs {
        if name == "tcp_user_timeout" {
            // Milliseconds, as libpq counts them; rust-postgres would take them for seconds.
            let millis = value.parse().map_err(|_| "a connection string with a valid tcp_user_timeout")?;
            user_timeout = Some(Duration::from_millis(millis));
            continue;
        }
        let (name, value) = match tls.take(&name, &value) {
            Take::Replaced(mode) => ("sslmode", mode),
            Take::Kept => continue,
            // libpq's name for it.
            Take::Unknown if name == "keepalives_count" => ("keepalives_retries", value.as_str()),
            Take::Unknown => (name.as_str(), value.as_str()),
        };
        rest.push_str(separator);
        if is_url {
            separator = "&";
            rest.push_str(&format!("{}={}", percent_encode(name), percent_encode(value)));
        } else {
            separator = " ";
            rest.push_str(&format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
        }
    }
    let mut config = rest.parse::<postgres::Config>().map_err(|error| expected(&error))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err("a connection string with a host".to_owned());
    }
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
    if config.get_ports().len() > 1 && config.get_ports().len() != hosts {
        return Err("a connection string with one port, or as many ports as hosts".to_owned());
    }
    match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadOnly => {
            return Err("a connection string whose target_session_attrs is read-write: forebay writes".to_owned());
        }
        // Of several hosts the one that takes writes is meant, whatever their order.
        _ if hosts > 1 => {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        _ => {}
    }
    if tls.certificate.is_some() != tls.key.is_some() {
        return Err("a connection string with both sslcert and sslkey, or neither".to_owned());
    }
    // As in libpq: with an authority at hand, `require` verifies it.
    tls.verify_ca |= config.get_ssl_mode() == SslMode::Require && tls.root.is_some();
    Ok(Dsn { config, tls, user_timeout })
}

/// What [`Tls::take`] did with an option.
enum Take {
    Unknown,
    Kept,
    /// An `sslmode` that rust-postgres does not know, in its words.
    Replaced(&'static str),
}

impl Tls {
    fn take(&mut self, name: &str, value: &str) -> Take {
        match (name, value) {
            ("sslmode", "verify-ca") => self.verify_ca = true,
            ("sslmode", "verify-full") => (self.verify_ca, self.verify_host) = (true, true),
            ("sslrootcert", file) => self.root = Some(file.to_owned()),
            ("sslcert", file) => self.certificate = Some(file.to_owned()),
            ("sslkey", file) => self.key = Some(file.to_owned()),
            _ => return Take::Unknown,
        }
        if name == "sslmode" { Take::Replaced("require") } else { Take::Kept }
    }
}

/// `name=value` pairs, values quoted or not; backslashes escape.
/// <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE>
fn keyword_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else {
            return Err(PAIRS.to_owned());
        };
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(PAIRS.to_owned());
        }
        let after = after.trim_start();
        let (value, remaining) = keyword_value(after).ok_or(PAIRS)?;
        pairs.push((name.to_owned(), value));
        rest = remaining.trim_start();
    }
    Ok(pairs)
}

fn keyword_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// A URL without its parameters, and the parameters.
fn url_pairs(text: &str) -> Result<(String, Vec<(String, String)>), String> {
    let Some((base, query)) = text.split_once('?') else { return Ok((text.to_owned(), Vec::new())) };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').ok_or(PAIRS)?;
        Ok((percent_decode(name)?, percent_decode(value)?))
    });
    Ok((base.to_owned(), pairs.collect::<Result<_, String>>()?))
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let hex = after.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        bytes.push(hex.ok_or("a connection string whose every % is followed by two hexadecimal digits")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "a connection string in UTF-8".to_owned())
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b',' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// rust-postgres quotes pieces of the string, a password's rest for instance: only names that are known here are repeated.
fn expected(error: &postgres::Error) -> String {
    const OPTIONS: &[&str] = &[
        "sslmode",
        "sslnegotiation",
        "host",
        "hostaddr",
        "port",
        "connect_timeout",
        "tcp_user_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_retries",
        "target_session_attrs",
        "channel_binding",
        "load_balance_hosts",
    ];
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let option = source.strip_prefix("invalid value for option `").map(|rest| rest.trim_end_matches('`'));
    match option.and_then(|option| OPTIONS.iter().find(|known| **known == option)) {
        Some(option) => format!("a connection string with a valid {option}"),
        None => PAIRS.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expectation: Result<(&str, SslMode, Tls), &str>) {
        match (parse(text), expectation) {
            (Ok(dsn), Ok((user, mode, tls))) => {
                assert_eq!(dsn.config.get_user(), Some(user));
                assert_eq!(dsn.config.get_ssl_mode(), mode);
                assert!(dsn.tls == tls, "{text}");
            }
            (Err(error), Err(part)) => {
                assert!(error.contains(part), "{error}");
                assert!(!error.contains("hunter"), "{error}");
            }
            (Ok(_), Err(_)) => panic!("{text} was accepted"),
            (Err(error), Ok(_)) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn tls_options_are_taken_out() {
        let full =
            Tls { verify_ca: true, verify_host: true, root: Some("/etc/ca dir/ca.pem".into()), ..Tls::default() };
        check("host=a user=b", Ok(("b", SslMode::Prefer, Tls::default())));
        check(
            "host=a sslmode=verify-full sslrootcert='/etc/ca dir/ca.pem' user = b password='x = y\\' z'",
            Ok(("b", SslMode::Require, full.clone())),
        );
        check(
            "postgresql://b@a/c?sslrootcert=%2Fetc/ca%20dir/ca.pem&sslmode=verify-full&connect_timeout=3",
            Ok(("b", SslMode::Require, full)),
        );
        check(
            "postgres://b@a/c?sslcert=c&sslkey=k",
            Ok(("b", SslMode::Prefer, Tls { certificate: Some("c".into()), key: Some("k".into()), ..Tls::default() })),
        );
        check("host=a user=b sslcert=c", Err("both sslcert and sslkey"));
        let root = Tls { verify_ca: true, root: Some("r".into()), ..Tls::default() };
        check("host=a user=b sslmode=require sslrootcert=r", Ok(("b", SslMode::Require, root)));
        check("host=a user=b sslmode=allow", Err("a valid sslmode"));
    }

    #[test]
    fn what_libpq_calls_otherwise_is_translated() {
        let dsn = parse("host=a tcp_user_timeout=1500 keepalives_count=4").ok();
        let dsn = dsn.expect("libpq's words");
        assert_eq!(
            (dsn.user_timeout, dsn.config.get_keepalives_retries()),
            (Some(Duration::from_millis(1500)), Some(4))
        );
        check("postgres://u:p%40@h:1,i/d?options=-c%20a%3Db", Ok(("u", SslMode::Prefer, Tls::default())));
        check("host=a user=b password='%00'", Ok(("b", SslMode::Prefer, Tls::default())));
        check("host=a user=b password=hunter2\0", Err("zero bytes"));
        check("postgres://b:hunter2%00@h/d", Err("zero bytes"));
        check("host=a user=b password='hunter2", Err("single quotes"));
        check("postgres://b:hunter2@h/d?application_name=%zz", Err("hexadecimal"));
    }

    #[test]
    fn of_several_hosts_the_one_that_takes_writes_is_meant() {
        let attributes = |text: &str| {
            let dsn = parse(text).ok();
            dsn.expect("valid").config.get_target_session_attrs()
        };
        assert_eq!(attributes("host=a user=u"), TargetSessionAttrs::Any);
        assert_eq!(attributes("host=a,b port=1,2 user=u"), TargetSessionAttrs::ReadWrite);
        assert_eq!(attributes("postgresql://u@a:1,b:2/d"), TargetSessionAttrs::ReadWrite);
        assert_eq!(attributes("host=a user=u target_session_attrs=read-write"), TargetSessionAttrs::ReadWrite);
        check("host=a,b user=u target_session_attrs=read-only", Err("read-write: forebay writes"));
        check("host=a user=u target_session_attrs=primary", Err("a valid target_session_attrs"));
        check("host=a,b,c port=1,2 user=u password=hunter2", Err("as many ports as hosts"));
    }

    #[test]
    fn a_password_is_never_repeated() {
        check("host=a user=b password=x hunter2", Err("single quotes"));
        check("host=a user=b password=x hunter=2", Err("single quotes"));
        check("host=a user=b port=hunter2", Err("a valid port"));
        check("postgresql://b:hunter2@a:hunter3/c?hunter4=5", Err("connection string"));
        check("user=b password=hunter2", Err("with a host"));
    }
}
