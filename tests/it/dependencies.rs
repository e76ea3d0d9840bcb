//! No async runtime of our own: tokio may come in through the rust-postgres family only, which carries a private
//! current-thread runtime inside each `Client`. `deny.toml` says the same to `cargo deny`; this test needs nothing but
//! cargo, and sees a feature that switches tokio on in another crate.
//!
//! And no module of ours uses one that comes after it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The crates that may depend on tokio directly, and the crates that may depend on those.
const FAMILY: [&str; 6] =
    ["postgres", "postgres-openssl", "r2d2_postgres", "tokio-openssl", "tokio-postgres", "tokio-util"];

fn cargo_tree(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .args(arguments)
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo tree prints UTF-8")
}

/// What stands between `root` and forebay in `cargo tree -i` with `--prefix depth`, where each line is a depth and a
/// crate: everything that is neither the root nor forebay itself nor one of the family.
fn outsiders(tree: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let name = rest.split(' ').next().unwrap_or_default();
        let depth = &line[..line.len() - rest.len()];
        let direct = depth == "1" && name == "forebay";
        if direct || (name != root && name != "forebay" && !FAMILY.contains(&name)) {
            found.insert(format!("{name} (depth {depth})"));
        }
    }
    found
}

#[test]
fn tokio_comes_in_through_the_postgres_family_only() {
    let tree = cargo_tree(&["-e", "normal", "-i", "tokio", "--prefix", "depth"]);
    assert!(tree.contains("0tokio v"), "not the expected form:\n{tree}");
    let outsiders = outsiders(&tree, "tokio");
    assert!(outsiders.is_empty(), "tokio comes in through {outsiders:?}:\n{tree}");
}

#[test]
fn another_way_in_would_be_seen() {
    let tree = "0tokio v1.0.0\n1postgres v0.19.0\n2forebay v0.1.0 (/x)\n1forebay v0.1.0 (/x)\n1hyper v1.0.0\n2forebay v0.1.0 (/x)\n";
    let found: Vec<String> = outsiders(tree, "tokio").into_iter().collect();
    assert_eq!(found, ["forebay (depth 1)", "hyper (depth 1)"]);
}

#[test]
fn rdkafka_comes_without_its_default_features() {
    let features = cargo_tree(&["-e", "features", "-i", "rdkafka", "--depth", "1"]);
    assert!(features.contains("rdkafka feature \"zstd\""), "not the expected form:\n{features}");
    for feature in ["tokio", "default", "naive-runtime"] {
        assert!(!features.contains(&format!("rdkafka feature \"{feature}\"")), "{features}");
    }
}

/// All `.rs` files of a module: `src/<module>.rs` and what lies below `src/<module>/`.
fn sources(of: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Ok(text) = fs::read_to_string(of.with_extension("rs")) {
        found.push((of.with_extension("rs").display().to_string(), text));
    }
    for entry in fs::read_dir(of).into_iter().flatten() {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source file")));
        }
    }
    found
}

/// The modules' order is that of their declarations in `lib.rs`.
#[test]
fn modules_use_only_those_before_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(src.join("lib.rs")).expect("lib.rs");
    let declared = lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    let order: Vec<&str> = declared.map(|name| name.trim_end_matches(';')).collect();
    assert!(order.len() > 10, "not the expected form: {order:?}");
    let mut wrong = Vec::new();
    for (index, module) in order.iter().enumerate() {
        for (file, text) in sources(&src.join(module)) {
            // A comment may point anywhere.
            let code = |line: &&str| !line.trim_start().starts_with("//");
            let uses = |later: &str| text.lines().filter(code).any(|line| line.contains(&format!("crate::{later}::")));
            let later = order[index + 1..].iter().filter(|later| uses(later));
            wrong.extend(later.map(|later| format!("{file} uses {later}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Only there is every connection bounded and watched; requests to cancel are bounded where they are made. (The demonstration's own server is
/// another thing.)
#[test]
fn connections_to_shards_are_opened_in_one_place() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![sources.clone()];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.extend((path != sources.join("demo")).then_some(path));
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if code.contains("Client::connect(") || code.contains("NoTls") {
                found.push(path.strip_prefix(&sources).expect("below it").to_owned());
            }
        }
    }
    found.sort();
    assert_eq!(found, [Path::new("sink/cancel.rs"), Path::new("sink/connect.rs")]);
}
