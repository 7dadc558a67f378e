//! Where panels stand: a page is 24 units wide, panels flow from left to right, a line is as high as its highest panel.
//!
//! Nothing can overlap, and a line that is not full is an error: it would leave a hole on the page.

use anyhow::ensure;

use super::model::{Dashboard, Panel, Row};

const PAGE_WIDTH: u32 = 24;

/// A panel or a heading with its place.
#[derive(Debug)]
pub struct Placed<'a> {
    pub item: Item<'a>,
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

#[derive(Debug)]
pub enum Item<'a> {
    Heading(&'a Row),
    Panel(&'a Panel),
}

/// Gives every heading and panel of a dashboard its place, from top to bottom.
///
/// # Errors
/// A line has a hole at its right end, or panels of different heights.
pub fn place(dashboard: &Dashboard) -> anyhow::Result<Vec<Placed<'_>>> {
    let mut placed = Vec::new();
    let mut y = 0;
    for row in &dashboard.rows {
        placed.push(Placed { item: Item::Heading(row), x: 0, y, width: PAGE_WIDTH, height: 1 });
        y += 1;
        let mut x = 0;
        let mut line_height = 0;
        for panel in &row.panels {
            ensure!(
                x == 0 || panel.height == line_height,
                "`{}` on {}: panels side by side must be equally high",
                panel.title,
                dashboard.uid
            );
            ensure!(
                x + panel.width <= PAGE_WIDTH,
                "`{}` on {}: the line before it is {x} wide, not {PAGE_WIDTH}",
                panel.title,
                dashboard.uid
            );
            placed.push(Placed { item: Item::Panel(panel), x, y, width: panel.width, height: panel.height });
            line_height = panel.height;
            x += panel.width;
            if x == PAGE_WIDTH {
                y += line_height;
                x = 0;
            }
        }
        ensure!(x == 0, "the last line of `{}` on {} is {x} wide, not {PAGE_WIDTH}", row.title, dashboard.uid);
    }
    Ok(placed)
}
