//! The bars as SVG. It brings its own background, light or dark as the reader likes it, and no fonts.

use svg::node::element::{Group as Layer, Rectangle, Style, Text};

use super::document::{Bar, Document, Group};

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 20.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 215.0;
const LONGEST: f64 = 390.0;
const BAR: f64 = 14.0;
const STEP: f64 = 18.0;
/// From one row's bars to the next one's.
const GAP: f64 = 14.0;
const LINE: f64 = 18.0;
/// So many times no mesh a bar can be long. What is beyond is told by the bar's label, and by the bar's being broken.
const BEYOND: f64 = 4.0;

const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.heading { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.ground { fill: #ffffff; stroke: #d0d7de }
.one { fill: #57606a }
.bar0 { fill: #0969da }
.bar1 { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9ea7b3 }
  .ground { fill: #0d1117; stroke: #30363d }
  .one { fill: #9ea7b3 }
  .bar0 { fill: #4493f8 }
  .bar1 { fill: #f0883e }
}
";

/// What is drawn so far, from top to bottom.
struct Sheet {
    layer: Layer,
    y: f64,
    /// Pixels of no mesh.
    one: f64,
}

pub(super) fn draw(document: &Document) -> String {
    let bars = document.groups.iter().flat_map(|group| &group.bars);
    let most = bars.map(|bar| bar.ratio).fold(1.0, f64::max);
    let mut sheet = Sheet { layer: Layer::new(), y: MARGIN + LINE, one: LONGEST / most.min(BEYOND) };
    sheet.legend(document);
    for group in &document.groups {
        sheet.group(group);
    }
    for line in &document.caption {
        sheet.text(MARGIN, "small", line);
        sheet.y += LINE;
    }
    let height = sheet.y;
    let ground = Rectangle::new().set("class", "ground").set("width", WIDTH - 1.0).set("height", height - 1.0);
    let drawing = svg::Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("role", "img")
        .add(Style::new(STYLE))
        .add(ground.set("x", 0.5).set("y", 0.5).set("rx", 6))
        .add(sheet.layer);
    format!("{drawing}\n")
}

impl Sheet {
    /// The title, and who has which colour.
    fn legend(&mut self, document: &Document) {
        self.text(MARGIN, "title", "Beside no mesh, which is 1");
        self.y += LINE;
        self.text(MARGIN, "small", "↑ longer is better   ↓ shorter is better");
        self.y += LINE;
        for (at, (_, name)) in document.who.iter().enumerate() {
            self.rectangle(MARGIN, BAR, &format!("bar{at}"));
            self.text(MARGIN + BAR + 6.0, "", name);
            self.y += LINE;
        }
    }

    fn group(&mut self, group: &Group) {
        if let Some(heading) = group.heading {
            self.y += GAP;
            self.text(MARGIN, "heading", heading);
            self.y += LINE + 4.0;
        }
        let top = self.y;
        self.text(MARGIN, "", &group.title);
        self.y += 15.0;
        self.text(MARGIN, "small", &group.base);
        let named = self.y + BAR;
        self.y = top;
        for bar in &group.bars {
            self.bar(bar);
            self.y += STEP;
        }
        let end = self.y;
        self.mark(top, end);
        self.y = end.max(named) + GAP;
    }

    fn bar(&mut self, bar: &Bar) {
        const CUT: f64 = 5.0;
        let class = format!("bar{}", bar.who);
        let length = bar.ratio.min(BEYOND) * self.one;
        if bar.ratio > BEYOND {
            self.rectangle(LEFT, length - 3.0 * CUT, &class);
            self.rectangle(LEFT + length - 2.0 * CUT, 2.0 * CUT, &class);
        } else {
            self.rectangle(LEFT, length.max(1.0), &class);
        }
        // Beside the mark, too.
        self.text(LEFT + length.max(self.one) + 8.0, "", &bar.label);
    }

    /// Where bars as long as no mesh end.
    fn mark(&mut self, top: f64, end: f64) {
        let (x, y) = (LEFT + self.one - 0.5, top - BAR);
        let mark =
            Rectangle::new().set("class", "one").set("x", x).set("y", y).set("width", 1).set("height", end - top);
        self.add(mark);
    }

    fn rectangle(&mut self, x: f64, width: f64, class: &str) {
        let y = self.y - BAR + 3.0;
        let bar = Rectangle::new().set("class", class).set("x", x).set("y", y);
        self.add(bar.set("width", width).set("height", BAR).set("rx", 2));
    }

    fn text(&mut self, x: f64, class: &str, text: &str) {
        let text = Text::new(text).set("x", x).set("y", self.y);
        self.add(if class.is_empty() { text } else { text.set("class", class) });
    }

    fn add(&mut self, node: impl svg::Node) {
        self.layer = std::mem::take(&mut self.layer).add(node);
    }
}
