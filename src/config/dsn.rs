//! Connection strings: read without ever quoting them in a message, with the TLS options that rust-postgres leaves out.

/// A connection string's meaning.
#[derive(Clone)]
pub struct Dsn {
    pub config: postgres::Config,
    pub tls: Tls,
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
    let mut tls = Tls::default();
    let rest = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        without_tls_of_url(text, &mut tls)
    } else {
        without_tls_of_pairs(text, &mut tls)
    };
    let config = rest.parse::<postgres::Config>().map_err(|error| expected(&error))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err("a connection string with a host".to_owned());
    }
    Ok(Dsn { config, tls })
}

impl Tls {
    /// Takes an option that it knows. The answer replaces the option for rust-postgres; `None` leaves it as it is.
    fn take(&mut self, name: &str, value: &str) -> Option<&'static str> {
        match (name, value) {
            ("sslmode", "verify-ca") => self.verify_ca = true,
            ("sslmode", "verify-full") => (self.verify_ca, self.verify_host) = (true, true),
            ("sslrootcert", file) => self.root = Some(file.to_owned()),
            ("sslcert", file) => self.certificate = Some(file.to_owned()),
            ("sslkey", file) => self.key = Some(file.to_owned()),
            _ => return None,
        }
        Some(if name == "sslmode" { "sslmode=require" } else { "" })
    }
}

fn without_tls_of_url(text: &str, tls: &mut Tls) -> String {
    let Some((base, query)) = text.split_once('?') else { return text.to_owned() };
    let kept = query.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let replaced = tls.take(name, &value.replace("%2F", "/").replace("%2f", "/"));
        Some(replaced.unwrap_or(pair)).filter(|pair| !pair.is_empty())
    });
    let kept: Vec<&str> = kept.collect();
    if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) }
}

fn without_tls_of_pairs(text: &str, tls: &mut Tls) -> String {
    let mut kept = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, behind)) = rest.split_once('=') {
        let behind = behind.trim_start();
        let (value, length) = pair_value(behind);
        let written = &rest[..rest.len() - behind.len() + length];
        let replaced = tls.take(name.trim(), &value);
        kept.push(replaced.unwrap_or(written));
        rest = behind[length..].trim_start();
    }
    kept.push(rest);
    kept.retain(|pair| !pair.is_empty());
    kept.join(" ")
}

/// A value of `name=value`, quoted or not, and how many bytes it takes. Backslashes escape.
/// <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE>
fn pair_value(text: &str) -> (String, usize) {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return (value, at + 1),
            c if !quoted && c.is_whitespace() => return (value, at),
            c => value.push(c),
        }
    }
    (value, text.len())
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
        None => "a connection string (host=… port=… user=… dbname=…, values with spaces in single quotes; or \
                 postgresql://…) of options that rust-postgres knows"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use postgres::config::SslMode;

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
            "postgresql://b@a/c?sslrootcert=%2Fetc/ca dir/ca.pem&sslmode=verify-full&connect_timeout=3",
            Ok(("b", SslMode::Require, full)),
        );
        check(
            "postgres://b@a/c?sslcert=c&sslkey=k",
            Ok(("b", SslMode::Prefer, Tls { certificate: Some("c".into()), key: Some("k".into()), ..Tls::default() })),
        );
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
