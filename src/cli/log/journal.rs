//! Events as entries of systemd's journal, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram each,
//! fields that are values with a length in front. `tracing-journald` speaks it, too, but sends from the thread that logs, and a
//! datagram waits for ever where the journal's queue is full; here the [`Queue`]'s thread sends.

use std::fmt::Debug;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::queue::Queue;

const SOCKET: &str = "/run/systemd/journal/socket";

/// In front of the names of an event's own fields.
const FIELD_PREFIX: &str = "FOREBAY_";

/// A value is cut there, as the journal itself cuts lines of a stream (`LineMax=`): all of them fit into a datagram then, which
/// has room for 208 kB.
const VALUE_BYTES_MAX: usize = 48 << 10;

/// Sends entries, and waits where the journal does not keep up.
///
/// # Errors
/// If nobody has the journal's socket.
pub fn sender() -> io::Result<impl FnMut(&[u8]) -> io::Result<()> + Send + 'static> {
    UnixDatagram::unbound()?.connect(SOCKET)?;
    // Not connected: a journal that is started anew may have another socket.
    let socket = UnixDatagram::unbound()?;
    Ok(move |entry: &[u8]| socket.send_to(entry, SOCKET).map(drop))
}

pub struct Journal(pub &'static Queue);

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry(Vec::with_capacity(512));
        entry.put("PRIORITY", priority(*metadata.level()));
        entry.put("SYSLOG_IDENTIFIER", "forebay");
        entry.put("TARGET", metadata.target());
        if let Some(file) = metadata.file() {
            entry.put("CODE_FILE", file);
        }
        if let Some(line) = metadata.line() {
            entry.put("CODE_LINE", &line.to_string());
        }
        event.record(&mut entry);
        self.0.push(entry.0);
    }
}

/// As syslog(3) numbers them: err, warning, info, debug.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

struct Entry(Vec<u8>);

impl Entry {
    fn put(&mut self, name: &str, value: &str) {
        let mut end = value.len().min(VALUE_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            // Names are those of this crate: letters, digits and underscores.
            name => self.put(&format!("{FIELD_PREFIX}{}", name.to_ascii_uppercase().replace('.', "_")), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = Vec::new();
        // Memory takes everything.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &String::from_utf8_lossy(&text));
    }
}
