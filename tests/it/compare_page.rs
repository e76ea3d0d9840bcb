//! The page of a comparison, as people see it: in a real Chromium (see `page.rs`), from a file, as it is handed on. It needs no Kafka and
//! no PostgreSQL: the findings are made up.

use std::fs;

use forebay::compare::findings;
use forebay::compare::page::html;
use serde_json::json;
use tempfile::TempDir;

use crate::page::looks::{TOO_WIDE, can_be_read};
use crate::support::Chromium;

// Not every one of them is of use here.
#[allow(dead_code)]
#[path = "../../src/compare/page/samples.rs"]
mod samples;

/// The page of some findings, and the directory that it lies in.
fn opened(findings: &findings::Findings) -> (Chromium, TempDir) {
    let directory = tempfile::Builder::new().prefix("forebay-compare").tempdir().expect("a directory");
    let file = directory.path().join("compare.html");
    fs::write(&file, html(findings)).expect("writing the page");
    (Chromium::open(&format!("file://{}", file.display())), directory)
}

/// Charts, or lines of them, that nobody can see.
const NOT_SEEN: &str = "[...document.querySelectorAll('.chart:not(.empty)')].filter((figure) => {
  const plot = figure.querySelector('.plot > svg').getBoundingClientRect();
  const paths = [...figure.querySelectorAll('path')].map((path) => path.getBoundingClientRect());
  const inside = (path) => path.width > 0 && path.left >= plot.left - 2 && path.right <= plot.right + 2
    && path.top >= plot.top - 2 && path.bottom <= plot.bottom + 2;
  return !figure.checkVisibility() || plot.width < 200 || plot.height < 100 || paths.length === 0 || !paths.every(inside);
}).map((figure) => figure.querySelector('h4').textContent)";

/// Labels of bands, and names on axes, that run into each other.
const CROWDED: &str = "[...document.querySelectorAll('.plot > svg, .ys')].flatMap((svg) => {
  const texts = [...svg.querySelectorAll('text')].map((one) => [one.textContent, one.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return texts.flatMap(([text, box], index) =>
    texts.slice(index + 1).filter(([, other]) => meet(box, other)).map(([other]) => `${text} and ${other}`));
})";

#[test]
fn it_can_be_read_by_day_by_night_and_on_a_telephone() {
    let (mut page, _directory) = opened(&samples::normal());
    assert_eq!(page.eval("document.querySelectorAll('.chart').length"), 32, "8 panels, 2 rates, 2 modes");
    can_be_read(&mut page, &[NOT_SEEN, CROWDED]);
    assert_eq!(page.complaints(), [""; 0]);
}

#[test]
fn a_chart_is_read_with_the_pointer_and_with_the_keyboard() {
    let (mut page, _directory) = opened(&samples::normal());
    let read = |page: &mut Chromium, chart: usize| {
        page.eval(&format!("document.querySelectorAll('#requests .pair:first-of-type .read')[{chart}].textContent"))
            .as_str()
            .expect("a text")
            .replace('\u{a0}', " ")
    };
    assert_eq!(read(&mut page, 0), "At most: offered 3,600/s, accepted 3,026/s, failed 722/s");
    page.tab_to("#requests .plot");
    page.press("ArrowLeft");
    // The last second in which anything was sent.
    assert_eq!(read(&mut page, 0), "89 s: offered 1,200/s, accepted 1,200/s, failed 0/s");
    assert_eq!(
        read(&mut page, 1),
        "89 s: offered 1,200/s, accepted 1,200/s, failed 0/s",
        "the other mode at the same time"
    );
    assert_eq!(page.eval("getComputedStyle(document.querySelector('#requests .cursor')).visibility"), "visible");
    page.press("Escape");
    assert!(read(&mut page, 1).starts_with("At most: "));
    page.click("#requests .plot");
    assert!(read(&mut page, 0).starts_with("45 s: ") && read(&mut page, 1).starts_with("45 s: "));
    assert_eq!(page.complaints(), [""; 0]);
}

#[test]
fn whatever_was_found_the_page_complains_of_nothing() {
    for findings in
        [samples::empty(), samples::empty_runs(), samples::one_mode(), samples::all_errors(), samples::interrupted()]
    {
        let (mut page, _directory) = opened(&findings);
        page.resize(380, 900);
        assert_eq!(page.eval(TOO_WIDE), json!([]));
        assert_eq!(page.eval(NOT_SEEN), json!([]));
        assert_eq!(page.complaints(), [""; 0]);
    }
}
