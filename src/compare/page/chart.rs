//! A chart of lines over time as a figure of HTML: paths in SVG that stretch to the room there is, and texts that keep their size, so
//! that it can be read on a telephone and on paper. Colours are the page's, by day and by night. Knows nothing of comparisons.
//!
//! (Those of `bench` are files: of one size, white, and without a page around them.)

use std::fmt::{Display, Write};

use super::figures::{NBSP, UNKNOWN, number};
use super::markup::{Markup, classed, el, plain};
use super::scale::{Scale, times};

/// See the module's text.
pub struct Chart<'c> {
    /// What it is of.
    pub name: &'c str,
    pub lines: Vec<Line>,
    /// In time's order.
    pub bands: &'c [Band],
    pub scale: Scale,
    /// Of the axis of time, in seconds.
    pub end: f64,
    pub unit: fn(f64) -> String,
    /// The axis' names have less room.
    pub unit_short: fn(f64) -> String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub name: &'static str,
    /// Of the style sheet.
    pub class: &'static str,
    /// Seconds, and the value where there is one.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A time in which something was different.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    pub label: String,
    pub class: &'static str,
    pub from_s: f64,
    pub to_s: f64,
}

/// Of the paths: they are stretched, and a thousandth of the room is less than a pixel.
const UNITS: f64 = 1000.0;

/// Labels above the plot are on three lines by turns, or neighbours would run into each other. In pixels above its upper edge.
const LABEL_LINES: [i32; 3] = [35, 21, 7];

/// A band is at least so wide, in per cent of the plot, or nobody sees it.
const BAND_MIN: f64 = 0.4;

impl Line {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().filter_map(|(_, value)| *value)
    }

    pub fn is_measured(&self) -> bool {
        self.values().next().is_some()
    }

    fn most(&self) -> Option<f64> {
        self.values().reduce(f64::max)
    }
}

