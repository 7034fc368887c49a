//! Lines over a common axis as SVG: two panels side by side, or as many as there are.
//!
//! ```text
//!  title
//!  panel title          panel title
//!  |  .---              |      /
//!  | /                  | __--'
//!  |/______             |________
//!   - name - name        - name - name
//!     x title              x title
//! ```
//!
//! What this module deliberately does not do: it knows neither what is drawn nor where it is written
//! to. It uses no fonts of its own, no scripts and no styles: any viewer shows it.

use std::fmt::{self, Write as _};

const WIDTH: f64 = 470.0;
const HEIGHT: f64 = 440.0;
/// Of the drawn area within a panel.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 450.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 340.0;
const TEXT: &str = "#222222";
const GRID: &str = "#dddddd";

/// A row of panels.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) panels: Vec<Panel>,
    /// Of every panel's axis, which begins at 0.
    pub(super) x_title: String,
}

/// Lines that share both axes.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) scale: Scale,
    pub(super) lines: Vec<Line>,
}

/// How values become heights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From 0; what is above `most` is cut off.
    Linear { most: f64 },
    /// Over powers of ten; values that are not above 0 are left out.
    Logarithmic,
}

/// Points that belong together, in the order of x.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) colour: &'static str,
    pub(super) is_dashed: bool,
    pub(super) points: Vec<(f64, f64)>,
}

/// Where values lie on the page, and which of them are written beside the axis.
struct Axis {
    is_log: bool,
    /// Of the values, or of their logarithms.
    range: (f64, f64),
    page: (f64, f64),
    ticks: Vec<f64>,
}

impl fmt::Display for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = WIDTH * self.panels.len() as f64;
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
        )?;
        writeln!(f, "<title>{}</title>", Escaped(&self.title))?;
        writeln!(f, "<rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>")?;
        text(f, (width / 2.0, 28.0), "middle\" font-size=\"15", &self.title)?;
        for (idx, panel) in self.panels.iter().enumerate() {
            writeln!(f, "<g transform=\"translate({} 0)\">", idx as f64 * WIDTH)?;
            panel.draw(f, idx, &self.x_title)?;
            writeln!(f, "</g>")?;
        }
        writeln!(f, "</svg>")
    }
}

impl Panel {
    fn draw(&self, f: &mut fmt::Formatter<'_>, idx: usize, x_title: &str) -> fmt::Result {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::linear(all().map(|point| point.0).fold(0.0, f64::max), (LEFT, RIGHT));
        let y = match self.scale {
            Scale::Linear { most } => Axis::linear(most, (BOTTOM, TOP)),
            Scale::Logarithmic => Axis::log(all().map(|point| point.1), (BOTTOM, TOP)),
        };
        text(f, (LEFT, TOP - 14.0), "start\" font-weight=\"bold", &self.title)?;
        for &tick in &y.ticks {
            let at = y.at(tick);
            segment(f, (LEFT, at), (RIGHT, at), GRID)?;
            text(f, (LEFT - 6.0, at + 4.0), "end", &number(tick))?;
        }
        for &tick in &x.ticks {
            let at = x.at(tick);
            segment(f, (at, BOTTOM), (at, BOTTOM + 5.0), TEXT)?;
            text(f, (at, BOTTOM + 18.0), "middle", &number(tick))?;
        }
        segment(f, (LEFT, BOTTOM), (RIGHT, BOTTOM), TEXT)?;
        segment(f, (LEFT, TOP), (LEFT, BOTTOM), TEXT)?;
        text(f, (f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0), "middle", x_title)?;
        // What leaves the panel is cut at its border.
        writeln!(
            f,
            "<clipPath id=\"panel{idx}\"><rect x=\"{LEFT}\" y=\"{}\" width=\"{}\" \
             height=\"{}\"/></clipPath>",
            TOP - 4.0,
            RIGHT - LEFT + 4.0,
            BOTTOM - TOP + 4.0,
        )?;
        writeln!(f, "<g clip-path=\"url(#panel{idx})\">")?;
        self.lines.iter().try_for_each(|line| line.draw(f, &x, &y))?;
        writeln!(f, "</g>")?;
        self.lines.iter().enumerate().try_for_each(|(place, line)| line.draw_name(f, place))
    }
}

