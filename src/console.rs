//! What commands say on stdout and stderr. The standard library's macros panic where nobody can be told any more: a full disk,
//! a reader that has gone. Here the text is lost, and the work goes on.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static LOST: AtomicBool = AtomicBool::new(false);

/// What is still on its way when a command says something.
static BEFORE: OnceLock<fn()> = OnceLock::new();

/// From now on `before` is called first: lines of a log on another thread keep their place in front of what is said here.
pub fn after(before: fn()) {
    let _ = BEFORE.set(before);
}

/// Writes a text to stdout; it ends with one line end.
pub fn out(text: impl Display) {
    match write(std::io::stdout(), text) {
        Ok(()) => {}
        // `| head` has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            if !LOST.swap(true, Ordering::Relaxed) {
                err(format_args!("stdout: {error}"));
            }
        }
    }
}

/// Writes a text to stderr; it ends with one line end.
pub fn err(text: impl Display) {
    // Nobody is left to be told.
    let _ = write(std::io::stderr(), text);
}

/// Whether something could not be written to stdout, although somebody reads there.
pub fn lost_output() -> bool {
    LOST.load(Ordering::Relaxed)
}

fn write(mut stream: impl Write, text: impl Display) -> std::io::Result<()> {
    let text = text.to_string();
    if let Some(before) = BEFORE.get() {
        before();
    }
    stream.write_all(format!("{}\n", text.trim_end_matches('\n')).as_bytes())?;
    stream.flush()
}