impl Chart<'_> {
    pub fn figure(&self) -> Markup {
        let lines: Vec<&Line> = self.lines.iter().filter(|line| line.is_measured()).collect();
        if lines.is_empty() {
            let head = plain("figcaption", plain("h4", self.name));
            return classed("figure", "chart empty", head.and(classed("p", "nothing", UNKNOWN)));
        }
        let said = self.said(&lines);
        let head = plain("h4", self.name).and(legend(&lines)).and(classed("p", "read", said.as_str()));
        let plot = el(
            "div",
            &[("class", &"plot"), ("data-end", &self.end), ("data-read", &self.read_outs(&lines))],
            self.plot(&lines, &said),
        );
        classed("figure", "chart", plain("figcaption", head).and(self.names_of_values()).and(plot))
    }

    /// All of it in a sentence, for those who do not see it, and until somebody points at something.
    fn said(&self, lines: &[&Line]) -> String {
        let most = |line: &&Line| line.most().map(|most| format!("{} {}", line.name, (self.unit)(most)));
        format!("At most: {}", lines.iter().filter_map(most).collect::<Vec<_>>().join(", "))
    }

    /// For each second that has values: the second, and what is read there. A line each.
    fn read_outs(&self, lines: &[&Line]) -> String {
        let mut all = String::new();
        let longest = lines.iter().map(|line| line.points.len()).max().unwrap_or(0);
        for index in 0..longest {
            let points = lines.iter().filter_map(|line| Some((line, line.points.get(index)?)));
            let read: Vec<String> = points
                .clone()
                .filter_map(|(line, (_, v))| Some(format!("{} {}", line.name, (self.unit)((*v)?))))
                .collect();
            let Some((_, (second, _))) = points.clone().next().filter(|_| !read.is_empty()) else { continue };
            // Writing to a String cannot fail.
            let _ = writeln!(all, "{second}\t{}: {}", at(second.floor()), read.join(", "));
        }
        all.truncate(all.trim_end().len());
        all
    }

    fn names_of_values(&self) -> Markup {
        let name = |value: f64| {
            let y = percent(1.0 - self.scale.place(value));
            el(
                "text",
                &[("x", &"100%"), ("y", &y), ("dy", &"0.35em"), ("text-anchor", &"end")],
                (self.unit_short)(value),
            )
        };
        let names: Markup = self.scale.ticks().into_iter().map(name).collect();
        el("svg", &[("class", &"ys"), ("aria-hidden", &"true")], names)
    }

    fn plot(&self, lines: &[&Line], said: &str) -> Markup {
        let grid = |value: f64| {
            let y = percent(1.0 - self.scale.place(value));
            el("line", &[("class", &"grid"), ("x1", &"0"), ("x2", &"100%"), ("y1", &y), ("y2", &y)], "")
        };
        let paths = lines.iter().map(|line| el("path", &[("class", &line.class), ("d", &self.path(line))], ""));
        let attributes: [(&'static str, &dyn Display); 4] =
            [("viewBox", &"0 0 1000 1000"), ("preserveAspectRatio", &"none"), ("width", &"100%"), ("height", &"100%")];
        let paths = el("svg", &attributes, paths.collect::<Markup>());
        let label = format!("{}. {said}", self.name);
        let all = self
            .bands()
            .and(self.scale.ticks().into_iter().map(grid).collect::<Markup>())
            .and(paths)
            .and(self.names_of_times())
            .and(el("line", &[("class", &"cursor"), ("y2", &"100%")], ""));
        el("svg", &[("role", &"img"), ("aria-label", &label)], all)
    }

    fn bands(&self) -> Markup {
        let drawn = self.bands.iter().filter(|band| band.from_s <= self.end);
        let band = |(index, band): (usize, &Band)| {
            let x = self.across(band.from_s);
            let width = (self.across(band.to_s) - x).max(BAND_MIN / 100.0);
            let class = format!("band {}", band.class);
            let (left, wide) = (percent(x), percent(width));
            let rect: [(&'static str, &dyn Display); 4] =
                [("class", &class), ("x", &left), ("width", &wide), ("height", &"100%")];
            let rect = el("rect", &rect, plain("title", band.label.as_str()));
            let (x, anchor) = if x > 0.6 { ((x + width).min(1.0), "end") } else { (x, "start") };
            let y = -LABEL_LINES[index % LABEL_LINES.len()];
            let class = format!("label {}", band.class);
            let at: [(&'static str, &dyn Display); 4] =
                [("class", &class), ("x", &percent(x)), ("y", &y), ("text-anchor", &anchor)];
            rect.and(el("text", &at, band.label.as_str()))
        };
        drawn.enumerate().map(band).collect()
    }

    fn names_of_times(&self) -> Markup {
        let all = times(self.end);
        let last = all.len() - 1;
        let name = |(index, second): (usize, &f64)| {
            let x = self.across(*second);
            let anchor = match x {
                _ if index == 0 => "start",
                _ if x > 0.96 => "end",
                _ => "middle",
            };
            let text = if index == last { at(*second) } else { number(*second) };
            el("text", &[("x", &percent(x)), ("y", &"100%"), ("dy", &"1.3em"), ("text-anchor", &anchor)], text)
        };
        all.iter().enumerate().map(name).collect()
    }

    /// Where there is no value, there is no line; a value by itself is a dot, which round caps make of a line to itself.
    fn path(&self, line: &Line) -> String {
        let place = |(second, value): &(f64, Option<f64>)| {
            let (x, y) = (self.across(*second), 1.0 - self.scale.place((*value)?));
            Some(format!("{:.1} {:.1}", x * UNITS, y * UNITS))
        };
        let runs = line.points.split(|(_, value)| value.is_none()).filter(|run| !run.is_empty());
        let drawn = |run: &[(f64, Option<f64>)]| {
            let steps: Vec<String> = run.iter().filter_map(place).collect();
            format!("M{}{}", steps.join("L"), if steps.len() == 1 { "h0" } else { "" })
        };
        runs.map(drawn).collect()
    }

    fn across(&self, second: f64) -> f64 {
        if self.end > 0.0 { (second / self.end).clamp(0.0, 1.0) } else { 0.0 }
    }
}

fn legend(lines: &[&Line]) -> Markup {
    let swatch = |class: &'static str| {
        let line = el("line", &[("class", &class), ("x1", &"1"), ("x2", &"100%"), ("y1", &"50%"), ("y2", &"50%")], "");
        el("svg", &[("class", &"swatch"), ("aria-hidden", &"true")], line)
    };
    let entry = |line: &&Line| plain("li", swatch(line.class).and(line.name));
    classed("ul", "legend", lines.iter().map(entry).collect::<Markup>())
}

/// A time of the axis.
fn at(second: f64) -> String {
    format!("{}{NBSP}s", number(second))
}

/// A share of 1, as attributes have it.
fn percent(share: f64) -> String {
    format!("{}%", (share * 1e4).round() / 100.0 + 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::figures::{ms, short};
    use super::*;

    fn line(points: &[(f64, Option<f64>)]) -> Line {
        Line { name: "p99", class: "p99", points: points.to_vec() }
    }

    fn chart<'c>(lines: Vec<Line>, bands: &'c [Band]) -> Chart<'c> {
        let scale = Scale::of(lines.iter().flat_map(Line::values).collect::<Vec<_>>().into_iter(), true);
        Chart { name: "sync & <co>", lines, bands, scale, end: 10.0, unit: ms, unit_short: short }
    }

    #[test]
    fn gaps_stay_gaps_and_single_values_are_dots() {
        let of = |points: &[(f64, Option<f64>)]| chart(vec![], &[]).path(&line(points));
        assert_eq!(of(&[(0.0, Some(0.0)), (5.0, Some(1.0))]), "M0.0 1000.0L500.0 0.0");
        assert_eq!(of(&[(0.0, Some(0.0)), (5.0, None), (10.0, Some(0.0))]), "M0.0 1000.0h0M1000.0 1000.0h0");
        assert_eq!(of(&[(0.0, None), (5.0, None)]), "");
        let run = [(0.0, Some(0.0)), (1.0, None), (2.0, Some(0.0)), (3.0, Some(0.0))];
        assert_eq!(of(&run), "M0.0 1000.0h0M200.0 1000.0L300.0 1000.0");
    }

    #[test]
    fn a_figure_says_what_it_shows() {
        let bands = [Band { label: "shard <b> stopped".into(), class: "shard-stopped", from_s: 2.0, to_s: 4.0 }];
        let figure = chart(vec![line(&[(0.5, Some(1.0)), (1.5, None), (2.5, Some(1000.0))])], &bands).figure();
        let html = figure.into_string().replace('\u{a0}', " ");
        for part in [
            "<h4>sync &amp; &lt;co&gt;</h4>",
            "aria-label=\"sync &amp; &lt;co&gt;. At most: p99 1.0 s\"",
            "data-read=\"0.5\t0 s: p99 1.0 ms\n2.5\t2 s: p99 1.0 s\"",
            "class=\"band shard-stopped\" x=\"20%\" width=\"20%\"",
            "shard &lt;b&gt; stopped</text>",
            "d=\"M50.0 1000.0h0M250.0 0.0h0\"",
        ] {
            assert!(html.contains(part), "no {part} in {html}");
        }
    }

    #[test]
    fn a_short_band_can_be_seen_and_one_behind_the_end_is_left_out() {
        let band = |from_s, to_s| Band { label: "x".into(), class: "x", from_s, to_s };
        let bands = [band(5.0, 5.001), band(10.1, 12.0)];
        let html = chart(vec![line(&[(0.5, Some(1.0))])], &bands).figure().into_string();
        assert_eq!(
            (html.matches("class=\"band").count(), html.contains("x=\"50%\" width=\"0.4%\"")),
            (1, true),
            "{html}"
        );
    }

    #[test]
    fn nothing_measured_is_said_and_not_drawn() {
        for lines in [vec![], vec![line(&[])], vec![line(&[(0.0, None)])]] {
            let html = chart(lines, &[]).figure().into_string();
            assert!(html.contains(UNKNOWN) && !html.contains("<svg"), "{html}");
        }
    }
}
