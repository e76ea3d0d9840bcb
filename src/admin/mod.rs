//! The admin interface: what a running process says of itself, to programs and to people.

pub mod diagnosis;
pub mod status;
pub mod words;

#[cfg(test)]
pub mod samples;
