//! A server in place of the admin interface: it serves the page and whatever state a test gives it, and keeps what it was
//! asked to do. Of a POST it demands what the admin interface demands.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use forebay::admin::page;
use forebay::admin::status::Status;
use serde_json::{Value, json};

/// What it says now.
pub struct State {
    pub status: Status,
    /// Of `GET /parked` and `GET /dead-letters`.
    pub parked: Value,
    pub letters: Value,
    pub token: Option<String>,
    /// It takes requests and answers none.
    pub is_silent: bool,
    /// It takes POSTs and answers them later.
    pub holds_posts: bool,
    /// In place of doing what a POST wants: status, title and detail.
    pub problem: Option<(u16, &'static str, &'static str)>,
    /// Path and body of each POST that was done, or would have been.
    pub posts: Vec<(String, Value)>,
}

pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl StandIn {
    pub fn start(status: Status, parked: Value, letters: Value) -> StandIn {
        let state = State {
            status,
            parked,
            letters,
            token: None,
            is_silent: false,
            holds_posts: false,
            problem: None,
            posts: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // Of a browser that hangs up there is nothing to say.
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        StandIn { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Changes what it says.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.lock());
        self.shared.changed.notify_all();
        result
    }

    pub fn posts(&self) -> Vec<(String, Value)> {
        self.shared.lock().posts.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it changes the state")
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_while(self.lock(), |state| condition(state))
            .expect("no test panics while it changes the state")
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

struct Response {
    status: u16,
    kind: &'static str,
    more: String,
    body: Vec<u8>,
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let request = read(stream)?;
    let Response { status, kind, more, body } = answer(&request, shared);
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, path, headers, body })
}

fn answer(request: &Request, shared: &Shared) -> Response {
    let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
    let state = shared.wait_while(|state| state.is_silent);
    if request.path == "/" {
        let (body, policy) = page::document();
        let more = format!("Content-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\n");
        return Response { status: 200, kind: "text/html; charset=utf-8", more, body: body.to_vec() };
    }
    if state.token.as_ref().is_some_and(|token| header("authorization") != format!("Bearer {token}")) {
        return problem(401, "Unauthorized", "the token is wrong or missing");
    }
    match (request.method.as_str(), request.path.split('?').next().unwrap_or_default()) {
        ("GET", "/status") => ok(&as_of_now(&state.status)),
        ("GET", "/parked") => ok(&state.parked),
        ("GET", "/dead-letters") => ok(&state.letters),
        ("POST", path) => {
            if header("content-type") != "application/json" {
                return problem(415, "Unsupported Media Type", "only application/json");
            }
            if header("origin") != format!("http://{}", header("host")) {
                return problem(403, "Forbidden", "another page's request");
            }
            drop(state);
            post(path, &request.body, shared)
        }
        _ => problem(404, "Not Found", "no such path"),
    }
}

fn post(path: &str, body: &[u8], shared: &Shared) -> Response {
    let body: Value = serde_json::from_slice(body).expect("JSON of the page");
    shared.lock().posts.push((path.to_owned(), body));
    let state = shared.wait_while(|state| state.holds_posts);
    match state.problem {
        Some((status, title, detail)) => problem(status, title, detail),
        None => ok(&json!({ "done": format!("{} is done", path.trim_start_matches('/')) })),
    }
}

/// The page tells answers apart by the moment that they are of.
fn as_of_now(status: &Status) -> Status {
    let mut status = status.clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now = i64::try_from(now).expect("within millions of years");
    status.process.started_at_ms += now - status.process.now_ms;
    status.process.now_ms = now;
    status
}

fn ok(body: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("JSON");
    Response { status: 200, kind: "application/json", more: String::new(), body }
}

fn problem(status: u16, title: &str, detail: &str) -> Response {
    let body = serde_json::to_vec(&json!({ "title": title, "status": status, "detail": detail })).expect("JSON");
    Response { status, kind: "application/problem+json", more: String::new(), body }
}
