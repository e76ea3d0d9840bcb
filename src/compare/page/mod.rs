//! The page of a comparison: one file that needs nothing else, which tells metric by metric what an operator saw before, what the same
//! trouble looks like after, and which alert replaces which. It loads nothing, sends nothing, and claims nothing that the findings do not
//! say.
//!
//! In reading order: [`figures`] (how numbers are said), [`markup`] (HTML, escaped), [`scale`] and [`chart`] (lines over time), [`pairs`]
//! (what belongs side by side), [`claims`] (what was found, in sentences), [`metrics`] (the story), [`section`], [`troubles`], [`top`] and
//! [`setting`] (its parts).

mod chart;
mod claims;
mod figures;
mod markup;
mod metrics;
mod pairs;
mod scale;
mod section;
mod setting;
mod top;
mod troubles;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use crate::admin::page::{COLOURS, hash};
use crate::compare::findings;
use markup::{Markup, el, plain};

/// Colours are those of the page of a running process.
const STYLES: [&str; 2] = [COLOURS, include_str!("page.css")];
const SCRIPT: &str = include_str!("page.js");

/// The document.
pub fn html(findings: &findings::Findings) -> String {
    let title = format!("forebay compare {}", findings.started_at);
    let head = Markup::source(
        "<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"referrer\" content=\"no-referrer\">",
    )
    .into_string();
    let title = plain("title", markup::foreign(title.trim())).into_string();
    let styles: String = STYLES.iter().map(|style| format!("<style>{style}</style>\n")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n{head}\n<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n{title}\n\
         <link rel=\"icon\" href=\"data:,\">\n{styles}</head>\n<body>\n{}\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        policy(),
        body(findings).into_string()
    )
}

/// Its own script and styles by their hashes, the tab's icon, and nothing else: no request of any kind.
fn policy() -> String {
    let styles = STYLES.map(hash).join(" ");
    format!(
        "default-src 'none'; script-src {}; style-src {styles}; img-src data:; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(SCRIPT)
    )
}

fn body(findings: &findings::Findings) -> Markup {
    let pairs = pairs::pairs(findings);
    let mut main = top::notices(findings, &pairs).and(top::in_short(&pairs)).and(top::method(findings, &pairs));
    if !pairs.is_empty() {
        main = main.and(troubles::section(&pairs));
        main = metrics::METRICS.iter().fold(main, |main, metric| main.and(section::section(metric, &pairs)));
    }
    top::header(findings).and(el("main", &[("id", &"main")], main.and(setting::section(findings))))
}
