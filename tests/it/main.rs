//! The integration tests: one binary, one module for each area. They run against a real Kafka and two real PostgreSQL
//! clusters (`bin/services up`); a service that does not answer fails the tests that need it, none is skipped.

#![allow(clippy::unwrap_used)]

mod admin;
mod benches;
mod check;
mod cli;
mod compare_page;
mod demo;
mod dependencies;
mod deploy;
mod docs;
mod examples;
mod fences;
mod http;
mod ingest;
mod instructions;
mod kafka;
mod logs;
mod mock;
mod page;
mod plan;
mod pooler;
mod profile;
mod real;
mod scripts;
mod sim;
mod sink;
mod sqlstates;
mod statements;
mod support;
mod table;
mod top;
