//! forebay and what PostgreSQL bears, each at several batch sizes.

use super::Outcome;
use super::arguments::Arguments;
use super::bare::{self, Columns};
use super::catchup::{contest, forebay, from_memory, unnest};
use super::contest::{Contestant, Report};
use super::copy;
use super::workload::publish;

const BATCHES: [usize; 4] = [500, 2_000, 5_000, 20_000];

pub fn run(a: &Arguments, report: &mut Report) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let of: Vec<Arguments> = BATCHES.iter().map(|batch| a.with_batches_of(*batch)).collect();
    let columns: Vec<Vec<Vec<Columns>>> = of.iter().map(bare::columns).collect();
    let encoded: Vec<Vec<Vec<Vec<u8>>>> = columns.iter().map(|columns| copy::encoded(columns)).collect();
    let mut contestants = Vec::new();
    for ((a, columns), encoded) in of.iter().zip(&columns).zip(&encoded) {
        contestants.push(forebay(a, format!("forebay, batches of {}", a.batch), &topic));
        contestants.push(unnest(a, format!("bare UNNEST of {}", a.batch), columns));
        let run = move || from_memory(a, columns, || copy::copy(a, encoded));
        contestants.push(Contestant { name: format!("bare COPY of {}", a.batch), ours: false, run: Box::new(run) });
    }
    let title = format!("Limits: {} records, {} connections", a.records, a.workers);
    report.add(a.rounds, contest(title, contestants));
    Ok(())
}
