//! The connection budget: a process needs one connection for each worker and slow lane of a shard and two more, three where dead
//! letters are forwarded; a gateway whose routes write rows themselves a pool for each shard, and one more to look at its tables.
//! PostgreSQL decides how many there are.

use std::time::{Duration, Instant};

use crate::config::ingest::Ingest;
use crate::config::raw::Places;
use crate::config::{Config, Pooler};
use crate::sink::connections::{self, Connections};
use crate::sink::pool::Pool;
use crate::sink::sqlstate;
use crate::words::counted;
use crossbeam_channel::bounded;

use super::{Notes, Report};

/// How long a start waits for the databases' numbers. One that is silent may be down, and is waited for elsewhere.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// To look at tables, now and then.
pub const CATALOG: usize = 1;

/// What one process opens to so many shards of a server.
pub fn needed(shards: i64, writers: usize, besides: usize) -> i64 {
    shards * (writers + besides) as i64
}

/// Whose connections are counted: one process of each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Of whatever the configuration serves: nothing of it starts.
    All,
    /// Of a `forebay run` that is about to start.
    Run,
    /// Likewise of a `forebay ingest`.
    Ingest,
}

/// What one process opens to each shard, as a sum for people.
struct Part {
    command: &'static str,
    connections: usize,
    sum: String,
}

impl Whose {
    fn parts(self, config: &Config) -> Vec<Part> {
        let (writers, besides) = (config.engine.writers_per_shard(), config.connections_besides_writers());
        let run = Part {
            command: "run",
            connections: writers + besides,
            sum: format!("{writers} workers and slow lanes + {besides}"),
        };
        let pool = config.ingest.as_ref().map_or(0, Ingest::pooled_per_shard);
        let ingest = Part {
            command: "ingest",
            connections: pool + CATALOG,
            sum: format!("{pool} of the gateway's pool + {CATALOG}"),
        };
        let ingest = Some(ingest).filter(|_| pool > 0);
        match self {
            Whose::All => [run].into_iter().chain(ingest).collect(),
            Whose::Run => vec![run],
            Whose::Ingest => ingest.into_iter().collect(),
        }
    }
}

/// What a server has for the processes of a group, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Less what others have, and what is reserved.
    pub left: i64,
    /// `connections_share_percent` of what the server offers.
    pub share: i64,
}

impl Room {
    pub fn of(this: &Connections, percent: usize) -> Room {
        let offered = i64::from(this.max - this.reserved);
        Room { left: offered - i64::from(this.others), share: offered * percent as i64 / 100 }
    }

    /// Less what the group has already.
    fn free(&self, this: &Connections) -> i64 {
        self.left.min(self.share) - i64::from(this.group)
    }

    /// As many as there are under each of its limits, the role's included.
    pub fn all(&self, this: &Connections) -> i64 {
        self.left.min(self.share).min(this.role_max.map_or(i64::MAX, i64::from)).max(0)
    }
}

/// Whether the servers that answer at once have enough connections for a process that is about to start.
pub fn at_start(config: &Config, places: &Places, whose: Whose) -> Report {
    if whose.parts(config).is_empty() {
        return Report::default();
    }
    let (answers_in, answers) = bounded(config.shards.len());
    for (i, shard) in config.shards.iter().cloned().enumerate() {
        let (answers_in, group) = (answers_in.clone(), config.kafka.group_id.clone());
        let ask = move || {
            let asked = Pool::new(&shard, &group, "start", 1).and_then(|pool| {
                let mut client = pool.get()?;
                let connections =
                    connections::ask(&mut client, &group, "start").map_err(|error| sqlstate::failure(&error))?;
                Ok((connections, client.is_direct()))
            });
            // Nobody waits any more: the process runs.
            let _ = answers_in.send((i, asked));
        };
        if let Err(error) = std::thread::Builder::new().name("forebay-budget".into()).spawn(ask) {
            tracing::warn!("the connection budget is not checked: {error}");
        }
    }
    drop(answers_in);
    let deadline = Instant::now() + ASK_DEADLINE;
    let mut known = Vec::new();
    let mut notes = Notes::new(places);
    while let Ok((i, asked)) = answers.recv_deadline(deadline) {
        // Why another shard says nothing shows when it is worked with.
        if let Ok((connections, is_direct)) = asked {
            known.push((i, connections));
            pooler(config, i, is_direct, &mut notes);
        }
    }
    compare(config, &known.iter().map(|(i, connections)| (*i, connections)).collect::<Vec<_>>(), whose, &mut notes);
    notes.report
}

