//! Whose CPU a run took: PostgreSQL's (postmaster, backends, those that ended meanwhile), Kafka's, and what nobody used.
//! Where both run on this machine; elsewhere there is nothing to see.

use std::fmt;
use std::fs;
use std::ops::Sub;

use forebay::admin::process::stat_of;
use postgres::{Client, NoTls};

use super::Outcome;

/// CPU time in µs since the machine's start.
#[derive(Clone, Copy)]
pub struct Parts {
    postgres: f64,
    kafka: f64,
    idle: f64,
}

/// proc(5) counts in ticks of 10 ms.
const TICK_US: f64 = 10_000.0;

impl Parts {
    pub fn now(dsn: &str) -> Outcome<Parts> {
        let backend: i32 = Client::connect(dsn, NoTls)?.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let postmaster = stat_of(backend as u32).map_or(0, |stat| stat.parent);
        let (mut postgres, mut kafka) = (0.0, 0.0);
        for process in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(stat) = stat_of(pid) else { continue };
            if pid == postmaster {
                postgres += stat.cpu_seconds + stat.waited_for_seconds;
            } else if stat.parent == postmaster {
                postgres += stat.cpu_seconds;
            } else if fs::read_to_string(process.path().join("comm")).is_ok_and(|name| name.trim_end() == "java") {
                kafka += stat.cpu_seconds;
            }
        }
        let all = fs::read_to_string("/proc/stat")?;
        let fields: Vec<f64> =
            all.lines().next().unwrap_or_default().split(' ').filter_map(|f| f.parse().ok()).collect();
        let idle = fields.get(3).unwrap_or(&0.0) + fields.get(4).unwrap_or(&0.0);
        Ok(Parts { postgres: postgres * 1e6, kafka: kafka * 1e6, idle: idle * TICK_US })
    }

    pub fn postgres(&self) -> f64 {
        self.postgres
    }

    pub fn each(self, records: f64) -> Parts {
        Parts { postgres: self.postgres / records, kafka: self.kafka / records, idle: self.idle / records }
    }
}

impl Sub for Parts {
    type Output = Parts;

    fn sub(self, before: Parts) -> Parts {
        Parts {
            postgres: self.postgres - before.postgres,
            kafka: self.kafka - before.kafka,
            idle: self.idle - before.idle,
        }
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {:.2}, Kafka {:.2}, unused {:.2} µs/row", self.postgres, self.kafka, self.idle)
    }
}
