//! Columns: which are shown at a width, and how wide each is.
//!
//! Invariant: a number's column is as wide as it was made, or not there; only names and bars stretch.

use super::cells::Paint;
use ratatui::text::Line;

/// One column of a table.
pub(super) struct Column<T> {
    pub(super) title: &'static str,
    pub(super) width: Width,
    /// Shown from this width of the table on.
    pub(super) from: u16,
    pub(super) cell: fn(&T, usize, Paint) -> Line<'static>,
}

#[derive(Clone, Copy)]
pub(super) enum Width {
    /// Text, from the left.
    Text(u16),
    /// A number, from the right.
    Number(u16),
    /// A bar: of what the names leave, up to twice this.
    Bar(u16),
    /// Takes what is left, at least this.
    Name(u16),
}

pub(super) const fn column<T>(
    title: &'static str,
    width: Width,
    from: u16,
    cell: fn(&T, usize, Paint) -> Line<'static>,
) -> Column<T> {
    Column { title, width, from, cell }
}

/// A longer name loses its middle, however much room there is.
pub(super) const NAME_MAX: u16 = 40;

impl<T> Column<T> {
    pub(super) fn aligned(&self, line: Line<'static>) -> Line<'static> {
        match self.width {
            Width::Number(_) => line.right_aligned(),
            Width::Text(_) | Width::Bar(_) | Width::Name(_) => line,
        }
    }
}

/// Of what the fixed columns leave, the names get what the longest (`name`) needs, then a bar grows.
pub(super) fn widths<T>(columns: &[&Column<T>], total: u16, name: u16) -> Vec<u16> {
    let gaps = u16::try_from(columns.len()).unwrap_or(0).saturating_sub(1);
    let fixed: u16 = columns.iter().map(|column| column.width.least()).sum();
    let mut left = total.saturating_sub(fixed + gaps);
    let mut widths: Vec<_> = columns.iter().map(|column| column.width.least()).collect();
    for (column, width) in columns.iter().zip(&mut widths) {
        let most = match column.width {
            Width::Name(_) => name.min(NAME_MAX),
            Width::Bar(least) => 2 * least,
            Width::Text(_) | Width::Number(_) => *width,
        };
        let more = left.min(most.saturating_sub(*width));
        left -= more;
        *width += more;
    }
    widths
}

impl Width {
    const fn least(self) -> u16 {
        match self {
            Self::Text(width) | Self::Number(width) | Self::Bar(width) | Self::Name(width) => width,
        }
    }
}