/// Whether the pooler that is declared is there. (One that is not declared lets nobody in, see `sink::bounds`.)
pub(super) fn pooler(config: &Config, index: usize, is_direct: bool, notes: &mut Notes<'_>) {
    let shard = &config.shards[index];
    match (shard.pooler, is_direct) {
        (Pooler::None, _) => {}
        (Pooler::Transaction, true) => {
            let found = "\"transaction\", and the server itself at the other end";
            let expected = "a pooler; without one \"none\" is faster, because PostgreSQL keeps prepared statements";
            notes.warning(&format!("shard[{index}].pooler"), found, expected);
        }
        (Pooler::Transaction, false) => notes.checked(format!(
            "shard {}: behind a pooler, whose limits decide how many connections there are; its role brings the time-outs along",
            shard.name
        )),
    }
}

/// Server by server, what one process needs against what is left. Behind a pooler nobody here can tell.
/// A process that is about to start comes beside those that run; otherwise it may be one of them that is looked at.
pub(super) fn compare(config: &Config, known: &[(usize, &Connections)], whose: Whose, notes: &mut Notes<'_>) {
    let needs = Needs { config, parts: whose.parts(config), starting: whose != Whose::All };
    let direct = known.iter().copied().filter(|(i, _)| config.shards[*i].pooler == Pooler::None);
    let known = &direct.collect::<Vec<_>>()[..];
    for (at, &(i, this)) in known.iter().enumerate() {
        if let Some(max) = this.database_max.map(i64::from).filter(|max| *max < needs.each()) {
            let found = format!("{} connections needed ({})", needs.each(), needs.sum());
            notes.problem(&format!("shard[{i}].dsn"), found, format!("at most {max}, the database's connection limit"));
        }
        if !known[..at].iter().any(|(_, other)| other.server == this.server) {
            let of_server = known.iter().filter(|(_, other)| other.server == this.server).map(|(i, _)| *i);
            needs.of_server(this, &of_server.collect::<Vec<_>>(), notes);
        }
    }
}

/// What processes need of each shard.
struct Needs<'c> {
    config: &'c Config,
    parts: Vec<Part>,
    starting: bool,
}

impl Needs<'_> {
    fn each(&self) -> i64 {
        self.parts.iter().map(|part| part.connections).sum::<usize>() as i64
    }

    fn sum(&self) -> String {
        self.parts.iter().map(|part| part.sum.as_str()).collect::<Vec<_>>().join(" + ")
    }

    /// `shards` are those that the server has; the first one's name is the server's.
    fn of_server(&self, this: &Connections, shards: &[usize], notes: &mut Notes<'_>) {
        let of = |i: usize| &self.config.shards[i];
        let (first, group) = (shards[0], i64::from(this.group));
        let percent = shards.iter().map(|i| of(*i).connections_share_percent).min().unwrap_or(100);
        let room @ Room { left, share } = Room::of(this, percent);
        let needed = shards.len() as i64 * self.each();
        let need = format!("{needed} ({} × ({}))", counted(shards.len() as u64, "shard"), self.sum());
        if !self.starting {
            notes.report.connections.extend(table(&of(first).name, this, &room, &self.parts, shards.len()));
        }
        let (key, share_key) = (format!("shard[{first}].dsn"), format!("shard[{first}].connections_share_percent"));
        let alone = format!("{need} connections needed");
        let beside = format!("{need} connections needed beside {group} of processes that run already");
        let limits = format!(
            "max_connections {}, {} of them reserved, {} in use by others",
            this.max, this.reserved, this.others
        );
        let share_is = format!(
            "at most {share}: {percent} % of what the server offers (max_connections {}, {} of them reserved)",
            this.max, this.reserved
        );
        if let Some(max) = this.role_max.map(i64::from).filter(|max| *max < needed) {
            notes.problem(&key, alone, format!("at most {max}, the role's connection limit"));
        } else if needed > left {
            notes.problem(&key, alone, format!("at most the {left} that are left ({limits})"));
        } else if percent < 100 && needed > share {
            notes.problem(&share_key, alone, share_is);
        } else if percent < 100 && needed + group > share {
            match self.starting {
                true => notes.problem(&share_key, beside, format!("{share_is}, in all")),
                false => notes.warning(&share_key, beside, format!("{share_is}, in all, unless one of them ends")),
            }
        } else if needed > left - group {
            notes.warning(&key, beside, format!("at most {left} in all ({limits}), unless one of them ends"));
        } else {
            let free = counted(room.free(this).max(0) as u64, "connection");
            let who = if self.parts.len() > 1 { "a process of each kind needs" } else { "a process needs" };
            notes.checked(format!("server of shard {}: {free} left, {who} {need}", of(first).name));
        }
    }
}

