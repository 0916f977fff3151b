//! Tables as the commands of the kit print them.

use crate::cli::admin::printable;

/// The rows, their cells one below the other; the columns named in `right` end at the same place. What agents wrote cannot
/// act on the terminal.
pub(super) fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| std::array::from_fn(|column| printable(&row[column])))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    });
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell = match right.contains(&column) {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [["a", "1", "x"], ["bcd", "200", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows, &[1]), "a      1  x\nbcd  200\n");
        let evil = [["\u{1b}[2J\n".to_owned()]];
        assert_eq!(table(&evil, &[]), "\u{fffd}[2J\u{fffd}\n");
    }
}
