//! The fakes against the semantics of the verified statements.
