//! Tables without borders, every cell escaped, fitted to the terminal.
//!
//! If the output is not a terminal, a row is one line, however long, for grep(1) and similar tools.

use std::{
    io::{IsTerminal, stdout},
    ops::Range,
};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Width, presets};
use unicode_width::UnicodeWidthStr;

use super::push_escaped;

/// The first column, a task id or the like, gets at most this share of a terminal.
const FIRST_COLUMN_PERCENT: u16 = 30;

/// Below this width a flexible column is useless: let the terminal break the line instead.
const NARROWEST: u16 = 14;

/// Minimum width of the first column, for the same reason.
const FIRST_COLUMN_NARROWEST: u16 = 8;

/// The gap between two columns.
const PADDING: u16 = 2;

/// How rows are fitted to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Rows are not fitted.
    Whole,
    /// The last columns, this many, are wrapped.
    Wrapped(usize),
    /// The last column is cut.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    /// Right-aligned columns.
    right: Vec<usize>,
    cells: Cells,
    fit: Fit,
}

/// The cells of all rows, escaped, in one text: a list may have a million of them.
#[derive(Debug, Default)]
struct Cells {
    text: String,
    cells: Vec<Cell>,
}

#[derive(Clone, Debug)]
struct Cell {
    /// Where it is in the text.
    place: Range<usize>,
    /// How many columns of a terminal it takes.
    width: usize,
}

impl Cells {
    fn push(&mut self, cell: &str) {
        let start = self.text.len();
        push_escaped(&mut self.text, cell);
        let place = start..self.text.len();
        self.cells.push(Cell { width: columns(&self.text[start..]), place });
    }

    /// Returns the text of each cell, and its width.
    fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.cells.iter().map(|cell| (&self.text[cell.place.clone()], cell.width))
    }
}

impl Table {
    /// Creates a table whose last `flexible` columns contain text that may be wrapped.
    pub(crate) fn new(header: &[&str], flexible: usize) -> Self {
        Self::fitted(
            header,
            if stdout().is_terminal() { Fit::Wrapped(flexible) } else { Fit::Whole },
        )
    }

    /// Creates a table with one line per row: the last column is cut, unless it is requested in
    /// full.
    pub(crate) fn cut(header: &[&str], whole: bool) -> Self {
        Self::fitted(header, if stdout().is_terminal() && !whole { Fit::Cut } else { Fit::Whole })
    }

    fn fitted(header: &[&str], fit: Fit) -> Self {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Self { header, right: Vec::new(), cells: Cells::default(), fit }
    }

    /// Right-aligns a column: figures are easier to compare that way.
    pub(crate) fn right(mut self, column: usize) -> Self {
        self.right.push(column);
        self
    }

