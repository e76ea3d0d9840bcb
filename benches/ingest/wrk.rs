//! `wrk`, where there is one: a closed loop over many connections, by somebody else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Requests are made beforehand: whatever making them takes would be the server's loss. What is counted comes last, in one line.
const SCRIPT: &str = r#"
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
local requests, n = {}, 0
function init()
  local headers = { ["Content-Type"] = "application/json" }
  for id = 1, 1000 do
    local body = string.format('{"state":"s%d","note":"%s"}', id, string.rep("x", 270))
    requests[id] = wrk.format("PUT", string.format("/apps/app%d/rows/%d", number, id), headers, body)
  end
end
function request()
  n = n % 1000 + 1
  return requests[n]
end
function done(summary, latency)
  local e = summary.errors
  print(string.format("counted %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status + e.connect + e.read + e.write + e.timeout))
end
"#;

/// The script's line.
pub struct Counted {
    pub requests: u64,
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

pub fn is_there() -> bool {
    Command::new("wrk").arg("--version").output().is_ok()
}

pub fn run(address: SocketAddr, connections: usize, time: Duration) -> Counted {
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ingest.lua");
    fs::write(&script, SCRIPT).expect("writable");
    let output = Command::new("wrk")
        .args(["-t2", &format!("-c{connections}"), &format!("-d{}s", time.as_secs()), "--timeout", "30s", "-s"])
        .arg(&script)
        .arg(format!("http://{address}/"))
        .output()
        .expect("wrk");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("counted ")).unwrap_or_else(|| panic!("{output:?}"));
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
    let [requests, micros, p50, p99, errors] = numbers[..] else { panic!("{line}") };
    assert_eq!(errors, 0, "{text}");
    let rate = requests as f64 * 1e6 / micros as f64;
    Counted { requests, rate, p50: Duration::from_micros(p50), p99: Duration::from_micros(p99) }
}
