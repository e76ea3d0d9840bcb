//! What README.md and tuning.md show of configurations is one that forebay takes; their links lead somewhere; metrics and alerts that
//! they name are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use forebay::config::load::load;
use forebay::config::{Config, Target};
use forebay::metrics::name::Name;

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

/// What GitHub calls the headings of a document, which must not be two of a name.
fn anchors(document: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(document).unwrap();
    let mut is_code = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if let Some(heading) = line.strip_prefix('#').filter(|_| !is_code) {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            assert!(anchors.insert(anchor), "{}: {heading} twice", document.display());
        }
    }
    anchors
}

#[test]
fn links_lead_to_headings_and_files_that_are_there() {
    let mut checked = 0;
    for document in ["README.md", "tuning.md", "benches/README.md"] {
        let path = root().join(document);
        let text = fs::read_to_string(&path).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(target.exists(), "{document}: {link}");
            assert!(anchor.is_none_or(|anchor| anchors(&target).contains(anchor)), "{document}: {link}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} links");
}

/// The words of a text that begin so.
fn words<'t>(text: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    let word = |(at, _): (usize, &str)| {
        let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &text[at..end.map_or(text.len(), |end| at + end)]
    };
    text.match_indices(prefix).map(word).collect()
}

#[test]
fn metrics_and_alerts_that_the_documents_name_are_there() {
    // A role, and what schemas begin with.
    const OTHERS: [&str; 3] = ["forebay_app", "forebay_bench_", "forebay_probe_"];
    let alerts = fs::read_to_string(root().join("deploy/prometheus/forebay-alerts.yml")).unwrap();
    for document in ["README.md", "tuning.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for word in words(&text, "forebay_") {
            let is_metric = Name::ALL.iter().any(|name| name.family().name == word);
            assert!(is_metric || OTHERS.contains(&word), "{document}: {word}");
        }
        // `ForebayGateway…` is all those of the gateway.
        for word in words(&text, "Forebay").into_iter().filter(|word| word.len() > "Forebay".len()) {
            assert!(alerts.contains(&format!("alert: {word}")), "{document}: {word}");
        }
    }
}
