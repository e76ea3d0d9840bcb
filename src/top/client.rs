//! Asks a running forebay over HTTP, and tells it what to do. Every request ends after [`PATIENCE`], whatever the other side does.
//! It follows no redirection and uses no proxy: the token is for the address that was given.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::config::Config;
use ureq::http::Response;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::TcpConnector;
use ureq::{Agent, Body};

use super::action::Action;
use super::address::Address;
use super::parked::Parked;
use super::unix::{NoResolver, UnixConnector};
use crate::admin::status::{Status, VERSION};
use crate::admin::words::harmless;
use crate::config::secret::Secret;

/// For a whole request.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);

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
}

impl Client {
    pub fn new(address: Address, token: Option<Secret>) -> Client {
        let config = Config::builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("forebay-top/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(PATIENCE))
            .timeout_connect(Some(CONNECT))
            .build();
        let agent = match &address {
            Address::Tcp(_) => Agent::with_parts(config, TcpConnector::default(), DefaultResolver::default()),
            Address::Unix(path) => Agent::with_parts(config, UnixConnector(path.clone()), NoResolver),
        };
        Client { agent, address, token }
    }

    pub fn status(&self) -> Result<Status, Failure> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let text = self.get("/status")?;
        let form: Form = parsed(&text)?;
        if form.version != VERSION {
            let text = format!("it speaks version {} of /status, this program version {VERSION}", form.version);
            return Err(Failure::Strange(format!("{text}: use the forebay top of the same version")));
        }
        parsed(&text)
    }

    pub fn parked(&self) -> Result<Parked, Failure> {
        parsed(&self.get(&format!("/parked?limit={PARKED_MAX}"))?)
    }

    /// What it says it did.
    pub fn act(&self, action: &Action) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Done {
            done: String,
        }
        let mut request = self.agent.post(self.address.url(action.path())).header("Content-Type", "application/json");
        if let Some(Secret(token)) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.send(action.body().to_string());
        let done: Done = parsed(&self.answer(response)?)?;
        Ok(harmless(&done.done))
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.get(self.address.url(path)).header("Accept", "application/json");
        if let Some(Secret(token)) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answer(request.call())
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, Failure> {
        let mut response = response.map_err(|error| self.failure(&error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| self.failure(&error))?;
        match status.as_u16() {
            200 => Ok(body),
            code @ (401 | 403) => Err(Failure::Forbidden(match self.token {
                None => {
                    format!("{} wants a token ({code}): --token-file FILE names the file that holds it", self.address)
                }
                Some(_) => format!("{} does not take this token ({code})", self.address),
            })),
            code => Err(Failure::Refused(format!("{code}{}", problem(&body)))),
        }
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        let text = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            ureq::Error::HostNotFound => "no such host".to_owned(),
            ureq::Error::Protocol(_) | ureq::Error::BodyExceedsLimit(_) => {
                return Failure::Strange(format!(
                    "{}: what answers is no forebay: {}",
                    self.address,
                    harmless(&error.to_string())
                ));
            }
            other => other.to_string(),
        };
        Failure::Unreachable(format!("{} does not answer: {}", self.address, harmless(&text)))
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
