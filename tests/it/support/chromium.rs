//! A real Chromium without a window, driven over a pipe by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/).
//! One page each; what the page complains of is kept. Nothing in here knows what the page shows.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// As distributions call it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Anything that the browser is waited for comes within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition in the page is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const FLAGS: [&str; 9] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// Dropping it ends the browser.
pub struct Chromium {
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    /// Of the page; empty until there is one.
    session: String,
    last_id: u64,
    complaints: Vec<String>,
    profile: TempDir,
}

impl Chromium {
    /// Opens a page. Panics where there is no Chromium.
    pub fn open(url: &str) -> Chromium {
        let mut chromium = Chromium::start();
        let target = chromium.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        chromium.session =
            chromium.call("Target.attachToTarget", attached)["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            chromium.call(&format!("{domain}.enable"), json!({}));
        }
        chromium.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
        chromium.resize(1280, 900);
        let opened = chromium.call("Page.navigate", json!({ "url": url }));
        assert_eq!(opened["errorText"], Value::Null, "{url}");
        chromium.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'", "the document");
        chromium
    }

    fn start() -> Chromium {
        let program = find().unwrap_or_else(|| {
            panic!("no Chromium in PATH (looked for {}): bin/install-deps test installs it", NAMES.join(", "))
        });
        let profile = tempfile::Builder::new().prefix("forebay-chromium").tempdir().expect("a directory");
        // The protocol's two pipes are file descriptors 3 and 4, which a shell can make of 0 and 1.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"]).arg(&program).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        if rustix::process::geteuid().is_root() {
            // Its sandbox does not start for root.
            command.arg("--no-sandbox");
        }
        let log = File::create(log_of(profile.path())).expect("a log file");
        let mut child = command
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a shell");
        let (commands, answers) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).expect("JSON of Chromium");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Chromium { child, commands, messages, session: String::new(), last_id: 0, complaints: Vec::new(), profile }
    }

    /// What the console, and Chromium itself, said against the page so far.
    pub fn complaints(&mut self) -> &[String] {
        // Messages come in order: those from before this call have come when it is answered.
        self.eval("0");
        &self.complaints
    }

    /// The value of an expression in the page; a promise is waited for. Panics if it throws.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let how = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", how);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str, what: &str) {
        let start = Instant::now();
        let how = json!({ "expression": format!("Boolean({expression})"), "returnByValue": true });
        // Between two documents there is nobody who could say.
        while !self.try_call("Runtime.evaluate", &how).is_ok_and(|answer| answer["result"]["value"] == true) {
            if start.elapsed() > PATIENCE {
                let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{}.png", std::process::id()));
                self.picture(&picture);
                panic!("still waiting for {what}; the page looked like {}", picture.display());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until an element shows a text.
    #[track_caller]
    pub fn wait_for_text(&mut self, selector: &str, text: &str) {
        let expression = format!("({}).includes({})", shown(selector), json!(text));
        self.wait_for(&expression, &format!("{text:?} in {selector}"));
    }

    /// What an element shows, with common spaces for all others; nothing where it is not there.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        self.eval(&shown(selector)).as_str().expect("a text").to_owned()
    }

    /// Clicks with the mouse in the middle of an element.
    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        let place = self.eval(&format!(
            "(() => {{ const one = document.querySelector({}); one.scrollIntoView({{ block: 'center', behavior: 'instant' }});
             const {{ x, y, width, height }} = one.getBoundingClientRect(); return [x + width / 2, y + height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key: "Tab", "Enter", "Escape", "ArrowLeft" or " ".
    #[track_caller]
    pub fn press(&mut self, key: &str) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Escape" => ("Escape", 27, ""),
            "ArrowLeft" => ("ArrowLeft", 37, ""),
            " " => ("Space", 32, " "),
            other => panic!("no such key here: {other}"),
        };
        for kind in [if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": code, "text": text, "windowsVirtualKeyCode": number });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Presses Tab until an element that matches has the focus.
    #[track_caller]
    pub fn tab_to(&mut self, selector: &str) {
        let matches = format!("document.activeElement.matches({})", json!(selector));
        for _ in 0..500 {
            self.press("Tab");
            if self.eval(&matches) == true {
                return;
            }
        }
        panic!("500 times Tab, and never at {selector}");
    }

    /// Types into the element that has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// "light" or "dark".
    pub fn prefer_colours(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Writes a picture of the whole page.
    pub fn picture(&mut self, file: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let png = BASE64_STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("base64");
        fs::write(file, png).expect("writing a picture");
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, &params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Calls a method of the protocol and waits for its result, or for what is wrong with it.
    #[track_caller]
    fn try_call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let pipe = self.commands.as_mut().expect("open until it is dropped");
        let sent = pipe.write_all(format!("{message}\0").as_bytes());
        assert!(sent.is_ok(), "Chromium is gone: {}", self.log());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => panic!("{method} is not answered: {}", self.log()),
                Err(RecvTimeoutError::Disconnected) => panic!("Chromium has ended: {}", self.log()),
            };
            if message["id"] == self.last_id {
                return if message["error"].is_null() {
                    Ok(message["result"].clone())
                } else {
                    Err(message["error"].clone())
                };
            }
            self.complaints.extend(complaint(&message));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(log_of(self.profile.path())).unwrap_or_default()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It ends, with all of its processes, when the pipe does.
        self.commands = None;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn log_of(profile: &Path) -> PathBuf {
    profile.join("stderr.log")
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let candidates = NAMES.iter().flat_map(|name| env::split_paths(&path).map(move |directory| directory.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

fn shown(selector: &str) -> String {
    format!("(document.querySelector({})?.innerText ?? '').replace(/[\\u00a0\\u202f]/g, ' ')", json!(selector))
}

/// What an event says against the page.
fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Runtime.consoleAPICalled" if params["type"] == "error" => Some(format!("console: {}", params["args"])),
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            Some(format!("{}: {}", params["entry"]["source"].as_str().unwrap_or_default(), params["entry"]["text"]))
        }
        _ => None,
    }
}