impl Line {
    fn draw(&self, f: &mut fmt::Formatter<'_>, x: &Axis, y: &Axis) -> fmt::Result {
        let points = self.points.iter().filter(|(_, value)| !y.is_log || *value > 0.0);
        let points: Vec<(f64, f64)> =
            points.map(|&(place, value)| (x.at(place), y.at(value))).collect();
        let mut path = String::new();
        for (idx, (x, y)) in points.iter().enumerate() {
            let letter = if idx == 0 { 'M' } else { 'L' };
            write!(path, "{letter}{x:.1} {y:.1}")?;
        }
        if path.is_empty() {
            return Ok(());
        }
        writeln!(f, "<path d=\"{path}\" fill=\"none\" {}/>", self.stroke())?;
        for (x, y) in points {
            let colour = self.colour;
            writeln!(f, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>")?;
        }
        Ok(())
    }

    /// The names lie below the axis, two in a row.
    fn draw_name(&self, f: &mut fmt::Formatter<'_>, place: usize) -> fmt::Result {
        let left = LEFT + 14.0 + (place % 2) as f64 * 180.0;
        let top = BOTTOM + 58.0 + (place / 2) as f64 * 20.0;
        let (end, stroke) = (left + 28.0, self.stroke());
        writeln!(f, "<path d=\"M{left} {top}L{end} {top}\" {stroke}/>")?;
        text(f, (end + 8.0, top + 4.0), "start", &self.name)
    }

    fn stroke(&self) -> String {
        let dashes = if self.is_dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        format!("stroke=\"{}\" stroke-width=\"2\"{dashes}", self.colour)
    }
}

impl Axis {
    /// From 0 to at least `most`, in steps of 1, 2 or 5 times a power of ten.
    fn linear(most: f64, page: (f64, f64)) -> Self {
        let most = if most > 0.0 && most.is_finite() { most } else { 1.0 };
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|&step| step >= rough * 0.999).unwrap_or(10.0 * power);
        let num_steps = (most / step * 0.999).ceil();
        let ticks = (0..=num_steps as u32).map(|idx| f64::from(idx) * step).collect();
        Self { is_log: false, range: (0.0, num_steps * step), page, ticks }
    }

    /// Over the powers of ten around the values that are above 0.
    fn log(values: impl Iterator<Item = f64>, page: (f64, f64)) -> Self {
        let logs = values.filter(|&value| value > 0.0 && value.is_finite()).map(f64::log10);
        let (least, most) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), log| {
            (least.min(log), most.max(log))
        });
        let (least, most) = if least <= most { (least.floor(), most.ceil()) } else { (0.0, 1.0) };
        let most = most.max(least + 1.0);
        let ticks = (least as i32..=most as i32).map(|power| 10_f64.powi(power)).collect();
        Self { is_log: true, range: (least, most), page, ticks }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.is_log { value.log10() } else { value };
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        self.page.0 + share * (self.page.1 - self.page.0)
    }
}

fn segment(
    f: &mut fmt::Formatter<'_>,
    from: (f64, f64),
    to: (f64, f64),
    colour: &str,
) -> fmt::Result {
    writeln!(
        f,
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    )
}

fn text(f: &mut fmt::Formatter<'_>, at: (f64, f64), anchor: &str, text: &str) -> fmt::Result {
    let (x, y) = at;
    writeln!(
        f,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{TEXT}\" text-anchor=\"{anchor}\">{}</text>",
        Escaped(text)
    )
}

/// A value of an axis, without the noise of its arithmetic.
fn number(value: f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

/// Text as XML may hold it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                // Not allowed in XML, in whatever form.
                _ if letter.is_control() => f.write_char('?')?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(title: &str, values: &[f64]) -> String {
        let points: Vec<_> = (1..).map(f64::from).zip(values.iter().copied()).collect();
        let line = |name: &str, is_dashed| Line {
            name: name.into(),
            colour: "#123456",
            is_dashed,
            points: points.clone(),
        };
        let panel = |scale| Panel {
            title: "a panel".into(),
            scale,
            lines: vec![line("p50", false), line("p99", true)],
        };
        let panels = vec![panel(Scale::Linear { most: 10.0 }), panel(Scale::Logarithmic)];
        Plot { title: title.into(), panels, x_title: "rate".into() }.to_string()
    }

    /// Fails unless elements are closed in order, and quotes in pairs.
    fn check_xml(text: &str) {
        let mut open: Vec<&str> = Vec::new();
        for tag in text.split('<').skip(1) {
            let (tag, rest) = tag.split_once('>').unwrap();
            assert!(!rest.contains(['"', '&']) || rest.contains(';'), "{rest}");
            assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
            let name = tag.split([' ', '/']).next().unwrap();
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), Some(closed)),
                None if tag.ends_with('/') => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_plot_is_xml_whatever_it_is_called() {
        let text = plot("a < b & \"c\"\u{1}", &[3.0, 7.5, 200.0]);
        check_xml(&text);
        assert!(text.contains("a &lt; b &amp; &quot;c&quot;?"));
        assert_eq!(text.matches("<circle").count(), 12);
        assert_eq!(text.matches("stroke-dasharray").count(), 4);
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn values_without_a_place_are_left_out() {
        for values in [&[][..], &[0.0], &[0.0, 5.0], &[1.0; 3]] {
            let text = plot("few", values);
            check_xml(&text);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }

    #[test]
    fn ticks_are_round_numbers_that_hold_all_values() {
        let ticks = |most| Axis::linear(most, (0.0, 100.0)).ticks;
        assert_eq!(ticks(16.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(ticks(1.0), [0.0, 0.2, 0.4, 0.600_000_000_000_000_1, 0.8, 1.0]);
        assert_eq!(number(ticks(1.0)[3]), "0.6");
        assert_eq!(ticks(3210.0), [0.0, 1000.0, 2000.0, 3000.0, 4000.0]);
        let log = Axis::log([0.5, 0.0, 700.0].into_iter(), (100.0, 0.0));
        assert_eq!(log.ticks, [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!((log.at(0.1), log.at(10.0), log.at(1000.0)), (100.0, 50.0, 0.0));
    }
}
