//! What panics say, in the log: a library's thread panics, too, where it has no descriptor left for one.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use crate::engine::thread::panic_message;

/// A panic is one line like any other, and out before its thread goes on: where it ends the process nobody else sees to that. With
/// `RUST_BACKTRACE` the line goes on with a backtrace.
///
/// `flush` waits until what was said is written.
pub fn log(flush: fn()) {
    let unlogged = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(tracing::Level::ERROR) {
            unlogged(panic);
            return;
        }
        say(panic);
        flush();
    }));
}

fn say(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let message = panic_message(panic.payload());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    tracing::error!(thread = name, place, "thread {name} panicked at {place}: {message}{backtrace}");
}
