//! Where connections come from: TCP addresses and Unix-domain sockets.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::request::Peer;
use super::stream::Stream;

/// Connections that may wait to be accepted; the kernel may allow fewer.
const BACKLOG: i32 = 1024;
/// How long another process may take to set the same socket up.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Listens, once it is there: whoever connects waits for [`super::Server`] to accept.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix {
        /// Goes before the listener does: as long as that lives nobody else takes the name.
        _file: SocketFile,
        listener: UnixListener,
    },
}

impl Listener {
    /// With `reuse_port` several listeners of this user may have the same address, and the kernel spreads connections over them;
    /// those that wait for a listener are reset when it closes.
    pub fn tcp(address: SocketAddr, reuse_port: bool) -> io::Result<Listener> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // Without it the address could not be had for a minute after a restart.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if reuse_port {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Listener(Kind::Tcp(TcpListener::from_std(std::net::TcpListener::from(socket)))))
    }

    /// Replaces a socket file that nobody listens on; one that somebody listens on, and any other file, is an error
    /// ([`io::ErrorKind::AddrInUse`]). `mode` holds before anyone can connect. The file goes with the listener.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
        // Of two processes that find a file that is dead, the slower one would remove the other's.
        let _lock = Lock::of(path)?;
        remove_dead(path)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::of(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = StdUnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Listener(Kind::Unix { _file: file, listener: UnixListener::from_std(listener) }))
    }

    /// Where a TCP listener listens; useful with port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.0 {
            Kind::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Kind::Unix { listener, .. } => registry.register(listener, token, Interest::READABLE),
        }
    }

    pub(super) fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                // Answers are written whole; the kernel has nothing to wait for. (If it fails, they are only late.)
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
            Kind::Unix { listener, .. } => Ok((Stream::Unix(listener.accept()?.0), Peer::Unix)),
        }
    }
}

/// A socket file of ours, removed when it is dropped, unless somebody else's is there by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| found.dev() == self.device && found.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Only one process at a time sets a socket up. The lock is held on a file beside it, which nobody else may open: what others can
/// open, a directory among them, they could keep locked. The file goes with the lock.
struct Lock {
    path: PathBuf,
    _file: fs::File,
}

impl Lock {
    fn of(socket: &Path) -> io::Result<Lock> {
        let mut name = socket.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = socket.with_file_name(name);
        for _ in 0..LOCK_TRIES {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
            let file = options.open(&path)?;
            match file.try_lock() {
                // Whoever had it may have removed the file meanwhile: then it is no longer the one that others find.
                Ok(()) if is_at(&file, &path) => return Ok(Lock { path, _file: file }),
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(in_use(socket, &format!("somebody keeps {} locked", path.display())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_at(file: &fs::File, path: &Path) -> bool {
    let found = fs::symlink_metadata(path).and_then(|found| Ok((found, file.metadata()?)));
    found.is_ok_and(|(found, ours)| (found.dev(), found.ino()) == (ours.dev(), ours.ino()))
}

/// Removes a socket file that nobody listens on.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Err(in_use(path, "it is not a socket")),
        Ok(_) => {}
    }
    // Without waiting: whoever listens may accept nothing any more.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // The kernel has no place for another one who waits to be accepted.
        Ok(()) | Err(Errno::AGAIN) => Err(in_use(path, "somebody listens on it")),
        // Only a refusal says that nobody does.
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}

fn in_use(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("cannot listen on {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener as Socket, UnixStream};

    use super::*;

    fn check(prepare: impl FnOnce(&Path) -> Option<Socket>, expected: Result<(), &str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let other = prepare(&path);
        let listener = Listener::unix(&path, 0o660);
        match (&listener, expected) {
            (Ok(_), Ok(())) => {
                let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o660);
                UnixStream::connect(&path).unwrap();
            }
            (Err(error), Err(why)) => {
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                assert!(error.to_string().contains(why), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let left = || fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left(), 1, "nothing is left beside it");
        drop(listener);
        assert_eq!(left(), usize::from(expected.is_err()), "ours goes, others' stay");
        drop(other);
    }

    #[test]
    fn socket_files() {
        check(|_| None, Ok(()));
        check(|path| Socket::bind(path).map(drop).map(|()| None).unwrap(), Ok(()));
        check(|path| Some(Socket::bind(path).unwrap()), Err("somebody listens on it"));
        check(|path| fs::write(path, "data").map(|()| None).unwrap(), Err("it is not a socket"));
    }

    #[test]
    fn anothers_file_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = Listener::unix(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::unix(&path, 0o600).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn of_many_that_find_a_dead_file_one_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = &directory.path().join("s");
        for _ in 0..20 {
            drop(Socket::bind(path).unwrap());
            let listeners: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Listener::unix(path, 0o600))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let errors: Vec<_> = listeners.iter().filter_map(|listener| listener.as_ref().err()).collect();
            assert_eq!(errors.len(), 3, "{errors:?}");
            UnixStream::connect(path).unwrap();
            drop(listeners);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    /// Whoever can read the directory can lock it; and a process that was killed leaves its lock's file.
    #[test]
    fn nobody_else_can_keep_a_socket_from_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let others = fs::File::open(directory.path()).unwrap();
        others.lock().unwrap();
        fs::write(directory.path().join("s.lock"), "").unwrap();
        drop(Listener::unix(&path, 0o600).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        // The lock is nothing that others may open.
        let lock = Lock::of(&path).unwrap();
        let mode = fs::metadata(directory.path().join("s.lock")).unwrap().permissions().mode();
        drop(lock);
        assert_eq!(mode & 0o777, 0o600);
    }

    /// One that accepts nothing, with as many waiting as may.
    #[test]
    fn a_listener_that_hangs_listens_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        let (sender, ended) = std::sync::mpsc::channel();
        let wanted = path.clone();
        std::thread::spawn(move || sender.send(Listener::unix(&wanted, 0o600).map(drop)));
        let error = ended.recv_timeout(Duration::from_secs(20)).expect("it does not wait").unwrap_err();
        assert!(error.to_string().contains("somebody listens on it"), "{error}");
    }

    #[test]
    fn a_port_can_be_shared_if_all_want_that() {
        let first = Listener::tcp("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = first.local_addr().unwrap();
        Listener::tcp(address, true).unwrap();
        assert_eq!(Listener::tcp(address, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
