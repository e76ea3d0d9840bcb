//! What a person may tell a running forebay to do. Nothing is sent from here.

use serde_json::{Value, json};

use crate::words::harmless;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Pause { topic: String },
    Resume { topic: String },
    Park { topic: String, whose: Whose },
    Unpark { topic: String, whose: Whose },
    LogLevel(String),
}

/// Whose records are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    Key(String),
    Tenant(String),
}

impl Whose {
    fn body(&self, topic: &str) -> Value {
        match self {
            Whose::Key(key) => json!({"topic": topic, "key": key}),
            Whose::Tenant(tenant) => json!({"topic": topic, "tenant": tenant}),
        }
    }

    fn name(&self) -> String {
        match self {
            Whose::Key(key) => format!("key {}", harmless(key)),
            Whose::Tenant(tenant) => format!("tenant {}", harmless(tenant)),
        }
    }
}

impl Action {
    pub fn path(&self) -> &'static str {
        match self {
            Action::Pause { .. } => "/pause",
            Action::Resume { .. } => "/resume",
            Action::Park { .. } => "/park",
            Action::Unpark { .. } => "/unpark",
            Action::LogLevel(_) => "/log-level",
        }
    }

    pub fn body(&self) -> Value {
        match self {
            Action::Pause { topic } | Action::Resume { topic } => json!({"topic": topic}),
            Action::Park { topic, whose } | Action::Unpark { topic, whose } => whose.body(topic),
            Action::LogLevel(level) => json!({"level": level}),
        }
    }

    /// What it comes to, before it is done.
    pub fn question(&self) -> String {
        match self {
            Action::Pause { topic } => {
                format!("Pause topic {}: fetch nothing of it until it is resumed?", harmless(topic))
            }
            Action::Resume { topic } => format!("Resume topic {}?", harmless(topic)),
            Action::Park { topic, whose } => {
                format!("Park {} of {}: keep its records back, in order?", whose.name(), harmless(topic))
            }
            Action::Unpark { topic, whose } => format!("Unpark {} of {}: let it go on?", whose.name(), harmless(topic)),
            Action::LogLevel(level) => format!("Log {}?", harmless(level)),
        }
    }
}
