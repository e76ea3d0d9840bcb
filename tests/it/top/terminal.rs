//! A pseudo-terminal with a program in it: what stands on its screen, and keys for it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::wait_until;

/// A frame takes milliseconds; a busy machine may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

struct Seen {
    screen: vt100::Parser,
    raw: Vec<u8>,
}

pub struct Terminal {
    master: Arc<OwnedFd>,
    /// Keeps what is on the terminal, and its settings, when the program has ended.
    slave: File,
    child: Child,
    seen: Arc<Mutex<Seen>>,
}

impl Terminal {
    /// Runs a program in a new terminal, as a shell would: it is the terminal's session.
    pub fn run(mut command: Command, rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
        let slave = OpenOptions::new().read(true).write(true).open(name).expect("the other end");
        tcsetwinsize(&master, size(rows, columns)).expect("a size");
        let end = || slave.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color");
        // SAFETY: two system calls, which are fine between fork and exec.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                ioctl_tiocsctty(std::io::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().expect("the program runs");
        let seen = Arc::new(Mutex::new(Seen { screen: vt100::Parser::new(rows, columns, 0), raw: Vec::new() }));
        let master = Arc::new(master);
        let (from, into) = (Arc::clone(&master), Arc::clone(&seen));
        // It ends with the test's process, or where the terminal is gone.
        thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(read @ 1..) = rustix::io::read(&from, &mut block) {
                let mut seen = into.lock().unwrap();
                seen.screen.process(&block[..read]);
                seen.raw.extend_from_slice(&block[..read]);
            }
        });
        Terminal { master, slave, child, seen }
    }

    pub fn press(&mut self, keys: &str) {
        File::from(self.master.as_fd().try_clone_to_owned().expect("a descriptor"))
            .write_all(keys.as_bytes())
            .expect("room");
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.seen.lock().unwrap().screen.screen_mut().set_size(rows, columns);
        // It sends SIGWINCH to whoever has the terminal.
        tcsetwinsize(&*self.master, size(rows, columns)).expect("a size");
    }

    pub fn signal(&mut self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).expect("a process")
    }

    pub fn screen(&self) -> String {
        self.seen.lock().unwrap().screen.screen().contents()
    }

    /// All that was ever written to it.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().raw).into_owned()
    }

    pub fn has_colours(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let screen = seen.screen.screen();
        let (rows, columns) = screen.size();
        let mut cells = (0..rows).flat_map(|row| (0..columns).filter_map(move |column| screen.cell(row, column)));
        cells.any(|cell| (cell.fgcolor(), cell.bgcolor()) != (vt100::Color::Default, vt100::Color::Default))
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |screen| screen.contains(text));
    }

    /// Panics with the screen.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let start = std::time::Instant::now();
        while !condition(&self.screen()) {
            assert!(start.elapsed() < PATIENCE, "still waiting for {what:?}:\n{}", self.screen());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Presses `q`.
    #[track_caller]
    pub fn quits(mut self) {
        self.press("q");
        self.is_given_back();
    }

    /// Somebody pressed Ctrl-Z, and it stands.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
    }

    /// It ends well, and the terminal is as it was: no alternate screen, a cursor, lines that are edited and echoed.
    #[track_caller]
    pub fn is_given_back(&mut self) {
        let status = self.gives_back();
        assert_eq!(status.code(), Some(0), "{}", self.screen());
    }

    /// The terminal is as it was; how the program ended.
    #[track_caller]
    pub fn gives_back(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(PATIENCE, "the end of the program", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        self.wait_until("the screen of before", |_| {
            let seen = self.seen.lock().unwrap();
            !seen.screen.screen().alternate_screen() && !seen.screen.screen().hide_cursor()
        });
        let modes = tcgetattr(&self.slave).expect("settings").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        assert!(self.raw().contains("\x1b[?1049h"), "it never took the screen");
        status.expect("it was waited for")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
