//! Where threads may run, as sched_setaffinity(2) has it. A thread inherits the mask of the one that starts it, which is both
//! how librdkafka's threads get theirs and why a pinned thread must not start others without a word about it.

use std::cell::RefCell;
use std::io;
use std::thread::{Builder, JoinHandle};

use rustix::io::Errno;
use rustix::thread::{Pid, sched_setaffinity};

use super::CpuSet;

/// Where a thread runs; the default is that of whoever starts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub own: Option<CpuSet>,
    /// Those that it starts by [`spawn`].
    pub helpers: Option<CpuSet>,
}

thread_local! {
    static HELPERS: RefCell<Option<CpuSet>> = const { RefCell::new(None) };
}

impl Place {
    /// Moves the calling thread there.
    ///
    /// # Errors
    /// If none of these CPUs is there and allowed; it stays where it is.
    pub fn enter(self) -> io::Result<()> {
        HELPERS.set(self.helpers);
        self.own.map_or(Ok(()), |own| Ok(set(None, &own)?))
    }
}

/// Where the calling thread may run.
///
/// # Errors
/// What the kernel says.
pub fn allowed() -> io::Result<CpuSet> {
    let cpus = core_affinity::get_core_ids().ok_or_else(io::Error::last_os_error)?;
    Ok(cpus.into_iter().map(|cpu| cpu.id).collect())
}

/// Of a thread of this process; none: the calling one. (core_affinity knows no masks, and no other threads.)
fn set(thread: Option<Pid>, cpus: &CpuSet) -> Result<(), Errno> {
    let mut mask = rustix::thread::CpuSet::new();
    cpus.iter().for_each(|cpu| mask.set(cpu));
    sched_setaffinity(thread, &mask)
}

/// Moves the calling thread, and all that this process has by now.
///
/// # Errors
/// If none of these CPUs is there and allowed, or the process's threads cannot be seen.
pub fn confine_all(cpus: &CpuSet) -> io::Result<()> {
    // First: what it starts from now on is there already.
    set(None, cpus)?;
    for thread in std::fs::read_dir("/proc/self/task")?.flatten() {
        let number = thread.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(thread) = number.and_then(Pid::from_raw) else { continue };
        match set(Some(thread), cpus) {
            // It has ended meanwhile.
            Err(Errno::SRCH) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Does something that starts threads (librdkafka's, of a new client): they inherit `cpus`, the calling thread keeps its own.
pub fn inherited_from<T>(cpus: Option<&CpuSet>, start: impl FnOnce() -> T) -> T {
    struct Back(CpuSet);
    impl Drop for Back {
        fn drop(&mut self) {
            if let Err(error) = set(None, &self.0) {
                tracing::warn!("a thread stays where it went to start others: {error}");
            }
        }
    }
    let Some(cpus) = cpus else { return start() };
    let moved = allowed().and_then(|before| Ok(set(None, cpus).map(|()| Back(before))?));
    let _back = moved.inspect_err(|error| tracing::warn!("threads could not be pinned to CPU {cpus}: {error}"));
    start()
}

/// Starts a thread that is not to inherit the pin of the one that starts it.
///
/// # Errors
/// If no thread can be had.
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    let helpers = HELPERS.with_borrow(Clone::clone);
    Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(helpers) = helpers {
            // Where that fails it runs all the same, beside the one that started it.
            let _ = set(None, &helpers);
        }
        body()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a thread that is started there says.
    fn in_a_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(body).join().unwrap()
    }

    #[test]
    fn a_thread_is_where_it_was_put_and_its_helpers_are_where_they_belong() {
        let all = allowed().unwrap();
        let (own, helpers) = (CpuSet::of(all.first().unwrap()), CpuSet::of(all.iter().last().unwrap()));
        let place = Place { own: Some(own.clone()), helpers: Some(helpers.clone()) };
        let (found, plain, helper) = in_a_thread(|| {
            place.enter().unwrap();
            let helper = spawn("helper", || (allowed().unwrap(), std::thread::current().name() == Some("helper")));
            (allowed().unwrap(), in_a_thread(|| allowed().unwrap()), helper.unwrap().join().unwrap())
        });
        assert_eq!((found, plain), (own.clone(), own), "a thread inherits its starter's CPUs");
        assert_eq!(helper, (helpers, true));
        assert_eq!(
            in_a_thread(|| spawn("helper", || allowed().unwrap()).unwrap().join().unwrap()),
            all,
            "nobody is pinned"
        );
    }

    #[test]
    fn those_that_inherit_get_theirs_and_the_starter_keeps_its_own() {
        let all = allowed().unwrap();
        let last = CpuSet::of(all.iter().last().unwrap());
        let started = {
            let last = last.clone();
            in_a_thread(move || {
                let started = inherited_from(Some(&last), || in_a_thread(|| allowed().unwrap()));
                (started, allowed().unwrap())
            })
        };
        assert_eq!(started, (last, all.clone()));
        let nowhere = CpuSet::of(crate::cpus::CPUS_MAX - 1);
        assert_eq!(in_a_thread(move || (set(None, &nowhere).is_err(), allowed().unwrap())), (true, all.clone()));
        let nowhere = CpuSet::of(crate::cpus::CPUS_MAX - 1);
        assert_eq!(
            in_a_thread(move || inherited_from(Some(&nowhere), || allowed().unwrap())),
            all,
            "it starts all the same"
        );
    }
}
