//! Drawing: axes, lines, markers and labels, as SVG that stands in a page and takes its colours from the page's style.

use std::fmt::Write as _;

use askama::filters::{Escaper as _, Html};

use super::look::Look;
use super::scale::Scale;

/// Units of a drawing; the page scales it to the room there is.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = HEIGHT - 42.0;
/// Room for one letter of a label: measured generously, fonts differ.
const LETTER: f64 = 7.0;
/// Room for one line of text.
const LINE: f64 = 14.0;

/// A drawing with two axes.
pub(super) struct Plot {
    /// Unlike that of any other drawing of the page.
    pub(super) id: &'static str,
    pub(super) title: String,
    /// What is to be seen, in words.
    pub(super) description: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// The first lies on top.
    pub(super) lines: Vec<Line>,
    /// A value of y that means something, and its name.
    pub(super) mark: Option<(f64, String)>,
}

/// One side of a drawing.
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    pub(super) tick: fn(f64) -> String,
}

/// Values that belong together.
pub(super) struct Line {
    /// Written at its end.
    pub(super) name: String,
    pub(super) look: Look,
    pub(super) points: Vec<Point>,
}

/// One value.
#[derive(Default)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Between what the rounds lie.
    pub(super) range: Option<(f64, f64)>,
    /// Says in words what is here; a point without has no marker.
    pub(super) hint: Option<String>,
    /// Written at the marker.
    pub(super) note: Option<String>,
}

