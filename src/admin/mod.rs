//! The admin interface: what a running process says of itself, to programs and to people.

pub mod page;
pub mod status;
