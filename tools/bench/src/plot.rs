//! A plot of throughput against latency, with one line for each variant and percentile.

use std::fmt::Write as _;

use crate::tally::millis;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 55.0;
/// Colours of lines, distinct in grey too.
const COLOURS: [&str; 6] = ["#1b6ca8", "#d1495b", "#2e933c", "#8f5db7", "#c77d0a", "#555555"];

/// One load of a variant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlotPoint {
    pub(crate) variant: &'static str,
    /// Calls per second.
    pub(crate) rate: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// The plot as SVG. The scale of latencies is logarithmic, because percentiles span decades.
pub(crate) fn svg(title: &str, points: &[PlotPoint]) -> String {
    let scale = Scale::of(points);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    label(&mut text, (LEFT, TOP - 16.0), "start", &escape(title));
    axes(&mut text, &scale);
    let mut variants: Vec<&str> = points.iter().map(|point| point.variant).collect();
    variants.dedup();
    for (place, variant) in variants.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let of_variant = || points.iter().filter(|point| point.variant == *variant);
        let curves = [
            ("p50", "", of_variant().map(|point| (point.rate, point.p50_us)).collect()),
            (
                "p99",
                "6 4",
                of_variant().map(|point| (point.rate, point.p99_us)).collect::<Vec<_>>(),
            ),
        ];
        for (line, (name, dashes, points)) in curves.iter().enumerate() {
            curve(&mut text, &scale, colour, dashes, points);
            let row = u32::try_from(place * 2 + line).unwrap_or_default();
            let y = TOP + 14.0 + 20.0 * f64::from(row);
            let x = WIDTH - RIGHT + 15.0;
            write(
                &mut text,
                format_args!(
                    "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" \
                 stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
                    x + 26.0
                ),
            );
            let legend = format!("{} {name}", escape(variant));
            label(&mut text, (x + 32.0, y + 4.0), "start", &legend);
        }
    }
    text.push_str("</svg>\n");
    text
}

/// Maps figures to coordinates.
struct Scale {
    rate_max: f64,
    /// Limits of the latencies, as powers of ten in milliseconds.
    low: i32,
    high: i32,
}

impl Scale {
    fn of(points: &[PlotPoint]) -> Self {
        let rate = points.iter().map(|point| point.rate).fold(1.0, f64::max);
        let latencies = || points.iter().flat_map(|point| [point.p50_us, point.p99_us]);
        let decade = |us: Option<u64>| millis(us.unwrap_or(1_000).max(1)).log10();
        let whole = |decade: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "a decade of a latency is small")]
            let whole = decade as i32;
            whole
        };
        let low = whole(decade(latencies().min()).floor());
        let high = whole(decade(latencies().max()).ceil()).max(low + 1);
        Self { rate_max: rate * 1.05, low, high }
    }

    fn x(&self, rate: f64) -> f64 {
        LEFT + rate / self.rate_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, us: u64) -> f64 {
        let decade = millis(us.max(1)).log10();
        let share = (decade - f64::from(self.low)) / f64::from(self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

fn axes(text: &mut String, scale: &Scale) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for decade in scale.low..=scale.high {
        let ms = 10_f64.powi(decade);
        let share = f64::from(decade - scale.low) / f64::from(scale.high - scale.low);
        let y = bottom - share * (bottom - TOP);
        write(
            text,
            format_args!(
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>"
            ),
        );
        label(text, (LEFT - 8.0, y + 4.0), "end", &format!("{ms} ms"));
    }
    for part in 0..=5 {
        let rate = scale.rate_max * f64::from(part) / 5.0;
        label(text, (scale.x(rate), bottom + 18.0), "middle", &format!("{rate:.0}"));
    }
    write(
        text,
        format_args!("<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>"),
    );
    label(text, (f64::midpoint(LEFT, right), HEIGHT - 14.0), "middle", "a second");
}

fn curve(text: &mut String, scale: &Scale, colour: &str, dashes: &str, points: &[(f64, u64)]) {
    let place = |(rate, us): &(f64, u64)| (scale.x(*rate), scale.y(*us));
    let joined: Vec<String> =
        points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    write(
        text,
        format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
         stroke-dasharray=\"{dashes}\"/>",
            joined.join(" ")
        ),
    );
    for (x, y) in points.iter().map(place) {
        write(
            text,
            format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"),
        );
    }
}

fn label(text: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    write(
        text,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"),
    );
}

fn write(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(variant: &'static str, rate: f64, p50_us: u64, p99_us: u64) -> PlotPoint {
        PlotPoint { variant, rate, p50_us, p99_us }
    }

    #[test]
    fn every_variant_has_a_line_for_each_percentile() {
        let points = [
            point("till", 100.0, 900, 2_000),
            point("till", 900.0, 4_000, 80_000),
            point("tikv <bare>", 300.0, 3_000, 9_000),
        ];
        let text = svg("a & b", &points);
        assert_eq!(text.matches("<polyline").count(), 4);
        assert_eq!(text.matches("<circle").count(), 6);
        assert!(text.contains("a &amp; b") && text.contains("tikv &lt;bare&gt; p99"));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn the_quickest_stands_lowest_and_the_most_at_the_right() {
        let scale = Scale::of(&[point("a", 10.0, 500, 70_000), point("a", 1_000.0, 600, 900)]);
        assert_eq!((scale.low, scale.high), (-1, 2));
        assert!(scale.y(500) > scale.y(70_000));
        assert!(scale.x(10.0) < scale.x(1_000.0));
        assert!(scale.x(1_000.0) <= WIDTH - RIGHT && scale.y(70_000) >= TOP);
    }

    #[test]
    fn nothing_to_show_is_an_empty_picture() {
        let text = svg("x", &[]);
        assert!(text.ends_with("</svg>\n") && !text.contains("NaN"));
    }
}
