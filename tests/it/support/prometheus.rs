//! A real Prometheus of a test's own, on a port of its own: it scrapes one address several times a second and answers queries. Gone
//! when its guard is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::services::free_ports;
use super::wait_until;

/// The name of the job in the example configuration.
const JOB: &str = "forebay";
const SCRAPE_EVERY_MS: u32 = 250;
const PATIENCE: Duration = Duration::from_secs(30);

/// A series of an answer: its labels, `__name__` among them, and its value.
pub type Sample = (BTreeMap<String, String>, f64);

pub struct Prometheus {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Prometheus {
    /// Scrapes `http://TARGET/metrics`.
    pub fn scraping(target: &str) -> Prometheus {
        Prometheus::start(target, None)
    }

    /// Likewise, and evaluates the rules of this file.
    pub fn with_rules(target: &str, rules: &Path) -> Prometheus {
        Prometheus::start(target, Some(rules))
    }

    fn start(target: &str, rules: Option<&Path>) -> Prometheus {
        let directory = tempfile::Builder::new().prefix("forebay-prometheus").tempdir().expect("a directory");
        let [port, ..] = free_ports();
        let at = directory.path();
        let rules = rules.map(|file| format!("rule_files: [{:?}]\n", file)).unwrap_or_default();
        let often = format!("{SCRAPE_EVERY_MS}ms");
        let yml = format!(
            "global: {{scrape_interval: {often}, scrape_timeout: {often}, evaluation_interval: {often}}}\n{rules}\
             scrape_configs:\n  - job_name: {JOB}\n    static_configs: [{{targets: [{target:?}]}}]\n"
        );
        fs::write(at.join("prometheus.yml"), yml).expect("its configuration");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", at.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", at.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(at)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(at.join("log")).expect("a log file"))
            .spawn()
            .expect("prometheus: bin/install-deps test");
        let mut prometheus = Prometheus { child, port, directory };
        wait_until(PATIENCE, "Prometheus to be ready", || {
            if let Some(status) = prometheus.child.try_wait().expect("its status") {
                panic!("Prometheus ended ({status}): {}", prometheus.log());
            }
            ureq::get(prometheus.url("-/ready")).call().is_ok()
        });
        prometheus
    }

    /// What a query answers now: a vector, or a scalar without labels.
    ///
    /// # Errors
    /// Prometheus' own words about a query that it does not understand.
    pub fn try_query(&self, promql: &str) -> Result<Vec<Sample>, String> {
        let answer = self.get("api/v1/query", Some(promql));
        if answer["status"] != "success" {
            return Err(answer["error"].as_str().unwrap_or("no reason").to_owned());
        }
        let value = |pair: &Value| pair[1].as_str().expect("a value").parse::<f64>().expect("a number");
        let sample = |of: &Value| {
            let labels = of["metric"].as_object().expect("labels");
            let labels = labels.iter().map(|(name, text)| (name.clone(), text.as_str().expect("text").to_owned()));
            (labels.collect(), value(&of["value"]))
        };
        Ok(match answer["data"]["resultType"].as_str() {
            Some("vector") => answer["data"]["result"].as_array().expect("a vector").iter().map(sample).collect(),
            Some("scalar") => vec![(BTreeMap::new(), value(&answer["data"]["result"]))],
            other => panic!("an answer of the kind {other:?}"),
        })
    }

    #[track_caller]
    pub fn query(&self, promql: &str) -> Vec<Sample> {
        self.try_query(promql).unwrap_or_else(|error| panic!("{promql}: {error}"))
    }

    /// The rules that it evaluates, as its API describes them.
    pub fn rules(&self) -> Vec<Value> {
        let answer = self.get("api/v1/rules", None);
        let groups = answer["data"]["groups"].as_array().expect("groups of rules");
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }

    fn get(&self, path: &str, promql: Option<&str>) -> Value {
        let request = ureq::get(self.url(path));
        let request = promql.into_iter().fold(request, |request, promql| request.query("query", promql));
        // What is wrong with a query stands in the body.
        let answer = request.config().http_status_as_error(false).build().call();
        let mut answer = answer.unwrap_or_else(|error| panic!("Prometheus: {error}: {}", self.log()));
        let text = answer.body_mut().read_to_string().expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every request with the same text, as an exporter would.
pub struct Exporter {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    pub fn of(text: &str) -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, ending) = (listener.local_addr().expect("its address"), Arc::new(AtomicBool::new(false)));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        let ends = Arc::clone(&ending);
        let serve = move || {
            while let Ok((mut stream, _)) = listener.accept()
                && !ends.load(Ordering::Relaxed)
            {
                // A request fits into one read; who hangs up before the answer asks again.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        };
        Exporter { address, ending, thread: Some(thread::spawn(serve)) }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn prometheus_scrapes_what_is_exported_and_answers() {
    let exporter = Exporter::of("# TYPE stand_in gauge\nstand_in{kind=\"a b\"} 42\nstand_in{kind=\"c\"} 0.5\n");
    let prometheus = Prometheus::scraping(&exporter.address());
    wait_until(PATIENCE, "a scrape", || !prometheus.query("stand_in").is_empty());
    let [(labels, value)] = &prometheus.query("stand_in{kind=\"a b\"}")[..] else { panic!("one series") };
    assert_eq!((labels["__name__"].as_str(), labels["job"].as_str(), *value), ("stand_in", JOB, 42.0));
    assert_eq!(labels["instance"], exporter.address());
    assert_eq!(prometheus.query("sum(stand_in) * 2")[0].1, 85.0);
    assert_eq!(prometheus.query("scalar(up)"), [(BTreeMap::new(), 1.0)]);
    assert_eq!(prometheus.query("nothing"), []);
    let error = prometheus.try_query("sum(").unwrap_err();
    assert!(error.contains("parse error"), "{error}");
}
