//! The PostgreSQL sink on a real server: whose database and topic it is, what a batch does to tables and handlers, and what
//! each kind of failure is called.

mod connecting;
pub mod dead_letters;
mod forward;
pub mod handlers;
pub mod parking;
mod places;
pub mod sampling;
mod schema;
pub mod tables;
