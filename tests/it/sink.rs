//! The PostgreSQL sink on a real server: whose database and topic it is, what a batch does to tables and handlers, and what
//! each kind of failure is called.

mod connecting;
mod dead_letters;
mod forward;
mod handlers;
mod parking;
mod schema;
mod tables;
