//! forebay applies the writes of Kafka topics to PostgreSQL: in order per key, in parallel across keys, exactly once in effect.
//!
//! # Bird's eye
//!
//! ```text
//! source ──► engine::poller ──► engine::worker ──► sink (PostgreSQL)
//!               │    ▲               │
//!               │    └── completions ┘
//!               └── engine::control ──► sink (takeover, stored progress)
//!
//!                   engine::slow_lane ──► sink (what is parked)
//! ```
//!
//! One *poller* thread owns the Kafka consumer, every partition's tenure and the commit. It routes a record to its shard and
//! lane and hands it, in a chunk, to the worker of that lane. A *worker* owns one connection; it writes a batch and the
//! fences of its lanes in one transaction and hands the chunks back, which say exactly what of them is durable. A *control*
//! thread per shard takes partitions over, stores progress and compares. Keys that cannot go on are *parked* in the database, by the
//! transaction that moves their fences; a *slow lane* per shard applies them, each key in order ([`engine::parked`] is what they
//! share). They talk over bounded channels, one closed enum each ([`engine::event`]).
//!
//! Others only look: a *sampler* per shard at what PostgreSQL says these wait for, one thread at where Kafka's logs end. All write
//! down what they see ([`engine::observed`]), and [`admin`] shows it, on threads of its own. Where dead letters go on to a topic, a
//! *forwarder* per shard publishes them.
//!
//! # Invariants
//!
//! - The poller never waits for a database, and never parses a payload unless routing needs a field of it.
//! - [`state`] does no IO, starts no thread, and asks no clock.
//! - A record's offset completes only after its row, or its place among the parked or dead ones, in a transaction that moved its
//!   lane's fence, is durable.
//! - Nobody overtakes a parked key: all its later records follow it, until a transaction of its lane finds nothing of it parked.
//! - Nothing is committed to Kafka that some relevant shard has not acknowledged as stored progress.
//! - Only a takeover creates or deletes fences. Whatever contradicts what a tenure believes ends that tenure; it is never adopted.
//! - No lock and no allocation per record between the source and a worker's batch.
//! - Threads are named, owned and joined; a panic in one of the engine's ends the process with exit code 70. (Those that open, close
//!   and watch connections belong to the connections, and end with them.)
//! - Nobody who looks holds up anybody who works.
//! - Nobody waits for a database without an end: not for a statement, a lock, a connection, or an answer that never comes.
//! - A shard that is away is tried by its control thread alone, until a probe works; workers and slow lanes wait for it.
//! - Nothing waits for a sampler; no failure of its own opens a breaker, and no panic of its own ends the process. Of others' queries it learns the command's name only.
//! - Nothing but the rust-postgres family may bring an async runtime in.
//!
//! # Modules, in reading order
//!
//! [`types`], [`words`] (for people), [`clock`], [`cpus`] (sets of them, cores and nodes, where threads run) and `console`; [`config`] (what the user wrote → what the engine sees); [`metrics`]; [`state`] (decisions:
//! tracker, lanes, routing, batches, parked keys, where to start); [`source`] (Kafka); [`sink`] (PostgreSQL: decode, fold, encode,
//! fences, parking); [`forward`] (dead letters on to a topic); [`engine`] (threads and loops); [`http`] (a server, which knows
//! nothing of the others); [`check`], [`fences`], [`letters`] and [`parking`] (commands on the databases); [`admin`] (what a running
//! process says of itself, and is told); [`ingest`] (the gateway: from HTTP to Kafka, another process over the same file); [`demo`], [`top`] (the same in a terminal), [`bench`] (what it takes), [`planner`] (how much of everything it needs), [`compare`] (an endpoint before and after) and [`cli`]. Each may use only those before it.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod types;

pub mod words;

pub mod clock;

pub mod cpus;

mod console;

pub mod config;

pub mod metrics;

pub mod state;

pub mod source;

pub mod sink;

pub mod forward;

pub mod engine;

pub mod http;

pub mod check;

pub mod fences;

pub mod letters;

pub mod parking;

pub mod admin;

pub mod ingest;

pub mod demo;

pub mod top;

pub mod bench;

pub mod planner;

pub mod compare;

pub mod cli;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeDoctests;
