//! Bar charts as SVG that can be read on light and on dark ground.

use anyhow::anyhow;
use plotters::{
    coord::ranged1d::SegmentValue,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use serde::{Deserialize, Serialize};

use crate::measure::{Figure, number};

/// A chart of horizontal bars with their spread.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chart {
    /// Part of the file's name.
    pub(crate) name: String,
    /// With the unit.
    pub(crate) caption: String,
    /// From top to bottom.
    pub(crate) bars: Vec<(String, Figure)>,
}

const WIDTH: u32 = 760;
const BAR_HEIGHT: u32 = 34;
const LABEL_WIDTH: u32 = 190;
const FONT: &str = "sans-serif";
/// Both have a contrast above 4 on white and on GitHub's dark ground.
const INK: RGBColor = RGBColor(0x76, 0x7f, 0x88);
const BAR: RGBColor = RGBColor(0x2f, 0x81, 0xc4);

impl Chart {
    pub(crate) fn draw(&self) -> anyhow::Result<String> {
        let mut svg = String::new();
        // The backend's errors borrow the string.
        self.draw_to(&mut svg)
            .map_err(|error| anyhow!("cannot draw {}: {error}", self.name))?;
        svg.push('\n');
        Ok(svg)
    }

    fn draw_to(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let count = u32::try_from(self.bars.len())?;
        let most = self.bars.iter().map(|(_, figure)| figure.max());
        // Room for the numbers behind the bars.
        let most = most.fold(0.0, f64::max) * 1.15;
        let height = 70 + BAR_HEIGHT * count;
        let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
        let text = (FONT, 14).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.caption, (FONT, 16).into_font().color(&INK))
            .margin_top(8)
            .margin_right(20)
            .x_label_area_size(28)
            .y_label_area_size(LABEL_WIDTH)
            .build_cartesian_2d(0.0..most, (0..count.saturating_sub(1)).into_segmented())?;
        let label = |place: &SegmentValue<u32>| match place {
            SegmentValue::CenterOf(place) => self.label(*place),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.3))
            .axis_style(INK)
            .label_style(text.clone())
            .x_label_formatter(&|value| match value {
                0.0 => "0".to_owned(),
                _ => number(*value),
            })
            .y_labels(self.bars.len())
            .y_label_formatter(&label)
            .draw()?;
        for (place, (_, figure)) in (0..count).rev().zip(&self.bars) {
            let bottom = SegmentValue::Exact(place);
            let top = SegmentValue::Exact(place + 1);
            let middle = SegmentValue::CenterOf(place);
            let median = figure.median();
            let mut bar = Rectangle::new([(0.0, bottom), (median, top)], BAR.filled());
            bar.set_margin(6, 6, 0, 0);
            chart.draw_series([bar])?;
            let spread = [figure.min(), figure.max()].map(|value| (value, middle.clone()));
            chart.draw_series([PathElement::new(spread, INK.stroke_width(2))])?;
            let behind = text.pos(Pos::new(HPos::Left, VPos::Center));
            let value = EmptyElement::at((figure.max(), middle))
                + Text::new(number(median), (8, 0), behind);
            chart.draw_series([value])?;
        }
        area.present()?;
        Ok(())
    }

    /// Places are counted from the bottom.
    fn label(&self, place: u32) -> String {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let bar = self.bars.iter().rev().nth(place);
        bar.map(|(label, _)| label.clone()).unwrap_or_default()
    }
}
