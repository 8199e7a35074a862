//! Tables without borders, every cell escaped, fitted to the terminal.
//!
//! Elsewhere than on a terminal a row is a line, however long, for grep(1) and its like.

use std::io::{IsTerminal, stdout};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Width, presets};

use super::escape;

/// The first column, a task id or the like, gets at most this share of a terminal.
const FIRST_COLUMN_PERCENT: u16 = 30;

/// Below this a flexible column tells nothing: rather let the terminal break the line.
const NARROWEST: u16 = 14;

/// Less of the first column tells nothing either.
const FIRST_COLUMN_NARROWEST: u16 = 8;

/// Between two columns.
const PADDING: u16 = 2;

/// How rows are fitted to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Not at all.
    Whole,
    /// The last so many columns are wrapped.
    Wrapped(usize),
    /// The last column is cut.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Table {
    inner: comfy_table::Table,
    fit: Fit,
}

impl Table {
    /// A table whose last `flexible` columns hold text that may be wrapped.
    pub(crate) fn new(header: &[&str], flexible: usize) -> Self {
        Self::fitted(
            header,
            if stdout().is_terminal() { Fit::Wrapped(flexible) } else { Fit::Whole },
        )
    }

    /// A table of one line a row: the last column is cut, unless all of it is wanted.
    pub(crate) fn cut(header: &[&str], whole: bool) -> Self {
        Self::fitted(header, if stdout().is_terminal() && !whole { Fit::Cut } else { Fit::Whole })
    }

    fn fitted(header: &[&str], fit: Fit) -> Self {
        let mut inner = comfy_table::Table::new();
        let mut names: Row = header.to_vec().into();
        names.max_height(1);
        inner.load_style(presets::NOTHING).set_header(names);
        if fit == Fit::Whole {
            inner.force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        } else {
            inner.set_content_arrangement(ContentArrangement::Dynamic);
        }
        for column in inner.column_iter_mut() {
            column.set_padding((0, PADDING));
        }
        Self { inner, fit }
    }

    /// Figures are easier to compare flush right.
    pub(crate) fn right(mut self, column: usize) -> Self {
        if let Some(column) = self.inner.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Row = cells.into_iter().map(|cell| escape(&cell)).collect::<Vec<_>>().into();
        if self.fit == Fit::Cut {
            row.max_height(1);
        }
        self.inner.add_row(row);
    }

    /// The lines, each with its newline.
    pub(crate) fn text(self) -> String {
        self.lines().into_iter().map(|line| line + "\n").collect()
    }

    /// The lines: the header, then the rows; a line each, but where rows are wrapped.
    pub(crate) fn lines(mut self) -> Vec<String> {
        self.fit();
        self.inner.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Columns that are not flexible keep the width of what they hold.
    fn fit(&mut self) {
        let flexible = match self.fit {
            Fit::Whole => return,
            Fit::Wrapped(flexible) => flexible,
            Fit::Cut => 1,
        };
        let widths = self.inner.column_max_content_widths();
        let rigid = widths.len().saturating_sub(flexible);
        let first = self.inner.width().map(|width| first_column(width, &widths, flexible));
        for (index, column) in self.inner.column_iter_mut().enumerate() {
            let narrow = first.filter(|first| index == 0 && widths.first() > Some(first));
            column.set_constraint(match narrow {
                _ if index >= rigid => ColumnConstraint::LowerBoundary(Width::Fixed(NARROWEST)),
                // The padding counts.
                Some(first) => ColumnConstraint::Absolute(Width::Fixed(first + PADDING)),
                None => ColumnConstraint::ContentWidth,
            });
        }
    }
}

/// What the first column's content may take: a share of the terminal, and no more than the rigid ones leave, where the
/// flexible ones get their least.
fn first_column(width: u16, widths: &[u16], flexible: usize) -> u16 {
    let share = width.saturating_mul(FIRST_COLUMN_PERCENT) / 100;
    let rigid = widths.len().saturating_sub(flexible);
    let others = widths.get(1..rigid).unwrap_or_default();
    let taken =
        others.iter().fold(0_u16, |sum, width| sum.saturating_add(width.saturating_add(PADDING)));
    let least = NARROWEST.saturating_mul(u16::try_from(flexible).unwrap_or(1)) + PADDING;
    share.min(width.saturating_sub(taken).saturating_sub(least)).max(FIRST_COLUMN_NARROWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_column_gives_way_to_what_cannot() {
        // 80 columns; the last one is flexible.
        assert_eq!(first_column(80, &[40, 7, 6, 30], 1), 24);
        assert_eq!(first_column(80, &[40, 7, 12, 5, 6, 5, 6, 30], 1), 11);
        assert_eq!(first_column(40, &[40, 7, 12, 5, 6, 5, 6, 30], 1), 8);
    }

    #[test]
    fn a_row_is_a_line_whatever_its_cells_hold() {
        let mut table = Table::fitted(&["TASK", "PID"], Fit::Whole).right(1);
        table.row(["evil\nid\x1b[2J".to_owned(), "7".to_owned()]);
        table.row(["b".to_owned(), "4711".to_owned()]);
        assert_eq!(
            table.text(),
            "TASK                PID\nevil\\x0aid\\x1b[2J     7\nb                  4711\n"
        );
    }
}
