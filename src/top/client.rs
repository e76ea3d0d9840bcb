//! Asks a running forebay over HTTP, and tells it what to do. Every request ends after its [`Patience`], whatever the other side does.
//! It follows no redirection and uses no proxy: the token is for the address that was given.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::config::Config;
use ureq::http::Response;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::TcpConnector;
use ureq::{Agent, Body, Timeout};

use super::action::Action;
use super::address::Address;
use super::parked::Parked;
use super::unix::{NoResolver, UnixConnector};
use crate::admin::status::{Status, VERSION};
use crate::config::secret::Secret;
use crate::words::harmless;

const CONNECT: Duration = Duration::from_secs(2);

/// For whole requests.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// It is there at once.
    status: Duration,
    /// What asks databases may have to wait for one that is away.
    listing: Duration,
    action: Duration,
}

/// As the page has it.
const PATIENCE: Patience =
    Patience { status: Duration::from_secs(5), listing: Duration::from_secs(30), action: Duration::from_secs(60) };

/// Ten thousand partitions take a tenth of it.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Of holds and keys, of each shard.
const PARKED_MAX: u32 = 100;

/// Why there is no answer. Its texts are harmless to a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers.
    Unreachable(String),
    /// It wants a token, or another one.
    Forbidden(String),
    /// An answer that says no.
    Refused(String),
    /// Whatever answers there is no forebay that this program knows.
    Strange(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Unreachable(text) | Failure::Forbidden(text) | Failure::Refused(text) | Failure::Strange(text)) =
            self;
        f.write_str(text)
    }
}

pub struct Client {
    agent: Agent,
    address: Address,
    token: Option<Secret>,
    patience: Patience,
}

impl Client {
    pub fn new(address: Address, token: Option<Secret>) -> Client {
        let config = Config::builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("forebay-top/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .build();
        let agent = match &address {
            Address::Tcp(_) => Agent::with_parts(config, TcpConnector::default(), DefaultResolver::default()),
            Address::Unix(path) => Agent::with_parts(config, UnixConnector(path.clone()), NoResolver),
        };
        Client { agent, address, token, patience: PATIENCE }
    }

    pub fn status(&self) -> Result<Status, Failure> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let text = self.get("/status", self.patience.status)?;
        let form: Form = parsed(&text)?;
        if form.version != VERSION {
            let text = format!("it speaks version {} of /status, this program version {VERSION}", form.version);
            return Err(Failure::Strange(format!("{text}: use the forebay top of the same version")));
        }
        parsed(&text)
    }

    pub fn parked(&self) -> Result<Parked, Failure> {
        parsed(&self.get(&format!("/parked?limit={PARKED_MAX}"), self.patience.listing)?)
    }

    /// What it says it did. Of a failure it says so where that leaves open whether it was done.
    pub fn act(&self, action: &Action) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Done {
            done: String,
        }
        let request = self.agent.post(self.address.url(action.path())).header("Content-Type", "application/json");
        let mut request = request.config().timeout_global(Some(self.patience.action)).build();
        if let Some(Secret(token)) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.send(action.body().to_string());
        let answered = self.answer(response).map_err(|error| self.failure(&error, may_be_done(&error)))?;
        let done: Done = parsed(&self.accepted(answered)?)?;
        Ok(harmless(&done.done))
    }

    fn get(&self, path: &str, patience: Duration) -> Result<Vec<u8>, Failure> {
        let request = self.agent.get(self.address.url(path)).header("Accept", "application/json");
        let mut request = request.config().timeout_global(Some(patience)).build();
        if let Some(Secret(token)) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answered = self.answer(request.call()).map_err(|error| self.failure(&error, false))?;
        self.accepted(answered)
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Answer, ureq::Error> {
        let mut response = response?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        let location = response.headers().get("Location");
        let location = location.map(|place| String::from_utf8_lossy(place.as_bytes()).into_owned());
        Ok(Answer { code: response.status().as_u16(), location, body })
    }

    fn accepted(&self, answer: Answer) -> Result<Vec<u8>, Failure> {
        let Answer { code, location, body } = answer;
        match code {
            200 => Ok(body),
            300..=399 => Err(Failure::Refused(format!(
                "{} answers {code}: it redirects{}, and redirections are not followed (--admin ADDRESS names the forebay itself)",
                self.address,
                location.map(|place| format!(" to {}", harmless(&place))).unwrap_or_default()
            ))),
            code @ (401 | 403) => Err(Failure::Forbidden(match self.token {
                None => {
                    format!("{} wants a token ({code}): --token-file FILE names the file that holds it", self.address)
                }
                Some(_) => format!("{} does not take this token ({code})", self.address),
            })),
            code => Err(Failure::Refused(format!("{code}{}", problem(&body)))),
        }
    }

    fn failure(&self, error: &ureq::Error, may_be_done: bool) -> Failure {
        let rest = if may_be_done { "; whether it was done is not known" } else { "" };
        let text = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            ureq::Error::HostNotFound => "no such host".to_owned(),
            ureq::Error::Protocol(_) | ureq::Error::BodyExceedsLimit(_) => {
                return Failure::Strange(format!(
                    "{}: what answers is no forebay: {}{rest}",
                    self.address,
                    harmless(&error.to_string())
                ));
            }
            other => other.to_string(),
        };
        Failure::Unreachable(format!("{} does not answer: {}{rest}", self.address, harmless(&text)))
    }
}

struct Answer {
    code: u16,
    /// Where it redirects to.
    location: Option<String>,
    body: Vec<u8>,
}

/// Whether the request may have arrived: not where there was never a connection.
fn may_be_done(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed => false,
        ureq::Error::Io(error) => {
            !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::PermissionDenied)
        }
        _ => true,
    }
}

fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        Failure::Strange(format!("what answers is no forebay of this version: {}", harmless(&error.to_string())))
    })
}

/// ": title: detail" of a problem document (RFC 9457), as far as it is one.
fn problem(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        title: Option<String>,
        detail: Option<String>,
    }
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else { return String::new() };
    [problem.title, problem.detail].iter().flatten().map(|text| format!(": {}", harmless(text))).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What the failure of an order says, where nobody waits for long.
    fn failure(address: Address) -> String {
        let soon = Duration::from_millis(200);
        let patience = Patience { status: soon, listing: soon, action: soon };
        let client = Client { patience, ..Client::new(address, None) };
        let action = Action::Pause { topic: "updates".to_owned() };
        client.act(&action).expect_err("nobody answers").to_string()
    }

    #[test]
    fn an_order_without_an_answer_may_have_been_done() {
        // It takes the connection, and never reads.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::of_listener(listener.local_addr().expect("bound"));
        let said = failure(address.clone());
        assert!(said.ends_with("no answer in time; whether it was done is not known"), "{said}");
        drop(listener);
        let said = failure(address);
        assert!(said.contains("refused") && !said.contains("not known"), "nobody was told: {said}");
    }

    /// Once it said "302" and nothing else.
    #[test]
    fn a_redirection_is_told_and_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::of_listener(listener.local_addr().expect("bound"));
        let shown = address.to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).expect("a request") > 0);
            let answer = "HTTP/1.1 302 Found\r\nLocation: https://sso.example/login\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).expect("somebody listens");
        });
        let said = Client::new(address, None).status().expect_err("it is elsewhere").to_string();
        let expected = "answers 302: it redirects to https://sso.example/login, and redirections are not followed";
        assert_eq!(said, format!("{shown} {expected} (--admin ADDRESS names the forebay itself)"));
        server.join().expect("one request");
    }
}
