//! Where PostgreSQL's server programs are, and which user may run them: never root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::DemoError;

/// Overrides the search, as it does for `bin/services`.
const OVERRIDE: &str = "FOREBAY_PG_BIN";
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_ctl"];
/// The first of these that exists runs PostgreSQL when we are root; its packages create the first one.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The directory with `initdb`, `postgres` and `pg_ctl`: what the environment says, what is in PATH, the newest of the
/// distributions' own directories, what `pg_config` says.
pub fn directory() -> Result<PathBuf, DemoError> {
    if let Some(chosen) = std::env::var_os(OVERRIDE).map(PathBuf::from) {
        let text = format!("{OVERRIDE}={}: no {} there", chosen.display(), PROGRAMS.join(", "));
        return if is_complete(&chosen) { Ok(chosen) } else { Err(DemoError::Unavailable(text)) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = std::env::split_paths(&path).collect();
    candidates.extend(versioned(Path::new("/usr/lib/postgresql"), ""));
    candidates.extend(versioned(Path::new("/usr"), "pgsql-"));
    candidates.extend(asked());
    candidates.into_iter().find(|directory| is_complete(directory)).ok_or_else(|| {
        let text = format!(
            "PostgreSQL's server programs ({}) are not installed. On Debian and Ubuntu they are in the package \
             postgresql (apt-get install postgresql), on Fedora in postgresql-server; {OVERRIDE} names another directory",
            PROGRAMS.join(", ")
        );
        DemoError::Unavailable(text)
    })
}

fn is_complete(directory: &Path) -> bool {
    directory.is_absolute() && PROGRAMS.iter().all(|program| directory.join(program).is_file())
}

/// `parent/<prefix><version>/bin`, the newest first.
fn versioned(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, directory)| directory).collect()
}

fn asked() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end()))
}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Who runs PostgreSQL: `None` is ourselves; as root, which PostgreSQL refuses, somebody without privileges.
pub fn user() -> Result<Option<User>, DemoError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|e| DemoError::unavailable("/etc/passwd", e))?;
    match USERS.iter().find_map(|name| find(&users, name)) {
        Some(user) => Ok(Some(user)),
        None => Err(DemoError::Unavailable(format!(
            "PostgreSQL does not run as root, and none of the users {} exists; start the demonstration as another user",
            USERS.join(", ")
        ))),
    }
}

/// `name:password:uid:gid:…`
fn find(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (is_it && uid != 0).then(|| User { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_and_root_is_not_one() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\n# nothing\npostgresql:x:7:8::/:/bin/sh\npostgres:x:101:104:,:/:/sh\n";
        assert_eq!(find(users, "postgres"), Some(User { name: "postgres".into(), uid: 101, gid: 104 }));
        assert_eq!(find(users, "root"), None);
        assert_eq!(find(users, "nobody"), None);
    }

    #[test]
    fn the_newest_version_comes_first() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["9", "15", "common", "v16"] {
            fs::create_dir_all(parent.path().join(name).join("bin")).unwrap();
        }
        let found = versioned(parent.path(), "");
        assert_eq!(found, [parent.path().join("15/bin"), parent.path().join("9/bin")]);
        assert!(!is_complete(&found[0]), "an empty directory holds no PostgreSQL");
    }
}