/// Who has how many of a server's connections now, and what a process of each kind takes; `shards` of the configuration are on it.
fn table(name: &str, this: &Connections, room: &Room, parts: &[Part], shards: usize) -> Vec<String> {
    let gateways = i64::from(this.gateways);
    let row = |count: i64, whose: String| format!("{count:>8}  {whose}");
    let mut rows = vec![
        format!("server of shard {name}"),
        row(this.max.into(), "max_connections".to_owned()),
        row(-i64::from(this.reserved), "reserved".to_owned()),
        row(-i64::from(this.others), "in use by others".to_owned()),
        row(gateways - i64::from(this.group), "in use by `run` and commands of this group".to_owned()),
        row(-gateways, "in use by gateways of this group".to_owned()),
        row(room.free(this), "left for more".to_owned()),
    ];
    let shards_of = |part: &Part| format!("({} × ({}))", counted(shards as u64, "shard"), part.sum);
    rows.extend(parts.iter().map(|part| {
        let count = (shards * part.connections) as i64;
        row(count, format!("a process of `forebay {}` {}", part.command, shards_of(part)))
    }));
    rows
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::load::parse;

    use crate::sink::connections::Server;

    use super::*;

    fn server(number: i64, connections: Connections) -> Connections {
        Connections { server: Server { system: Some(number), started: 0.0 }, ..connections }
    }

    #[track_caller]
    fn check(known: &[Connections], expectation: &[&str]) {
        check_share(known, 100, false, expectation);
    }

    /// Two shards of one server, and a gateway with this pool; what is said, and the table.
    fn said_with_pool(pool: usize, this: &Connections, whose: Whose) -> (Vec<String>, Vec<String>) {
        let text = format!(
            "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[shards]\nby = \"hash\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n\
             pk_fields = [\"x\"]\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[shard]]\nname = \"b\"\ndsn = \"host=b\"\n\
             [ingest]\npool_size = {}\n[[ingest.route]]\npath = \"/t/{{x}}\"\nmethods = [\"PUT\"]\ntopic = \"t\"\nmode = {:?}\n",
            pool.max(1),
            if pool > 0 { "sync" } else { "async" }
        );
        let loaded = parse(Path::new("f"), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
        let mut notes = Notes::new(&loaded.places);
        compare(&loaded.config, &[(0, this), (1, this)], whose, &mut notes);
        let Report { problems, warnings, checked, connections, .. } = notes.report;
        let findings = problems.iter().chain(&warnings).map(|f| f.text.clone());
        (checked.into_iter().chain(findings).collect(), connections)
    }

    #[test]
    fn a_gateway_s_pools_are_counted_where_its_routes_write_rows() {
        let this = Connections { max: 50, others: 4, group: 6, gateways: 4, ..server(1, plain()) };
        let (said, table) = said_with_pool(8, &this, Whose::All);
        let need = "32 (2 shards × (5 workers and slow lanes + 2 + 8 of the gateway's pool + 1))";
        assert_eq!(said, [format!("server of shard a: 37 connections left, a process of each kind needs {need}")]);
        let expected = [
            "server of shard a",
            "      50  max_connections",
            "      -3  reserved",
            "      -4  in use by others",
            "      -2  in use by `run` and commands of this group",
            "      -4  in use by gateways of this group",
            "      37  left for more",
            "      14  a process of `forebay run` (2 shards × (5 workers and slow lanes + 2))",
            "      18  a process of `forebay ingest` (2 shards × (8 of the gateway's pool + 1))",
        ];
        assert_eq!(table, expected);
        let (said, table) = said_with_pool(16, &this, Whose::All);
        let need = "48 (2 shards × (5 workers and slow lanes + 2 + 16 of the gateway's pool + 1)) connections needed";
        let left = "at most the 43 that are left (max_connections 50, 3 of them reserved, 4 in use by others)";
        assert_eq!(said, [format!("found {need}, expected {left}")]);
        assert_eq!(table.len(), 9, "what there is to see is seen all the more");

        // Each alone, when it starts: beside what runs.
        let run =
            "server of shard a: 37 connections left, a process needs 14 (2 shards × (5 workers and slow lanes + 2))";
        assert_eq!(said_with_pool(16, &this, Whose::Run), (vec![run.to_owned()], vec![]));
        let gateway =
            "server of shard a: 37 connections left, a process needs 34 (2 shards × (16 of the gateway's pool + 1))";
        assert_eq!(said_with_pool(16, &this, Whose::Ingest), (vec![gateway.to_owned()], vec![]));
        let (said, _) = said_with_pool(30, &this, Whose::Ingest);
        let need = "62 (2 shards × (30 of the gateway's pool + 1)) connections needed";
        assert_eq!(said, [format!("found {need}, expected {left}")]);

        // One that only looks at tables holds none.
        let (said, table) = said_with_pool(0, &this, Whose::All);
        assert_eq!((said, table.len()), (vec![run.to_owned()], 8));
    }

    #[track_caller]
    fn check_share(known: &[Connections], percent: usize, starting: bool, expectation: &[&str]) {
        let shard =
            |i| format!("[[shard]]\nname = \"s{i}\"\ndsn = \"host=h{i}\"\nconnections_share_percent = {percent}\n");
        let shards: String = (0..known.len()).map(shard).collect();
        let text = format!(
            "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[shards]\nby = \"hash\"\n[[topic]]\nname = \"t\"\n\
             table = \"t\"\n{shards}"
        );
        let loaded = parse(Path::new("f"), &text, &|_| None).expect("valid");
        let mut notes = Notes::new(&loaded.places);
        let whose = if starting { Whose::Run } else { Whose::All };
        compare(&loaded.config, &known.iter().enumerate().collect::<Vec<_>>(), whose, &mut notes);
        let report = notes.report;
        let findings = report.problems.iter().chain(&report.warnings).map(|f| format!("{}: {}", f.key, f.text));
        assert_eq!(report.checked.into_iter().chain(findings).collect::<Vec<_>>(), expectation);
    }

    fn plain() -> Connections {
        Connections {
            server: Server { system: None, started: 0.0 },
            max: 20,
            reserved: 3,
            others: 4,
            group: 0,
            gateways: 0,
            role_max: None,
            database_max: None,
        }
    }

    #[test]
    fn what_is_left_is_shared_by_the_shards_of_a_server() {
        let plain = plain();
        check(
            std::slice::from_ref(&plain),
            &["server of shard s0: 13 connections left, a process needs 7 (1 shard × (5 workers and slow lanes + 2))"],
        );
        check(
            &[server(1, plain.clone()), server(2, plain.clone())],
            &[
                "server of shard s0: 13 connections left, a process needs 7 (1 shard × (5 workers and slow lanes + 2))",
                "server of shard s1: 13 connections left, a process needs 7 (1 shard × (5 workers and slow lanes + 2))",
            ],
        );
        let full = Connections { others: 6, ..plain.clone() };
        check(
            &[full.clone(), full],
            &[
                "shard[0].dsn: found 14 (2 shards × (5 workers and slow lanes + 2)) connections needed, expected at most the 11 that are left \
             (max_connections 20, 3 of them reserved, 6 in use by others)",
            ],
        );
        check(
            &[Connections { group: 8, ..plain.clone() }],
            &[
                "shard[0].dsn: found 7 (1 shard × (5 workers and slow lanes + 2)) connections needed beside 8 of processes that run already, \
             expected at most 13 in all (max_connections 20, 3 of them reserved, 4 in use by others), unless one of them ends",
            ],
        );
        check(
            &[Connections { role_max: Some(5), ..plain.clone() }],
            &[
                "shard[0].dsn: found 7 (1 shard × (5 workers and slow lanes + 2)) connections needed, expected at most 5, the role's connection limit",
            ],
        );
        check(
            &[
                server(1, Connections { others: 2, database_max: Some(5), ..plain.clone() }),
                server(1, Connections { others: 2, ..plain }),
            ],
            &[
                "server of shard s0: 15 connections left, a process needs 14 (2 shards × (5 workers and slow lanes + 2))",
                "shard[0].dsn: found 7 connections needed (5 workers and slow lanes + 2), expected at most 5, the database's connection limit",
            ],
        );
    }

    #[test]
    fn a_share_counts_all_processes_of_the_group() {
        let server = Connections {
            server: Server { system: None, started: 0.0 },
            max: 33,
            reserved: 3,
            others: 2,
            group: 0,
            gateways: 0,
            role_max: None,
            database_max: None,
        };
        let of = |group| std::slice::from_ref(Box::leak(Box::new(Connections { group, ..server.clone() })));
        let free = |n| {
            format!(
                "server of shard s0: {n} connections left, a process needs 7 (1 shard × (5 workers and slow lanes + 2))"
            )
        };
        check_share(of(0), 40, true, &[&free(12)]);
        check_share(of(5), 40, true, &[&free(7)]);
        let beside = "shard[0].connections_share_percent: found 7 (1 shard × (5 workers and slow lanes + 2)) connections needed beside 12 of \
                      processes that run already, expected at most 12: 40 % of what the server offers (max_connections 33, 3 \
                      of them reserved), in all";
        check_share(of(12), 40, true, &[beside]);
        check_share(of(12), 40, false, &[&format!("{beside}, unless one of them ends")]);
        let alone = "shard[0].connections_share_percent: found 7 (1 shard × (5 workers and slow lanes + 2)) connections needed, expected at \
                     most 3: 10 % of what the server offers (max_connections 33, 3 of them reserved)";
        check_share(of(0), 10, false, &[alone]);
    }
}
