//! What `bin/install-deps` finds out about a machine, on machines made for it: a directory of fake programs stands first in
//! PATH. A machine that has everything, as those of developers do, never comes by there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `apt-cache policy` writes for a package that can be had; behind what is looked for comes more than a pipe holds.
const APT_CACHE: &str = r#"#!/bin/bash
[[ $LC_ALL == C ]] && word=Candidate || word=Kandidat
case $2 in
here | openjdk-21-jre-headless) found=1.2-3 ;;
*) found='(none)' ;;
esac
printf '%s:\n  Installed: (none)\n  %s: %s\n  Version table:\n' "$2" "$word" "$found"
for ((line = 0; line < 5000; line++)); do printf '     %d 500 http://mirror.example/debian\n' "$line" || exit 141; done
"#;

/// Knows packages only once its lists were fetched, as on a fresh machine; writes down what it is asked.
const APT_GET: &str = r#"#!/bin/bash
printf 'apt-get %s\n' "$*" >>"${0%/*}/said"
case $1 in
update) touch "${0%/*}/updated" ;;
install) touch "${0%/*}/installed" ;;
esac
"#;
const APT_CACHE_AFTER_UPDATE: &str = r#"#!/bin/bash
[[ -e ${0%/*}/updated ]] && found=1.27 || found='(none)'
printf '%s:\n  Installed: (none)\n  Candidate: %s\n' "$2" "$found"
"#;
/// Everything but Rust is there, and Rust once packages were installed; nobody's password is asked.
const WITHOUT_RUST: &str = r#"
home=${FAKES:?}
have() { case $1 in cargo | rustup) [[ -e $home/installed ]] ;; *) true ;; esac; }
has_library() { true; }
can_be_root() { true; }
as_root() { "$@"; }
exec 2>>"$home/said"
"#;

struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, programs: &[(&str, &str)]) -> Machine {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scripts-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for programs");
        for (program, text) in programs {
            let path = directory.join(program);
            fs::write(&path, text).expect("a program");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program's mode");
        }
        Machine(directory)
    }

    /// What `apt-get` was asked, and what was written to stderr since [`WITHOUT_RUST`], in order.
    fn said(&self) -> String {
        fs::read_to_string(self.0.join("said")).unwrap_or_default()
    }

    /// What bash prints, or its exit status.
    fn bash(&self, line: &str) -> Result<String, i32> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bin/install-deps");
        let output = Command::new("bash")
            .args(["-c", &format!("source {}; {line}", script.display())])
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.display()))
            .env("FAKES", &self.0)
            .env("LC_ALL", "de_DE.UTF-8")
            .env_remove("JAVA_HOME")
            .output()
            .expect("bash runs");
        match output.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            other => Err(other.unwrap_or(-1)),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_package_that_can_be_had_is_told_from_one_that_cannot() {
    let machine = Machine::new("apt", &[("apt-cache", APT_CACHE)]);
    assert_eq!(machine.bash("has_candidate here && echo yes"), Ok("yes".into()));
    assert_eq!(machine.bash("has_candidate rustup"), Err(1));
    assert_eq!(machine.bash("java_package jre"), Ok("openjdk-21-jre-headless".into()));
    // None can be had: the oldest that will do is asked for.
    assert_eq!(machine.bash("java_package jdk"), Ok("openjdk-17-jdk-headless".into()));
}

#[test]
fn java_is_found_behind_what_else_it_says() {
    let says = |version: &str| {
        format!(
            "#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS: -Dwith=\"99\"' >&2\n\
             echo 'openjdk version \"{version}\" 2025-04-15' >&2\necho 'OpenJDK Runtime Environment (build 1)' >&2\n"
        )
    };
    let found = |version: &str| {
        let machine = Machine::new(&format!("java-{version}"), &[("java", &says(version))]);
        machine.bash("java_bin").map(|path| path == machine.0.join("java").display().to_string())
    };
    assert_eq!(found("21.0.1"), Ok(true));
    // Too old: another of this machine, if there is one, is taken instead.
    assert_ne!(found("1.8.0_402"), Ok(true));
}

/// It says its version in other words than a runtime does.
#[test]
fn a_java_compiler_is_found() {
    let found = |version: &str| {
        let javac = format!("#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS: -Da=\"99\"' >&2\necho 'javac {version}'\n");
        let machine = Machine::new(&format!("javac-{version}"), &[("javac", &javac)]);
        machine.bash("javac_bin").map(|path| path == machine.0.join("javac").display().to_string())
    };
    assert_eq!(found("21.0.1"), Ok(true));
    assert_ne!(found("1.8.0_402"), Ok(true));
}

#[test]
fn benchmarks_want_a_compiler_beside_the_runtime() {
    let missing = |javac: &str| {
        let machine = Machine::new("jdk", &[("apt-cache", APT_CACHE)]);
        machine.bash(&format!(
            "have() {{ true; }}; pg_bin() {{ true; }}; has_library() {{ true; }}; java_bin() {{ true; }}; javac_bin() {{ {javac}; }}
             WHAT=bench; find_missing_packages; echo \"${{MISSING[*]}}\""
        ))
    };
    assert_eq!(missing("true"), Ok(String::new()));
    assert_eq!(missing("false"), Ok("openjdk-17-jdk-headless".into()));
}

#[test]
fn rust_is_looked_up_in_fresh_lists_although_nothing_else_is_missing() {
    let (rustup, cargo) = ("#!/bin/sh\nexit 0\n", "#!/bin/sh\necho 'cargo 99.0.0 (0 2099-01-01)'\n");
    let fakes = [("apt-get", APT_GET), ("apt-cache", APT_CACHE_AFTER_UPDATE), ("rustup", rustup), ("cargo", cargo)];
    let machine = Machine::new("rust", &fakes);
    let ended = machine.bash(&format!("{WITHOUT_RUST}\nmain build"));
    let said = machine.said();
    assert_eq!(ended, Ok(String::new()), "{said}");
    let asked: Vec<&str> = said.lines().filter(|line| line.starts_with("apt-get")).collect();
    assert!(matches!(asked[..], ["apt-get update -q", install] if install.ends_with(" rustup")), "{said}");
}

#[test]
fn nothing_is_installed_where_rust_cannot_be_had() {
    let machine = Machine::new("no-rust", &[("apt-get", APT_GET), ("apt-cache", APT_CACHE)]);
    // Something else is missing, too.
    let ended = machine.bash(&format!("{WITHOUT_RUST}\nhas_library() {{ false; }}\nmain build"));
    let said = machine.said();
    assert_eq!(ended, Err(1), "{said}");
    assert!(said.contains("apt-get update") && !said.contains("apt-get install -q"), "{said}");
    assert!(said.contains("forebay needs Rust") && said.contains("https://rustup.rs"), "{said}");
}

#[test]
fn what_is_missing_is_said_rust_included() {
    let machine = Machine::new("dry", &[("apt-get", APT_GET), ("apt-cache", APT_CACHE)]);
    let ended = machine.bash(&format!("{WITHOUT_RUST}\nhas_library() {{ false; }}\nmain build --dry-run"));
    let said = machine.said();
    assert_eq!(ended, Err(1), "{said}");
    assert!(said.contains("missing packages: libssl-dev zlib1g-dev\n"), "{said}");
    assert!(said.contains("forebay needs Rust") && said.contains("https://rustup.rs"), "{said}");

    // One of the packages is rustup.
    let machine = Machine::new("dry-rustup", &[("apt-cache", &APT_CACHE.replace("here |", "rustup |"))]);
    let ended = machine.bash(&format!("{WITHOUT_RUST}\nmain build --dry-run"));
    let said = machine.said();
    assert_eq!(ended, Err(1), "{said}");
    assert!(said.contains("missing packages: rustup\n") && !said.contains("forebay needs Rust"), "{said}");
}

/// Kafka needs Java and Maven; what only tests need stays away.
#[test]
fn services_need_less_than_tests() {
    let machine = Machine::new("services", &[]);
    let missing = |what: &str| {
        machine.bash(&format!(
            "have() {{ case $1 in cargo | cc | c++ | make | pkg-config) true ;; *) false ;; esac; }}
             java_bin() {{ false; }}; java_package() {{ echo java; }}; pg_bin() {{ false; }}; has_library() {{ true; }}
             WHAT={what}; find_missing_packages; echo \"${{MISSING[*]}}\""
        ))
    };
    assert_eq!(missing("demo"), Ok("postgresql".into()));
    assert_eq!(missing("services"), Ok("postgresql java maven".into()));
    assert!(
        missing("test")
            .is_ok_and(|all| all.starts_with("postgresql java maven ") && all.ends_with("chromium valgrind systemd"))
    );
}

/// Its package starts a service that listens for everybody; nobody asked for that.
#[test]
fn prometheus_is_installed_without_its_service() {
    const PROMETHEUS_IS_MISSING: &str = r#"
have() { case $1 in prometheus | promtool) [[ -e $home/installed ]] ;; *) true ;; esac; }
java_bin() { echo java; }
pg_bin() { echo bin; }
systemd_runs() { true; }
need_rust() { true; }
need_rust_component() { true; }
need_cargo_deny() { true; }
"#;
    let systemctl = "#!/bin/bash\nprintf 'systemctl %s\\n' \"$*\" >>\"${0%/*}/said\"\n";
    let fakes =
        |name: &str| Machine::new(name, &[("apt-get", APT_GET), ("apt-cache", APT_CACHE), ("systemctl", systemctl)]);
    let machine = fakes("prometheus");
    let ended = machine.bash(&format!("{WITHOUT_RUST}{PROMETHEUS_IS_MISSING}main test"));
    let said = machine.said();
    assert_eq!(ended, Ok(String::new()), "{said}");
    let done: Vec<&str> =
        said.lines().filter(|line| line.starts_with("systemctl") || line.starts_with("apt-get install")).collect();
    let [mask, install, unmask, disable] = done[..] else { panic!("{said}") };
    assert!(install.ends_with(" prometheus"), "{said}");
    assert_eq!(mask, "systemctl mask --quiet prometheus.service");
    assert_eq!(
        [unmask, disable],
        ["unmask", "disable"].map(|what| format!("systemctl {what} --quiet prometheus.service"))
    );

    // Even where the installation fails it does not stay masked.
    let machine = fakes("prometheus-fails");
    fs::write(machine.0.join("apt-get"), APT_GET.replace("touch \"${0%/*}/installed\"", "exit 100"))
        .expect("a program");
    assert_eq!(machine.bash(&format!("{WITHOUT_RUST}{PROMETHEUS_IS_MISSING}main test")), Err(1));
    assert!(machine.said().contains("systemctl unmask"), "{}", machine.said());
}

#[test]
fn any_chromium_will_do() {
    let missing = |there: &str| {
        let machine = Machine::new("chromium", &[]);
        machine.bash(&format!(
            "have() {{ case $1 in chromium* | google-chrome) [[ $1 == '{there}' ]] ;; *) true ;; esac; }}
             java_bin() {{ true; }}; pg_bin() {{ true; }}; has_library() {{ true; }}
             WHAT=test; find_missing_packages; echo \"${{MISSING[*]}}\""
        ))
    };
    for name in ["chromium", "chromium-browser", "google-chrome"] {
        assert_eq!(missing(name), Ok(String::new()), "{name}");
    }
    assert_eq!(missing("firefox"), Ok("chromium".into()));
}
