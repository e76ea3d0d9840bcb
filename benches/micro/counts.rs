//! Instructions for each record, as callgrind counts them, against those in `benches/instructions.toml`. This program starts
//! itself under valgrind; there every benchmark warms up and runs once more, inside of [`forebay_counted`], which callgrind
//! knows by name: it counts there and nowhere else, and writes down what it has when that returns.
//!
//! A count depends on the code, the compiler and what it is compiled for, and on libc's string functions, which differ from
//! processor to processor: glibc is told to take the plainest. It depends neither on the machine's load nor on its speed.
//!
//! Why not gungraun (once iai-callgrind): its runner is another program, which everybody would have to install in exactly the
//! version of the library; and it compares with a run that lies in `target`, not with a file that is committed and reviewed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::baseline::{self, Baseline, GROWTH_PERCENT_MAX, Tools};
use super::cases::CASES;

/// The mode of the process that callgrind watches.
pub const CHILD: &str = "counted";

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");
const UPDATE: &str = "FOREBAY_UPDATE";
const WARM_UP: usize = 2;

/// Without these glibc's string functions are those that every x86-64 processor has (`sysdeps/x86/cpu-features.c`). Processors of
/// other kinds pass over names that they do not know.
const PLAIN_PROCESSOR: &str = "glibc.cpu.hwcaps=-AVX512VL,-AVX512BW,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSE4_2,\
                               -SSE4_1,-SSSE3,-BMI2,-BMI1,-RTM,-MOVBE";
/// What functions are called that were taken for the sake of the processor.
const CHOSEN: [&str; 5] = ["avx", "evex", "sse4", "ssse3", "_erms"];

/// Counts, and compares or writes down.
pub fn check() -> ExitCode {
    match counted() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn counted() -> Result<bool, String> {
    let tools = Tools { rustc: version("rustc")?, valgrind: version("valgrind")? };
    let found = count()?;
    println!("instructions a record, counted by {} and {}", tools.rustc, tools.valgrind);
    let mut all = match fs::read_to_string(FILE) {
        Ok(text) => baseline::parse(&text).map_err(|error| format!("{FILE}: {error}"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(format!("{FILE}: {error}")),
    };
    let processor = std::env::consts::ARCH;
    let before = all.get(processor);
    for (name, count) in &found {
        let baseline = before.and_then(|before| before.counts.get(*name));
        let baseline = baseline.map_or_else(|| "no baseline".to_owned(), |count| format!("baseline {count:.1}"));
        println!("{name:<30} {count:>10.1}   {baseline}");
    }
    if std::env::var_os(UPDATE).is_some() {
        let counts = found.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        all.insert(processor.to_owned(), Baseline { counted_by: tools, counts });
        fs::write(FILE, baseline::write(&all)).map_err(|error| format!("{FILE}: {error}"))?;
        println!("{FILE} is written anew");
        return Ok(true);
    }
    let Some(before) = before else {
        return Err(format!("{FILE} has no counts for {processor}: with {UPDATE}=1 this writes them down"));
    };
    let verdict = baseline::compare(before, &found, &tools);
    verdict.remarks.iter().for_each(|remark| println!("{remark}"));
    if verdict.problems.is_empty() {
        println!("none is more than {GROWTH_PERCENT_MAX} % above its baseline");
        return Ok(true);
    }
    for problem in &verdict.problems {
        eprintln!("{problem}");
    }
    eprintln!("at most {GROWTH_PERCENT_MAX} % more is taken for noise. If it is meant: {UPDATE}=1 bin/instructions");
    Ok(false)
}

fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.map_err(|error| format!("{program}: {error} (bin/install-deps test)"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Of every benchmark.
fn count() -> Result<Vec<(&'static str, f64)>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let out = directory.path().join("out");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=forebay_counted"])
        .args(["--dump-after=forebay_counted", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(CHILD)
        .env("GLIBC_TUNABLES", PLAIN_PROCESSOR)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let counts: Result<Vec<_>, String> = CASES
        .iter()
        .enumerate()
        .map(|(index, case)| {
            let dump = Dump::read(&numbered(&out, index + 1))?;
            dump.chosen.iter().for_each(|(name, count)| {
                println!(
                    "{}: {count} of {} are in {name}, which another processor may not have",
                    case.name, dump.total
                );
            });
            Ok((case.name, dump.total as f64 / case.records as f64))
        })
        .collect();
    match numbered(&out, CASES.len() + 1) {
        one_more if one_more.exists() => Err(format!("{} is one more than there are benchmarks", one_more.display())),
        _ => counts,
    }
}

/// Of the dumps that callgrind writes on the way.
fn numbered(out: &Path, number: usize) -> PathBuf {
    PathBuf::from(format!("{}.{number}", out.display()))
}

/// One of callgrind's files (its manual, *Callgrind Format Specification*).
struct Dump {
    total: u64,
    /// Functions that were taken for the sake of the processor, and what they took.
    chosen: BTreeMap<String, u64>,
}

impl Dump {
    fn read(file: &Path) -> Result<Dump, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Dump::parse(&text).ok_or_else(|| format!("{}: no sum of instructions in it", file.display()))
    }

    fn parse(text: &str) -> Option<Dump> {
        let total = text.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse().ok())?;
        let (mut chosen, mut within, mut is_call) = (BTreeMap::new(), None, false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                within = CHOSEN.iter().any(|part| name.contains(part)).then(|| name.to_owned());
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                // The line behind `calls=` is what the called function took.
                let count: Option<u64> = line.split(' ').next_back().and_then(|count| count.parse().ok());
                if let (Some(name), Some(count), false) = (&within, count, is_call) {
                    *chosen.entry(name.clone()).or_default() += count;
                }
                is_call = false;
            }
        }
        Some(Dump { total, chosen })
    }
}

/// What callgrind watches.
pub fn child() {
    for case in CASES {
        let mut job = (case.make)();
        // Buffers have grown, and what is made once is made.
        (0..WARM_UP).for_each(|_| job());
        forebay_counted(&mut job);
    }
}

/// Known to callgrind by its name.
// SAFETY: nobody else has a function of this name.
#[unsafe(no_mangle)]
#[inline(never)]
fn forebay_counted(job: &mut dyn FnMut()) {
    job();
}
