//! What the shards' anchors and fences say. Reads only.

use std::fmt;

use postgres::types::Type;

use crate::config::Config;
use crate::sink::pool::Pool;
use crate::sink::{Failure, sqlstate};

/// One partition in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub topic: String,
    pub partition: i32,
    pub lanes: i16,
    /// Where this shard began.
    pub origin: i64,
    /// Every record of this shard below it is durable.
    pub done: i64,
    /// Fences that are there; as many as lanes unless something is broken.
    pub fences: i64,
    pub fence_min: Option<i64>,
    pub fence_max: Option<i64>,
    pub taken_by: String,
    pub taken_at: String,
}

/// One shard's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFences {
    pub shard: String,
    pub answer: Result<Vec<Line>, Failure>,
}

/// Every shard's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was asked for.
    pub group: String,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub shards: Vec<ShardFences>,
}

impl Report {
    /// Whether no shard that answered knows anything of what was asked for.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().flat_map(|shard| &shard.answer).all(Vec::is_empty)
    }
}

/// $1 group; $2 topic, $3 partition: all where null.
const FENCES: &str = "\
SELECT s.topic, p.partition, p.lanes, p.origin, p.done, count(f.lane), min(f.next_offset), max(f.next_offset), p.taken_by, \
to_char(p.taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z' \
FROM forebay.source s JOIN forebay.partition p ON p.source = s.id \
LEFT JOIN forebay.fence f ON f.source = p.source AND f.partition = p.partition \
WHERE s.grp = $1 AND ($2::text IS NULL OR s.topic = $2) AND ($3::int IS NULL OR p.partition = $3) \
GROUP BY s.topic, p.source, p.partition, p.lanes, p.origin, p.done, p.taken_by, p.taken_at ORDER BY s.topic, p.partition";

/// Asks every shard, also about topics that the configuration no longer names.
pub fn show(config: &Config, topic: Option<&str>, partition: Option<i32>) -> Report {
    let group = &config.kafka.group_id;
    let ask = |shard| -> Result<Vec<Line>, Failure> {
        let mut client = Pool::new(shard, group, "fences", 1)?.get()?;
        match client.query_typed(FENCES, &[(group, Type::TEXT), (&topic, Type::TEXT), (&partition, Type::INT4)]) {
            Ok(rows) => Ok(rows.iter().map(line).collect()),
            // forebay was never here.
            Err(error) if error.code().is_some_and(|c| ["42P01", "3F000"].contains(&c.code())) => Ok(Vec::new()),
            Err(error) => Err(sqlstate::failure(&error)),
        }
    };
    let shards = config.shards.iter().map(|shard| ShardFences { shard: shard.name.clone(), answer: ask(shard) });
    Report { group: group.clone(), topic: topic.map(str::to_owned), partition, shards: shards.collect() }
}

fn line(row: &postgres::Row) -> Line {
    Line {
        topic: row.get(0),
        partition: row.get(1),
        lanes: row.get(2),
        origin: row.get(3),
        done: row.get(4),
        fences: row.get(5),
        fence_min: row.get(6),
        fence_max: row.get(7),
        taken_by: row.get(8),
        taken_at: row.get(9),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["shard", "topic", "partition", "lanes", "origin", "done", "fences", "taken at", "taken by"];
        let mut table: Vec<[String; 9]> = vec![head.map(ToOwned::to_owned)];
        for shard in &self.shards {
            let Ok(lines) = &shard.answer else { continue };
            table.extend(lines.iter().map(|line| cells(&shard.shard, line)));
        }
        let widths: Vec<usize> =
            (0..head.len()).map(|c| table.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
        if !self.is_empty() {
            for row in &table {
                let line: Vec<String> =
                    row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                writeln!(f, "{}", line.join("  ").trim_end())?;
            }
        } else {
            let partition =
                self.partition.map_or("a partition".to_owned(), |partition| format!("partition {partition}"));
            let topic = self.topic.as_ref().map(|topic| format!(" of topic {topic:?}")).unwrap_or_default();
            writeln!(f, "no shard that answers knows {partition}{topic} of group {:?}", self.group)?;
        }
        for shard in &self.shards {
            if let Err(failure) = &shard.answer {
                writeln!(f, "shard {}: {}", shard.shard, failure.reason())?;
            }
        }
        Ok(())
    }
}

fn cells(shard: &str, line: &Line) -> [String; 9] {
    let mut fences = match (line.fence_min, line.fence_max) {
        (Some(min), Some(max)) if min == max => min.to_string(),
        (Some(min), Some(max)) => format!("{min}–{max}"),
        _ => String::new(),
    };
    if line.fences != i64::from(line.lanes) {
        fences.push_str(&format!(" (only {} of {} are there!)", line.fences, line.lanes));
    }
    [
        shard.to_owned(),
        line.topic.clone(),
        line.partition.to_string(),
        line.lanes.to_string(),
        line.origin.to_string(),
        line.done.to_string(),
        fences,
        line.taken_at.clone(),
        line.taken_by.clone(),
    ]
}
