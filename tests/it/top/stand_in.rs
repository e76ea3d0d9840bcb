//! A stand-in for the admin interface of a running forebay: it says what a test wants, and remembers what it was told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::status::Status;

/// What `/parked` says.
const PARKED: &str = r#"{"entries": [{"kind": "key", "shard": "b", "topic": "updates", "partition": 3, "key": "a1:s9",
    "records": 12, "offset": 7, "age_s": 7200, "reason": "blocked", "held": false, "dead_letter": false, "attempts": 4,
    "sqlstate": "55P03", "error": "lock timeout"}], "failed": []}"#;

#[derive(Default)]
struct Said {
    status: String,
    token: Option<String>,
    refuses: bool,
    actions: Vec<String>,
    stopped: bool,
    /// It takes requests whose first line begins so, and does not answer them.
    holds: Option<&'static str>,
}

enum Place {
    Tcp(String),
    Unix(PathBuf),
}

pub struct StandIn {
    place: Place,
    said: Arc<Mutex<Said>>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    pub fn start(status: Status) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let place = Place::Tcp(listener.local_addr().expect("bound").to_string());
        let mut server = StandIn { place, said: Arc::default(), thread: None };
        server.says(status);
        server.serve(move || listener.accept().expect("a connection").0);
        server
    }

    pub fn start_with_token(status: Status, token: &str) -> StandIn {
        let server = StandIn::start(status);
        server.said.lock().unwrap().token = Some(format!("Bearer {token}"));
        server
    }

    pub fn start_unix(status: Status, path: &Path) -> StandIn {
        let listener = UnixListener::bind(path).expect("a socket");
        let mut server = StandIn { place: Place::Unix(path.to_owned()), said: Arc::default(), thread: None };
        server.says(status);
        server.serve(move || listener.accept().expect("a connection").0);
        server
    }

    fn serve<S: Read + Write + Send + 'static>(&mut self, accept: impl Fn() -> S + Send + 'static) {
        let said = Arc::clone(&self.said);
        let serve = move || {
            loop {
                let stream = accept();
                if said.lock().unwrap().stopped {
                    return;
                }
                let said = Arc::clone(&said);
                thread::spawn(move || answer(stream, &said));
            }
        };
        self.thread = Some(thread::spawn(serve));
    }

    /// As `--admin` takes it.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Tcp(address) => address.clone(),
            Place::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    pub fn says(&self, status: Status) {
        self.speaks(&serde_json::to_string(&status).expect("JSON"));
    }

    pub fn speaks(&self, text: &str) {
        self.said.lock().unwrap().status = text.to_owned();
    }

    /// From now on it never answers what begins so.
    pub fn holds(&self, request: &'static str) {
        self.said.lock().unwrap().holds = Some(request);
    }

    pub fn refuses(&self, refuses: bool) {
        self.said.lock().unwrap().refuses = refuses;
    }

    /// What it was told, as `path body`.
    pub fn actions(&self) -> Vec<String> {
        self.said.lock().unwrap().actions.clone()
    }

    pub fn stop(&mut self) {
        self.said.lock().unwrap().stopped = true;
        // Wakes it up.
        match &self.place {
            Place::Tcp(address) => drop(TcpStream::connect(address)),
            Place::Unix(path) => drop(UnixStream::connect(path)),
        }
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it answered without a panic");
        }
    }

    /// At the same address.
    pub fn again(&mut self) {
        let Place::Tcp(address) = &self.place else { panic!("only of TCP") };
        let listener = TcpListener::bind(address).expect("the same port");
        self.said.lock().unwrap().stopped = false;
        self.serve(move || listener.accept().expect("a connection").0);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// Reads a request and answers it; whoever sends none is left.
fn answer(mut stream: impl Read + Write, said: &Mutex<Said>) {
    let mut request = Vec::new();
    let mut block = [0; 4096];
    let (head, path, token, length) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Request::new(&mut headers);
        if let Ok(httparse::Status::Complete(head)) = parsed.parse(&request) {
            let path = format!("{} {}", parsed.method.expect("parsed"), parsed.path.expect("parsed"));
            let header = |name: &str| {
                let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                found.map(|header| String::from_utf8_lossy(header.value).into_owned())
            };
            let json = header("content-type").as_deref() == Some("application/json");
            assert!(json || path.starts_with("GET "), "a POST without its type");
            let length = header("content-length").map_or(0, |length| length.parse::<usize>().expect("a number"));
            break (head, path, header("authorization"), length);
        }
        match stream.read(&mut block) {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&block[..read]),
        }
    };
    while request.len() < head + length {
        match stream.read(&mut block) {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&block[..read]),
        }
    }
    let body = String::from_utf8(request[head..].to_vec()).expect("UTF-8");
    let mut said = said.lock().unwrap();
    if said.holds.is_some_and(|held| path.starts_with(held)) {
        said.actions.push(format!("{path} is held"));
        drop(said);
        // Until whoever asked has had enough.
        let _ = stream.read(&mut block);
        return;
    }
    let (status, kind, text) = match path.as_str() {
        _ if said.token.is_some() && said.token != token => ("401 Unauthorized", "text/plain", "no".to_owned()),
        "GET /status" => ("200 OK", "application/json", said.status.clone()),
        path if path.starts_with("GET /parked?") => ("200 OK", "application/json", PARKED.to_owned()),
        path if path.starts_with("POST ") => {
            said.actions.push(format!("{} {body}", &path["POST ".len()..]));
            match said.refuses {
                false => ("200 OK", "application/json", r#"{"done": "it was done"}"#.to_owned()),
                true => {
                    let problem = r#"{"title": "It cannot be", "status": 422, "detail": "for a reason\u001b[2J"}"#;
                    ("422 Unprocessable Content", "application/problem+json", problem.to_owned())
                }
            }
        }
        _ => ("404 Not Found", "text/plain", String::new()),
    };
    let length = text.len();
    // Whoever asked may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    );
}
