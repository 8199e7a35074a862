//! Tables without borders, every cell escaped, fitted to the terminal.

use std::io::{IsTerminal, stdout};

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, TableStyle, Width, presets,
};

use super::escape;

/// Cells of what cannot be wrapped in a sensible way stay below this share of the terminal.
const WIDEST_FIRST_COLUMN: Width = Width::Percentage(40);

/// Lines that a row may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// All of it in one line, however long.
    Whole,
    /// Wrapped at the terminal's edge.
    Wrapped,
    /// Cut at the terminal's edge.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Table {
    inner: comfy_table::Table,
    fit: Fit,
}

impl Table {
    /// On a terminal long cells are wrapped; elsewhere a row is a line.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self::fitted(header, if stdout().is_terminal() { Fit::Wrapped } else { Fit::Whole })
    }

    /// On a terminal the last column is cut, unless all of it is wanted.
    pub(crate) fn cut(header: &[&str], whole: bool) -> Self {
        let cut = stdout().is_terminal() && !whole;
        Self::fitted(header, if cut { Fit::Cut } else { Fit::Whole })
    }

    fn fitted(header: &[&str], fit: Fit) -> Self {
        const PLAIN: TableStyle = presets::NOTHING;
        let mut inner = comfy_table::Table::new();
        inner.load_style(PLAIN).set_header(header.to_vec());
        if fit == Fit::Whole {
            inner.force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        } else {
            inner.set_content_arrangement(ContentArrangement::Dynamic);
        }
        let columns = header.len();
        for (index, column) in inner.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if fit == Fit::Cut && index == 0 {
                column.set_constraint(ColumnConstraint::UpperBoundary(WIDEST_FIRST_COLUMN));
            } else if fit == Fit::Cut && index + 1 < columns {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
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
    pub(crate) fn text(&self) -> String {
        self.inner.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
