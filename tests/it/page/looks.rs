//! Whether the page can be read: contrast by day and by night, and its width on a telephone.

use serde_json::json;

use super::{in_bad_night, opened};
use crate::support::Chromium;

/// The texts that stand out too little from what is behind them, by WCAG's relative luminance: 4.5 to 1 is its level AA.
const FAINT: &str = "(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(colour).map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((numbers(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.nodeValue.trim() || one.tagName === 'SCRIPT' || !one.checkVisibility()) continue;
    seen += 1;
    const [text, ground] = [light(getComputedStyle(one).color), light(behind(one))];
    const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    const what = `${one.className || one.tagName}: ${walker.currentNode.nodeValue.slice(0, 40)}`;
    if (ratio < 4.5) faint.add(`${ratio.toFixed(2)} ${what}`);
  }
  return seen < 200 ? ['too little was looked at'] : [...faint];
})()";

/// What reaches beyond the window; what scrolls in a frame of its own may.
pub const TOO_WIDE: &str = "document.documentElement.scrollWidth > innerWidth
  ? [...document.querySelectorAll('body *')]
      .filter((one) => one.getBoundingClientRect().right > innerWidth && !one.closest('.scroll'))
      .map((one) => `${one.tagName}.${one.className}`).slice(0, 5)
  : []";

/// By day and by night, on a telephone and on large screens: nothing is faint, nothing too wide, and `more` finds nothing either.
#[track_caller]
pub fn can_be_read(page: &mut Chromium, more: &[&str]) {
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.prefer_colours(scheme);
        assert_eq!(page.eval(FAINT), json!([]), "{scheme}");
        grounds.push(page.eval("getComputedStyle(document.body).backgroundColor"));
        for width in [380, 768, 1280, 1920] {
            page.resize(width, 900);
            for found in [TOO_WIDE].iter().chain(more) {
                assert_eq!(page.eval(found), json!([]), "{width} pixels wide");
            }
        }
    }
    assert_ne!(grounds[0], grounds[1]);
}

#[test]
fn it_can_be_read_by_day_by_night_and_on_a_telephone() {
    let site = in_bad_night();
    let mut page = opened(&site);
    page.click("#letters summary");
    page.wait_for_text("#letters-list", "blocks its key");
    page.wait_for_text("#parked-list", "0x61ff00");
    can_be_read(&mut page, &[]);
}
