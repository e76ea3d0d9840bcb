//! The gateway: HTTP requests that write become records of Kafka, and are answered once the brokers have them. Never before: a 202 is a
//! promise. What a table could not take is refused at the door, so that it becomes no dead letter.
//!
//! In reading order: [`paths`] (which route), [`door`] (is it a record, which key, which partition; pure), [`rules`] (what the door knows: tables,
//! partitions, tenants), [`queue`] (what is on its way, and who waits for it), [`producer`], [`line`], [`sync`], [`away`] and [`under_way`] (rows that
//! requests write themselves), [`service`] (a request's way, on a listener's thread), [`alive`] (who notices that a thread ended), [`catalog`] and [`watch`] (who asks databases and brokers), [`admin`] (what the gateway says of itself), [`server`] (threads, start, end); [`check`] (the same
//! questions before anything runs).
//!
//! # Threads
//!
//! `fb-i0`, `fb-i1`, … read, check and answer, each with a listener of its own on the same port. They hand records to one idempotent
//! producer, whose answers `fb-acks` takes and hands back. `fb-tables` asks the databases, `fb-topics` the brokers; neither keeps anybody waiting.
//! `fb-s0.0` and so on write the rows of `mode = "sync"`, where there is any, and `fb-cancel` ends what takes them too long. No listener ever waits, for brokers or for databases.

pub mod admin;
pub mod alive;
pub mod away;
pub mod catalog;
pub mod check;
pub mod door;
pub mod line;
pub mod paths;
pub mod problem;
pub mod producer;
pub mod queue;
pub mod rules;
pub mod server;
pub mod service;
pub mod sync;
pub mod under_way;
pub mod watch;

#[cfg(test)]
pub mod samples;
