//! The admin interface: what a running process says of itself, to programs and to people.

pub mod collect;
pub mod exposition;
pub mod process;
pub mod status;
