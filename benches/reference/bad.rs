//! Records that cannot be applied, among those of the reference job: what finding them costs.

use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::rounds::{Rounds, load};
use super::workload::{self, publish_as};

/// Which records are bad, and why.
struct Kind {
    name: &'static str,
    /// One in so many; 0 for none.
    every: u64,
    /// What stands where a number of sessions should.
    sessions: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { name: "none", every: 0, sessions: "" },
    Kind { name: "refused, 1 in 10,000", every: 10_000, sessions: "-1" },
    Kind { name: "refused, 1 in 1,000", every: 1_000, sessions: "-1" },
    Kind { name: "not decoded, 1 in 1,000", every: 1_000, sessions: "\"many\"" },
];

impl Kind {
    fn payload(&self, n: u64, a: &Arguments) -> String {
        let good = workload::payload(n, a);
        // Not the same place in every batch.
        if self.every == 0 || n % self.every != n / self.every % self.every {
            return good;
        }
        good.replace(&format!("\"sessions\":{}", n % 1000), &format!("\"sessions\":{}", self.sessions))
    }

    fn bad(&self, a: &Arguments) -> i64 {
        (0..a.records).filter(|n| self.payload(*n, a) != workload::payload(*n, a)).count() as i64
    }
}

pub fn bad(a: &Arguments) -> Outcome<()> {
    let mut topics = Vec::new();
    for (number, kind) in KINDS.iter().enumerate() {
        topics.push(match kind.every {
            0 => workload::publish(a, a.records)?,
            _ => publish_as(a, a.records, &format!("-bad{number}"), |n| kind.payload(n, a))?,
        });
    }
    let mut ratios: [Rounds; KINDS.len()] = Default::default();
    for round in 1..=a.rounds {
        let mut none = f64::NAN;
        for ((kind, topic), ratios) in KINDS.iter().zip(&topics).zip(&mut ratios) {
            let load = load();
            let job = Job { target: Target::Checked, topic, records: a.records, affinity: &a.affinity };
            let run = engine::run(a, &job)?;
            if kind.every == 0 {
                none = run.rate;
            }
            let (letters, bad) = (take_letters(a)?, kind.bad(a));
            // What a later record of its batch overwrites as a whole never reaches PostgreSQL.
            if letters > bad || letters * 10 < bad * 9 {
                return Err(format!("{letters} dead letters of {bad} bad records").into());
            }
            let ratio = run.rate / none;
            println!(
                "round {round}  {:<24} {run}   {letters} dead letters of {bad} bad records   ratio {ratio:.3}   {load}",
                kind.name
            );
            ratios.push(ratio);
        }
    }
    for (kind, ratios) in KINDS.iter().zip(&ratios) {
        println!("bad: {:<24} {ratios:.3} of none", kind.name);
    }
    Ok(())
}

fn take_letters(a: &Arguments) -> Outcome<i64> {
    let mut client = Client::connect(&a.dsn, NoTls)?;
    Ok(client.execute("DELETE FROM forebay.dead_letter", &[])? as i64)
}
