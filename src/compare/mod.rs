//! `forebay compare`: the same HTTP endpoint in `mode = "sync"` and in `mode = "async"`, under the same load, in turn, with the same
//! disturbances, and what an operator sees of each.

pub mod findings;
pub mod page;
