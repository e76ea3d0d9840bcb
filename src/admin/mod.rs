//! The admin interface: what a running process says of itself, to programs and to people, and what it lets itself be told.

pub mod action;
pub mod collect;
pub mod diagnosis;
pub mod exposition;
mod kept;
pub mod lines;
pub mod page;
pub mod process;
pub mod routes;
pub mod server;
pub mod status;
pub mod token;

#[cfg(test)]
pub mod samples;