    /// Adds a row, which has a cell for each name of the header.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        for cell in cells {
            self.cells.push(cell.as_ref());
        }
        debug_assert_eq!(self.cells.cells.len() % self.header.len(), 0, "{:?}", self.header);
    }

    /// Puts the rows, which were added as number 0, 1, and so on, into this order.
    pub(crate) fn in_order(mut self, rows: impl IntoIterator<Item = usize>) -> Self {
        let count = self.header.len();
        let cells = &self.cells.cells;
        let of = |row: usize| cells[row * count..(row + 1) * count].iter().cloned();
        self.cells.cells = rows.into_iter().flat_map(of).collect();
        self
    }

    /// Returns the lines, each with its newline.
    pub(crate) fn text(self) -> String {
        match self.fit {
            Fit::Whole => self.whole_text(),
            Fit::Wrapped(_) | Fit::Cut => {
                let mut lines = self.lines();
                lines.push(String::new());
                lines.join("\n")
            }
        }
    }

    /// Returns the lines: the header, then one line per row, except where rows are wrapped.
    pub(crate) fn lines(self) -> Vec<String> {
        match self.fit {
            Fit::Whole => self.whole_text().lines().map(str::to_owned).collect(),
            Fit::Wrapped(flexible) => self.fitted_lines(flexible),
            Fit::Cut => self.fitted_lines(1),
        }
    }

    /// Formats unfitted rows without comfy-table, which takes ten times as long: a pipe may get all
    /// the leaks of a year.
    fn whole_text(&self) -> String {
        let header = self.header.iter().map(|name| (name.as_str(), columns(name)));
        let all = || header.clone().chain(self.cells.iter());
        let count = self.header.len();
        let mut widths = vec![0; count];
        for (index, (_, width)) in all().enumerate() {
            let widest = &mut widths[index % count];
            *widest = width.max(*widest);
        }
        let mut text = String::with_capacity(self.cells.text.len() * 3 / 2);
        for (index, (cell, width)) in all().enumerate() {
            let column = index % count;
            let missing = widths[column] - width;
            let before = if self.right.contains(&column) { missing } else { 0 };
            push_spaces(&mut text, before);
            text.push_str(cell);
            if column + 1 == count {
                let is_space = |char: char| char.is_whitespace() && char != '\n';
                text.truncate(text.trim_end_matches(is_space).len());
                text.push('\n');
            } else {
                push_spaces(&mut text, missing - before + usize::from(PADDING));
            }
        }
        text
    }

    fn fitted_lines(self, flexible: usize) -> Vec<String> {
        let mut inner = self.for_a_terminal();
        share_width(&mut inner, flexible);
        inner.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn for_a_terminal(self) -> comfy_table::Table {
        let mut inner = comfy_table::Table::new();
        let mut names = Row::from(&self.header);
        names.max_height(1);
        inner.load_style(presets::NOTHING).set_header(names);
        inner.set_content_arrangement(ContentArrangement::Dynamic);
        for (index, column) in inner.column_iter_mut().enumerate() {
            column.set_padding((0, PADDING));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let cells: Vec<&str> = self.cells.iter().map(|(cell, _)| cell).collect();
        for row in cells.chunks(self.header.len()) {
            let mut row: Row = row.into();
            if self.fit == Fit::Cut {
                row.max_height(1);
            }
            inner.add_row(row);
        }
        inner
    }
}

/// Returns how many columns of a terminal a cell takes. Nearly all are ASCII without control
/// characters, and a byte is a column.
fn columns(cell: &str) -> usize {
    if cell.is_ascii() { cell.len() } else { cell.width() }
}

/// Appends many spaces at once: a column of a long list may be mostly empty.
fn push_spaces(text: &mut String, mut count: usize) {
    const SPACES: &str = "                                ";
    while count > SPACES.len() {
        text.push_str(SPACES);
        count -= SPACES.len();
    }
    text.push_str(&SPACES[..count]);
}

/// Makes columns that are not flexible keep the width of their content.
fn share_width(table: &mut comfy_table::Table, flexible: usize) {
    let widths = table.column_max_content_widths();
    let rigid = widths.len().saturating_sub(flexible);
    let first = table.width().map(|width| first_column(width, &widths, flexible));
    for (index, column) in table.column_iter_mut().enumerate() {
        let narrow = first.filter(|first| index == 0 && widths.first() > Some(first));
        column.set_constraint(match narrow {
            _ if index >= rigid => ColumnConstraint::LowerBoundary(Width::Fixed(NARROWEST)),
            // The width includes the padding.
            Some(first) => ColumnConstraint::Absolute(Width::Fixed(first + PADDING)),
            None => ColumnConstraint::ContentWidth,
        });
    }
}

/// Returns the maximum width of the first column's content: a share of the terminal, and at most
/// what the rigid columns leave if the flexible ones get their minimum.
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
    fn the_first_column_shrinks_before_rigid_ones() {
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

    #[test]
    fn a_long_cell_widens_its_column() {
        let mut table = Table::fitted(&["TASK", "PID"], Fit::Whole);
        let long = "x".repeat(100);
        table.row([long.as_str(), "7"]);
        table.row(["a", "8"]);
        let expected =
            format!("TASK{0}  PID\n{long}  7\na{1}  8\n", " ".repeat(96), " ".repeat(99));
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn rows_can_be_put_into_another_order() {
        let mut table = Table::fitted(&["TASK", "PID"], Fit::Whole);
        for (task, pid) in [("c", "1"), ("a", "22"), ("b", "")] {
            table.row([task.to_owned(), pid.to_owned()]);
        }
        assert_eq!(table.in_order([1, 2, 0]).text(), "TASK  PID\na     22\nb\nc     1\n");
    }

    #[test]
    fn wide_characters_count_with_their_width() {
        let mut table = Table::fitted(&["TASK", "PID"], Fit::Whole);
        table.row(["日本".to_owned(), "7".to_owned()]);
        table.row(["täxtx".to_owned(), "8".to_owned()]);
        assert_eq!(table.text(), "TASK   PID\n日本   7\ntäxtx  8\n");
    }
}
