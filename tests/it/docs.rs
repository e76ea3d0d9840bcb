//! What README.md and tuning.md show of configurations is one that forebay takes.

use std::fs;
use std::path::Path;

use forebay::config::load::load;
use forebay::config::{Config, Target};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The TOML blocks of a document that are whole configurations.
fn configurations(document: &str) -> Vec<Config> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut found = Vec::new();
    for (index, block) in blocks.enumerate() {
        let path = directory.join(format!("{document}-{index}-{}.toml", std::process::id()));
        fs::write(&path, block).unwrap();
        let loaded = load(&path).unwrap_or_else(|problems| panic!("{document}, block {index}: {problems}"));
        fs::remove_file(path).unwrap();
        found.push(loaded.config);
    }
    found
}

#[test]
fn configurations_in_the_documents_are_valid() {
    let readme = configurations("README.md");
    assert_eq!(readme.len(), 2);
    assert_eq!(readme[1].ingest.as_ref().expect("a gateway").routes.len(), 1);
    let tuning = configurations("tuning.md");
    assert_eq!(tuning.len(), 1);
    let Target::Table(places) = &tuning[0].topics[0].target else { panic!("not a table") };
    assert_eq!(places.columns.len(), 7);
    load(&root().join("examples/first.toml")).unwrap();
}
