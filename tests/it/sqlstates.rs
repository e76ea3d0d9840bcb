//! Every SQLSTATE that PostgreSQL publishes, and what it means to forebay: `sqlstates.txt` holds a decision for each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use forebay::sink::sqlstate::class;

/// Code, class, PostgreSQL's name; the name is for the reader.
const DECIDED: &str = include_str!("sqlstates.txt");

fn decided() -> BTreeMap<&'static str, &'static str> {
    let lines = DECIDED.lines().filter(|line| !line.starts_with('#'));
    let decided: Vec<(&str, &str)> = lines
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [code, class, _name] => (code, class),
            _ => panic!("sqlstates.txt: {line:?} is not a code, a class and a name"),
        })
        .collect();
    let by_code: BTreeMap<_, _> = decided.iter().copied().collect();
    assert_eq!(by_code.len(), decided.len(), "sqlstates.txt: a code stands there twice");
    by_code
}

/// The lists that come with the servers installed here.
fn published() -> Vec<(PathBuf, String)> {
    let versions = std::fs::read_dir("/usr/share/postgresql").expect("Debian's directory of PostgreSQL's versions");
    let lists = versions.map(|version| version.unwrap().path().join("errcodes.txt")).filter(|list| list.exists());
    lists.map(|list| (list.clone(), std::fs::read_to_string(list).unwrap())).collect()
}

#[test]
fn each_code_means_what_was_decided() {
    for (code, expected) in decided() {
        assert_eq!(format!("{:?}", class(code)), expected, "{code}");
    }
}

#[test]
fn for_each_code_that_is_published_it_was_decided() {
    let (decided, published) = (decided(), published());
    assert!(!published.is_empty(), "no errcodes.txt under /usr/share/postgresql: bin/install-deps test");
    for (path, list) in published {
        let codes: Vec<&str> = list
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("Section:"))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(codes.len() > 200, "{}: only {} codes are understood", path.display(), codes.len());
        let missing: Vec<&&str> = codes.iter().filter(|code| !decided.contains_key(**code)).collect();
        assert!(missing.is_empty(), "{}: nobody decided what {missing:?} mean; add them", path.display());
    }
}
