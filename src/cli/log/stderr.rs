//! Lines to stderr: above a bar, where one is on the screen.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::ProgressBar;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::queue::Queue;
use crate::clock::{Clock, SystemClock};

/// How often it is looked whether a stderr that does not wait has room again.
const ROOM_EVERY: Duration = Duration::from_millis(10);

/// A bar that is on the screen: lines go above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// From now on lines go above this bar, or where the cursor is.
pub fn above(bar: Option<ProgressBar>) {
    *BAR.lock() = bar;
}

/// A line at a time, as the formatter writes them.
pub struct Lines(pub &'static Queue);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Waits for whoever reads.
pub fn write(line: &[u8]) -> std::io::Result<()> {
    let bar = BAR.lock().clone();
    let write = || write_all(line);
    bar.map_or_else(write, |bar| bar.suspend(write))
}

/// Waits for room without the lock of the standard library's stderr, which others may want.
fn write_all(mut line: &[u8]) -> std::io::Result<()> {
    let stderr = std::io::stderr();
    while !line.is_empty() {
        match rustix::io::write(stderr.as_fd(), line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            // Whoever shares it wants it so.
            Err(Errno::AGAIN) => SystemClock::new().sleep(ROOM_EVERY),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