impl Plot {
    /// The drawing as an `<svg>` element.
    pub(super) fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            r#"<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{id}-title {id}-desc"><title id="{id}-title">{}</title><desc id="{id}-desc">{}</desc>"#,
            escaped(&self.title),
            escaped(&self.description),
            id = self.id,
        );
        self.draw_axes(&mut svg);
        for line in self.lines.iter().rev() {
            self.draw_line(&mut svg, line);
        }
        self.draw_names(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn right(&self) -> f64 {
        let longest = self.lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
        WIDTH - 14.0 - LETTER * longest as f64
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let (x, y) = (self.x.scale.place(x), self.y.scale.place(y));
        (LEFT + x * (self.right() - LEFT), BOTTOM - y * (BOTTOM - TOP))
    }

    fn draw_axes(&self, svg: &mut String) {
        let right = self.right();
        for tick in self.y.scale.ticks() {
            let (_, y) = self.place(0.0, tick);
            let _ = write!(
                svg,
                r#"<path class="grid" d="M{LEFT} {y:.1}H{right:.1}"/><text class="tick end" x="{:.1}" y="{:.1}">{}</text>"#,
                LEFT - 7.0,
                y + 4.0,
                (self.y.tick)(tick)
            );
        }
        for tick in self.x.scale.ticks() {
            let (x, _) = self.place(tick, 0.0);
            let _ = write!(
                svg,
                r#"<path class="axis" d="M{x:.1} {BOTTOM}v5"/><text class="tick middle" x="{x:.1}" y="{:.1}">{}</text>"#,
                BOTTOM + 18.0,
                (self.x.tick)(tick)
            );
        }
        let _ = write!(
            svg,
            r#"<path class="axis" d="M{LEFT} {BOTTOM}H{right:.1}"/><text class="label" x="4" y="13">{}</text><text class="label end" x="{right:.1}" y="{:.1}">{}</text>"#,
            self.y.label,
            HEIGHT - 7.0,
            self.x.label,
        );
        if let Some((value, name)) = &self.mark {
            let (_, y) = self.place(0.0, *value);
            let _ = write!(
                svg,
                r#"<path class="limit" d="M{LEFT} {y:.1}H{right:.1}"/><text class="note" x="{:.1}" y="{:.1}">{}</text>"#,
                LEFT + 5.0,
                y - 5.0,
                escaped(name)
            );
        }
    }

    fn draw_line(&self, svg: &mut String, line: &Line) {
        let _ = write!(svg, r#"<g class="{}"><path class="line" d=""#, line.look.class());
        for (index, point) in line.points.iter().enumerate() {
            let (x, y) = self.place(point.x, point.y);
            let _ = write!(svg, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        svg.push_str(r#""/>"#);
        for point in &line.points {
            let (x, y) = self.place(point.x, point.y);
            let (_, low) = self.place(point.x, point.range.map_or(point.y, |(low, _)| low));
            let (_, high) = self.place(point.x, point.range.map_or(point.y, |(_, high)| high));
            // A range that the marker hides says nothing.
            if low - high > 10.0 {
                let _ = write!(
                    svg,
                    r#"<path class="range" d="M{x:.1} {low:.1}V{high:.1}m-3 0h6M{:.1} {low:.1}h6"/>"#,
                    x - 3.0
                );
            }
            if let Some(hint) = &point.hint {
                let _ = write!(
                    svg,
                    r#"<path class="marker" transform="translate({x:.1} {y:.1})" d="{}"><title>{}</title></path>"#,
                    line.look.shape(),
                    escaped(hint)
                );
            }
            if let Some(note) = &point.note {
                // At the right end a name begins.
                let anchor = if x > self.right() - 16.0 { "end" } else { "middle" };
                let y = high.min(y - 5.0) - 5.0;
                let _ = write!(
                    svg,
                    r#"<text class="note {anchor}" x="{x:.1}" y="{y:.1}">{}</text>"#,
                    escaped(note)
                );
            }
        }
        svg.push_str("</g>");
    }

    /// The name of each line at its end, as close to it as the others allow.
    fn draw_names(&self, svg: &mut String) {
        let named: Vec<(&Line, (f64, f64))> = self
            .lines
            .iter()
            .filter_map(|line| line.points.last().map(|end| (line, self.place(end.x, end.y))))
            .collect();
        let wanted: Vec<f64> = named.iter().map(|&(_, (_, y))| y).collect();
        let places = apart(&wanted, LINE, TOP, BOTTOM);
        let left = self.right() + 10.0;
        for ((line, (x, end)), y) in named.into_iter().zip(places) {
            let _ = write!(svg, r#"<g class="{}">"#, line.look.class());
            // Where the name is not right beside the end, a thin line leads to it.
            if left - x > 14.0 || (y - end).abs() > 4.0 {
                let _ = write!(
                    svg,
                    r#"<path class="leader" d="M{:.1} {end:.1}L{:.1} {y:.1}"/>"#,
                    x + 5.0,
                    left - 2.0
                );
            }
            let _ = write!(
                svg,
                r#"<text class="name" x="{left:.1}" y="{:.1}">{}</text></g>"#,
                y + 4.0,
                escaped(&line.name)
            );
        }
    }
}

/// Places near `wanted`, at least `gap` apart, between `low` and `high` if there is room.
fn apart(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut places = wanted.to_vec();
    let mut next = low;
    for &index in &order {
        places[index] = places[index].max(next);
        next = places[index] + gap;
    }
    let mut next = high;
    for &index in order.iter().rev() {
        places[index] = places[index].min(next);
        next = places[index] - gap;
    }
    places
}

/// Text as it stands in HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    // Writing to a String cannot fail.
    let _ = Html.write_escaped_str(&mut html, text);
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_near_their_lines_without_touching_each_other() {
        assert_eq!(apart(&[50.0, 90.0], 10.0, 0.0, 100.0), [50.0, 90.0]);
        assert_eq!(apart(&[50.0, 48.0], 10.0, 0.0, 100.0), [58.0, 48.0]);
        assert_eq!(apart(&[99.0, 98.0, 97.0], 10.0, 0.0, 100.0), [100.0, 90.0, 80.0]);
        assert_eq!(apart(&[-5.0], 10.0, 0.0, 100.0), [0.0]);
        assert!(apart(&[], 10.0, 0.0, 100.0).is_empty());
    }
}
