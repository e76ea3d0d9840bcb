//! The generated part of tuning.md: every setting, and the properties of librdkafka that are none.

use super::ALL;
use crate::config::kafka::OWNED;

/// Every setting in Markdown, one table for each section of the file; below that of `[kafka]`, what may not stand in it.
pub fn settings_table() -> String {
    let mut text = String::new();
    let mut section = "";
    // A column only where somebody says yes.
    let mut reloads = false;
    for setting in ALL {
        let [kind, default, range, prose] = setting.row();
        if setting.section() != section {
            if section == "kafka" {
                text.push_str(&owned_properties());
            }
            section = setting.section();
            text.push_str(&format!("\n### {}\n\n", heading(section)));
            reloads = ALL.iter().any(|other| other.section() == section && other.reloads());
            let (head, rule) = if reloads { (" reloads |", "---|") } else { ("", "") };
            text.push_str(&format!("| setting | type, unit | default | range |{head} what it does |\n"));
            text.push_str(&format!("|---|---|---|---|{rule}---|\n"));
        }
        let mark = match (reloads, setting.reloads()) {
            (true, true) => " yes |",
            (true, false) => " |",
            (false, _) => "",
        };
        text.push_str(&format!("| `{}` | {kind} | {default} | {range} |{mark} {prose} |\n", setting.name()));
    }
    text
}

fn owned_properties() -> String {
    let names: Vec<String> = OWNED.iter().map(|(name, _)| format!("`{name}`")).collect();
    format!("\nRefused, because they belong to forebay: {}, and librdkafka's callbacks.\n", names.join(", "))
}

fn heading(section: &str) -> String {
    match section {
        "shard" => "`[[shard]]`, one for each database".to_owned(),
        "topic" => "`[[topic]]`, one for each topic".to_owned(),
        "ingest" => "`[ingest]`, the gateway".to_owned(),
        "ingest.route" => "`[[ingest.route]]`, one for each route".to_owned(),
        other => format!("`[{other}]`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- settings:begin -->\n";
    const END: &str = "<!-- settings:end -->";

    /// `FOREBAY_UPDATE=1 cargo test settings` writes the table anew.
    #[test]
    fn tuning_md_holds_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning.md");
        let written = std::fs::read_to_string(path).expect("tuning.md is readable");
        let (before, rest) = written.split_once(BEGIN).expect("tuning.md marks the table's begin");
        let (table, after) = rest.split_once(END).expect("tuning.md marks the table's end");
        let expected = settings_table();
        if std::env::var_os("FOREBAY_UPDATE").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("tuning.md is writable");
        } else {
            assert_eq!(table, expected, "run FOREBAY_UPDATE=1 cargo test settings");
        }
    }
}
