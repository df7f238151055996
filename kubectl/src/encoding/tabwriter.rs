//! Columns aligned as Go's `text/tabwriter` aligns them: a cell ends at a tab, and neighbouring lines share a column's width
//! only as long as each of them has a cell there. The last cell of a line, which no tab ends, is never padded.

/// The settings of a writer.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The least width of a cell, padding included.
    pub min_width: usize,
    /// Spaces after the longest cell.
    pub padding: usize,
}

/// What kubectl's tables use.
pub const TABLE: Layout = Layout { min_width: 6, padding: 3 };
/// What `describe` uses.
pub const DESCRIBE: Layout = Layout { min_width: 0, padding: 2 };

/// A writer that remembers how wide columns were, so that a watch's later rows stand under the earlier ones.
#[derive(Clone, Debug)]
pub struct TabWriter {
    layout: Layout,
    remember: bool,
    widest: Vec<usize>,
}

impl TabWriter {
    /// A writer whose columns start fresh with every text.
    pub fn new(layout: Layout) -> TabWriter {
        TabWriter { layout, remember: false, widest: Vec::new() }
    }

    /// A writer whose columns never get narrower again.
    pub fn remembering(layout: Layout) -> TabWriter {
        TabWriter { layout, remember: true, widest: Vec::new() }
    }

    /// The text with its tabs replaced by alignment.
    pub fn align(&mut self, text: &str) -> String {
        let lines: Vec<Vec<&str>> = text.split('\n').map(|l| l.split('\t').collect()).collect();
        let mut out = String::with_capacity(text.len() * 2);
        self.format(&lines, 0, lines.len(), &mut Vec::new(), &mut out);
        out
    }

    fn format(&mut self, lines: &[Vec<&str>], from: usize, to: usize, widths: &mut Vec<usize>, out: &mut String) {
        let column = widths.len();
        let (mut printed, mut this) = (from, from);
        while this < to {
            if column + 1 >= lines[this].len() {
                this += 1;
                continue;
            }
            write_lines(lines, printed, this, widths, out);
            printed = this;
            let mut width = self.layout.min_width;
            while this < to && column + 1 < lines[this].len() {
                width = width.max(lines[this][column].chars().count() + self.layout.padding);
                this += 1;
            }
            if self.remember {
                match self.widest.get_mut(column) {
                    Some(w) => {
                        width = width.max(*w);
                        *w = width;
                    }
                    None => self.widest.push(width),
                }
            }
            widths.push(width);
            self.format(lines, printed, this, widths, out);
            widths.pop();
            printed = this;
        }
        write_lines(lines, printed, to, widths, out);
    }
}

fn write_lines(lines: &[Vec<&str>], from: usize, to: usize, widths: &[usize], out: &mut String) {
    for (i, line) in lines.iter().enumerate().take(to).skip(from) {
        for (j, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(j) {
                (cell.chars().count()..*width).for_each(|_| out.push(' '));
            }
        }
        if i + 1 < lines.len() {
            out.push('\n');
        }
    }
}

/// Aligns one text on its own.
pub fn align(layout: Layout, text: &str) -> String {
    TabWriter::new(layout).align(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_live_as_long_as_every_line_has_them() {
        let text = "Name:\tx\nLabels:\ta=b\n\tc=d\nPlain line\nA:\tb\n";
        assert_eq!(align(DESCRIBE, text), "Name:    x\nLabels:  a=b\n         c=d\nPlain line\nA:  b\n");
    }

    #[test]
    fn the_last_cell_is_not_padded_and_empty_ones_are() {
        assert_eq!(align(TABLE, "NAME\tREADY\tAGE\nx\t\t1s\n"), "NAME   READY   AGE\nx              1s\n");
    }

    #[test]
    fn widths_are_remembered() {
        let mut w = TabWriter::remembering(TABLE);
        assert_eq!(w.align("NAME\tAGE\nlong-name\t1s\n"), "NAME        AGE\nlong-name   1s\n");
        assert_eq!(w.align("x\t2s\n"), "x           2s\n");
    }
}
