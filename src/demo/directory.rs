//! The demonstration's directory: where it is made, and how those of demonstrations that were killed go away. It never touches
//! a directory whose maker or whose PostgreSQL still runs, and none that was made to be kept.

use std::fs::{self, DirBuilder, DirEntry, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::console;
use crate::demo::DemoError;
use crate::demo::binaries::User;

/// What a socket's address holds (unix(7)), without the byte that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What PostgreSQL appends.
const SOCKET: &str = "/.s.PGSQL.5432";
/// The maker's process id and eight hexadecimal digits follow.
const PREFIX: &str = "forebay-demo-";
const PREFIX_KEPT: &str = "forebay-kept-";
const FALLBACK: &str = "/tmp";

/// A directory that only its user (and root) can enter. Nothing removes it by itself.
pub struct Directory {
    path: PathBuf,
    /// Held as long as this process lives, and seen from other PID namespaces, too; a file system may have no locks.
    _lock: Option<File>,
}

impl Directory {
    /// An empty one that belongs to PostgreSQL's user. With `keep` no later demonstration takes it for a dead one's.
    pub fn create(user: Option<&User>, keep: bool) -> Result<Directory, DemoError> {
        let temporary = std::env::temp_dir();
        let name =
            format!("{}{}-{:08x}", if keep { PREFIX_KEPT } else { PREFIX }, std::process::id(), fastrand::u32(..));
        let base = if fits(&temporary.join(&name)) { &temporary } else { Path::new(FALLBACK) };
        remove_dead(base, &[Some(geteuid().as_raw()), user.map(|user| user.uid)]);
        let path = base.join(name);
        let failed = |error: io::Error| {
            let chosen = if base == FALLBACK { "" } else { ", which TMPDIR names" };
            DemoError::unavailable(&format!("no directory can be made in {}{chosen}", base.display()), error)
        };
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let lock = File::open(&path).ok().filter(|directory| directory.try_lock().is_ok());
        if let Some(user) = user {
            chown(&path, Some(user.uid), Some(user.gid)).map_err(failed)?;
        }
        Ok(Directory { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether the path can go, as it is, into connection strings, commands to copy, and a socket's address.
fn fits(path: &Path) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let text = path.to_str().unwrap_or_default();
    path.is_absolute() && text.len() + SOCKET.len() <= SOCKET_PATH_BYTES_MAX && text.chars().all(plain)
}

/// Removes what demonstrations of these users left in `base` when they were killed.
fn remove_dead(base: &Path, users: &[Option<u32>]) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(_lock) = locked_if_dead(&entry, users) else { continue };
        match fs::remove_dir_all(&path) {
            Ok(()) => console::err(format_args!("removed {}, which a killed demonstration left", path.display())),
            Err(error) => console::err(format_args!("{} stays behind: {error}", path.display())),
        }
    }
}

/// The lock on a directory that is a dead demonstration's; where there is any doubt, nothing.
fn locked_if_dead(entry: &DirEntry, users: &[Option<u32>]) -> Option<File> {
    let maker = maker(entry.file_name().to_str()?)?;
    // Of the entry itself: a symbolic link is no directory.
    let metadata = entry.metadata().ok()?;
    if !metadata.is_dir() || !users.contains(&Some(metadata.uid())) || runs(maker) {
        return None;
    }
    let lock = File::open(entry.path()).ok()?;
    lock.try_lock().ok()?;
    // Whoever was quicker may have removed it.
    let same = fs::symlink_metadata(entry.path()).is_ok_and(|now| now.ino() == metadata.ino());
    // Its PostgreSQL is told to stop when its maker dies, and may need a moment.
    let server = fs::read_to_string(entry.path().join("data/postmaster.pid")).unwrap_or_default();
    let server = server.lines().next().and_then(process);
    (same && !server.is_some_and(runs)).then_some(lock)
}

fn maker(name: &str) -> Option<Pid> {
    let (pid, random) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let random = random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    if random { process(pid) } else { None }
}

fn process(digits: &str) -> Option<Pid> {
    Pid::from_raw(digits.parse().ok().filter(|pid| *pid > 0)?)
}

/// A process of somebody else runs, too.
fn runs(process: Pid) -> bool {
    test_kill_process(process) != Err(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn names_of_makers() {
        assert_eq!(maker("forebay-demo-12-0123abcd"), Pid::from_raw(12));
        for other in [
            "forebay-kept-12-0123abcd",
            "forebay-demo-12",
            "forebay-demo-0-0123abcd",
            "forebay-demo--1-0123abcd",
            "forebay-demo-12-0123abcd.old",
            "forebay-demo-12-0123abc-",
        ] {
            assert_eq!(maker(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_fits_into_a_sockets_address() {
        let name = "forebay-demo-4194304-0123abcd";
        let base = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1))).join(name);
        let longest = SOCKET_PATH_BYTES_MAX - SOCKET.len() - name.len() - 1;
        assert!(fits(&base(longest)) && !fits(&base(longest + 1)));
        for other in ["tmp", "/with space", "/with'quote", "/ä"] {
            assert!(!fits(&Path::new(other).join(name)), "{other}");
        }
    }

    #[test]
    fn only_what_the_dead_left_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let (dead, alive) = (child.id(), std::process::id());
        child.wait().unwrap();
        let made = |name: String, server: Option<u32>| {
            let path = base.path().join(name);
            fs::create_dir_all(path.join("data")).unwrap();
            if let Some(pid) = server {
                fs::write(path.join("data/postmaster.pid"), format!("{pid}\n/data\n")).unwrap();
            }
            path
        };
        let left =
            [made(format!("{PREFIX}{dead}-00000000"), None), made(format!("{PREFIX}{dead}-00000001"), Some(dead))];
        let locked = made(format!("{PREFIX}{dead}-00000002"), None);
        let lock = File::open(&locked).unwrap();
        lock.try_lock().unwrap();
        let stay = [
            locked,
            made(format!("{PREFIX}{dead}-00000003"), Some(alive)),
            made(format!("{PREFIX}{alive}-00000004"), None),
            made(format!("{PREFIX_KEPT}{dead}-00000005"), None),
            made("elsewhere".to_owned(), None),
        ];
        let link = base.path().join(format!("{PREFIX}{dead}-00000006"));
        std::os::unix::fs::symlink(&stay[4], &link).unwrap();
        let me = geteuid().as_raw();
        remove_dead(base.path(), &[Some(me + 1), None]);
        assert!(left.iter().all(|path| path.exists()), "somebody else's");
        remove_dead(base.path(), &[None, Some(me)]);
        assert!(!left.iter().any(|path| path.exists()));
        for path in stay {
            assert!(path.join("data").exists(), "{}", path.display());
        }
        assert!(link.is_symlink());
    }
}
