//! Whose CPU a run took: PostgreSQL's (postmaster, backends, those that ended meanwhile), Kafka's, and what nobody used.
//! Where both run on this machine; elsewhere there is nothing to see.

use std::fmt;
use std::fs;
use std::ops::Sub;

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
        let postmaster = Stat::of(&backend.to_string()).map_or(0, |stat| stat.parent);
        let (mut postgres, mut kafka) = (0.0, 0.0);
        for process in fs::read_dir("/proc")?.flatten() {
            let Some(stat) = process.file_name().to_str().and_then(Stat::of) else { continue };
            if stat.pid == postmaster {
                postgres += stat.own + stat.of_ended_children;
            } else if stat.parent == postmaster {
                postgres += stat.own;
            } else if stat.name == "java" {
                kafka += stat.own;
            }
        }
        let all = fs::read_to_string("/proc/stat")?;
        let fields: Vec<f64> =
            all.lines().next().unwrap_or_default().split(' ').filter_map(|f| f.parse().ok()).collect();
        let idle = fields.get(3).unwrap_or(&0.0) + fields.get(4).unwrap_or(&0.0);
        Ok(Parts { postgres: postgres * TICK_US, kafka: kafka * TICK_US, idle: idle * TICK_US })
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

struct Stat {
    pid: i32,
    parent: i32,
    name: String,
    own: f64,
    of_ended_children: f64,
}

impl Stat {
    fn of(pid: &str) -> Option<Stat> {
        let number: i32 = pid.parse().ok()?;
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, behind) = text.rsplit_once(')')?;
        // Field 3, the state, is the first behind the name.
        let fields: Vec<f64> = behind.split(' ').skip(1).map(|f| f.parse().unwrap_or_default()).collect();
        Some(Stat {
            pid: number,
            parent: *fields.get(1)? as i32,
            name: before.split_once('(')?.1.to_owned(),
            own: fields.get(11)? + fields.get(12)?,
            of_ended_children: fields.get(13)? + fields.get(14)?,
        })
    }
}
