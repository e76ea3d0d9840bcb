//! Where a forebay is asked about itself: a host and a port, or a Unix socket. Opens nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// Of what listens there, on this machine: where it listens on all addresses, it is asked on the loopback.
    pub fn of_listener(listen: SocketAddr) -> Address {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Address::Tcp(SocketAddr::new(ip, listen.port()).to_string())
    }

    /// The address of a page there. For a Unix socket the host is only what HTTP wants to see.
    pub fn url(&self, path: &str) -> String {
        match self {
            Address::Tcp(place) => format!("http://{place}{path}"),
            Address::Unix(_) => format!("http://localhost{path}"),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Address::Unix(path)),
                false => Err("a Unix socket is unix:/path, with the whole path".to_owned()),
            };
        }
        if text.starts_with("https:") {
            return Err("only plain http: let ssh -L carry it where the way is not safe".to_owned());
        }
        let place = text.strip_prefix("http://").unwrap_or(text);
        let place = place.strip_suffix('/').unwrap_or(place);
        let wrong = || format!("{text:?} is neither host:port, http://host:port, nor unix:/path");
        let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
        let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        let is_v6 =
            host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
        let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        if (is_name || is_v6) && is_port { Ok(Address::Tcp(place.to_owned())) } else { Err(wrong()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(place) => f.write_str(place),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, expected) in [
            ("127.0.0.1:9464", Some("127.0.0.1:9464")),
            ("http://db-3.example:9464/", Some("db-3.example:9464")),
            ("[::1]:9464", Some("[::1]:9464")),
            ("unix:/run/forebay/admin.sock", Some("unix:/run/forebay/admin.sock")),
            ("unix:admin.sock", None),
            ("https://db-3:9464", None),
            ("db-3", None),
            ("db-3:0", None),
            ("db-3:70000", None),
            ("db-3:+80", None),
            (":9464", None),
            ("::1:9464", None),
            ("db 3:9464", None),
            ("user@db-3:9464", None),
            ("http://db-3:9464/status", None),
            ("", None),
        ] {
            let parsed = text.parse::<Address>().ok().map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_the_loopback() {
        for (listen, expected) in
            [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:9464", "[::1]:9464"), ("10.0.0.7:9464", "10.0.0.7:9464")]
        {
            assert_eq!(Address::of_listener(listen.parse().expect("valid")).to_string(), expected);
        }
    }
}
