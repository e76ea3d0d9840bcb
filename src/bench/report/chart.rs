//! A chart of lines as SVG: white, with a light grid, labelled axes and a legend. Knows nothing of benchmarks.

use plotters::prelude::*;

const SIZE: (u32, u32) = (820, 420);
const FONT: &str = "sans-serif";
/// Okabe and Ito's colours, which those who see few colours can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
const GRID: RGBColor = RGBColor(225, 225, 225);

/// See the module's text.
pub struct Chart {
    pub title: String,
    /// Each with its unit.
    pub x: &'static str,
    pub y: &'static str,
    /// How the places of the x axis are said.
    pub x_label: fn(f64) -> String,
    /// So many places of it, about.
    pub x_labels: usize,
    /// Where lines leave room.
    pub legend: SeriesLabelPosition,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    /// Over time, in seconds.
    pub fn over_time(title: String, y: &'static str, lines: Vec<Line>) -> Chart {
        let legend = SeriesLabelPosition::UpperRight;
        Chart { title, x: "time, s", y, x_label: plain, x_labels: 10, legend, lines }
    }

    /// # Errors
    /// The drawing library's words.
    pub fn svg(&self) -> Result<String, String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x_max = points().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-3);
        let y_max = points().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-3) * 1.05;
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, (FONT, 17))
            .margin(14)
            .margin_right(34)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(BLACK.mix(0.6))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(self.x_labels)
            .x_label_formatter(&|x| (self.x_label)(*x))
            .y_label_formatter(&|y| short(*y))
            .axis_desc_style((FONT, 14))
            .label_style((FONT, 12))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            drawn.label(&line.name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        }
        if self.lines.len() > 1 {
            let mut labels = chart.configure_series_labels();
            labels
                .position(self.legend.clone())
                .background_style(WHITE.mix(0.85))
                .border_style(GRID)
                .label_font((FONT, 12))
                .draw()?;
        }
        area.present()?;
        Ok(())
    }
}

/// Seconds, and whatever needs no words.
pub fn plain(x: f64) -> String {
    // `-0` is nothing to show.
    format!("{}", (x * 1000.0).round() / 1000.0 + 0.0)
}

/// In thousands and millions where it is large.
fn short(y: f64) -> String {
    match y.abs() {
        large if large >= 1e6 => format!("{} M", plain(y / 1e6)),
        large if large >= 1e4 => format!("{} k", plain(y / 1e3)),
        _ => plain(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_says_what_its_axes_and_lines_are() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 10.0), (1.0, 250_000.0)] };
        let lines = vec![line("round 1"), line("round <2>")];
        let chart = Chart::over_time("rate & more".to_owned(), "rows/s", lines);
        let svg = chart.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for part in ["rate &amp; more", "time, s", "rows/s", "round 1", "round &lt;2&gt;", "200 k", "<polyline"] {
            assert!(svg.contains(part), "no {part:?} in {svg}");
        }
    }

    #[test]
    fn nothing_to_draw_is_an_empty_chart() {
        let chart = Chart::over_time(String::new(), "y", Vec::new());
        assert!(chart.svg().unwrap().contains("<svg"));
    }
}
