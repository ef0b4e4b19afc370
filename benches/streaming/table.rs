//! What the clients gave: medians over the runs, for people and as JSON.

use std::cell::RefCell;

use serde_json::{Value, json};

use crate::support::median;

/// What one run of one client gave: named numbers, the unit in the name.
#[derive(Clone, Default)]
pub(crate) struct Figures(pub(crate) Vec<(&'static str, f64)>);

impl Figures {
    /// With one more.
    pub(crate) fn and(mut self, name: &'static str, value: f64) -> Self {
        self.0.push((name, value));
        self
    }

    fn line(&self) -> String {
        let there = self.0.iter().filter(|(_, value)| !value.is_nan());
        let all: Vec<String> = there.map(|(name, value)| format!("{name} {}", number(*value))).collect();
        all.join(", ")
    }

    fn json(&self) -> Value {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// All runs of one row.
pub(crate) struct Table {
    row: String,
    runs: Vec<(String, Figures)>,
    notes: RefCell<Vec<String>>,
}

impl Table {
    pub(crate) fn new(row: &str) -> Self {
        Self { row: row.to_owned(), runs: Vec::new(), notes: RefCell::default() }
    }

    /// Adds and prints one run.
    pub(crate) fn add(&mut self, pair: usize, who: &str, figures: Figures) {
        println!("{} {pair} {who}: {}", self.row, figures.line());
        self.runs.push((who.to_owned(), figures));
    }

    fn values(&self, who: &str, name: &str) -> Vec<f64> {
        let of = self.runs.iter().filter(|(other, _)| other == who);
        of.flat_map(|(_, figures)| figures.0.iter().filter(|(other, _)| *other == name).map(|(_, v)| *v)).collect()
    }

    /// The median of a figure; NaN when there is none.
    pub(crate) fn median(&self, who: &str, name: &str) -> f64 {
        median(&self.values(who, name))
    }

    /// The most that a figure was; none when there is none.
    pub(crate) fn most(&self, who: &str, name: &str) -> Option<f64> {
        self.values(who, name).into_iter().max_by(f64::total_cmp)
    }

    /// Who ran, in the order of their first runs.
    pub(crate) fn who(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (who, _) in &self.runs {
            if !names.contains(&who.as_str()) {
                names.push(who);
            }
        }
        names
    }

    /// One line below the table, also kept for the JSON file. Left out when it compares with one who did not run.
    pub(crate) fn note(&self, text: String) {
        if text.contains("NaN") {
            return;
        }
        println!("  {text}");
        self.notes.borrow_mut().push(text);
    }

    /// Prints the medians: a line each client, a column each figure.
    pub(crate) fn print(&self) {
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in self.runs.iter().flat_map(|(_, figures)| &figures.0) {
            if !columns.contains(name) {
                columns.push(name);
            }
        }
        let head = std::iter::once(self.row.clone()).chain(columns.iter().map(|name| (*name).to_owned()));
        let mut lines: Vec<Vec<String>> = vec![head.collect()];
        for who in self.who() {
            let cell = |name: &&str| {
                let value = self.median(who, name);
                if value.is_nan() { "-".to_owned() } else { number(value) }
            };
            lines.push(std::iter::once(who.to_owned()).chain(columns.iter().map(cell)).collect());
        }
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=columns.len()).map(width).collect();
        println!();
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            println!("  {}", cells.join("  "));
        }
    }

    /// The runs, their medians and the notes.
    pub(crate) fn json(&self) -> Value {
        let runs: Vec<Value> = self.runs.iter().map(|(who, f)| json!({"client": who, "figures": f.json()})).collect();
        let medians = self.who().into_iter().map(|who| {
            let mut figures = Figures::default();
            for (name, _) in self.runs.iter().flat_map(|(_, figures)| &figures.0) {
                let value = self.median(who, name);
                if !value.is_nan() && figures.0.iter().all(|(other, _)| other != name) {
                    figures = figures.and(name, value);
                }
            }
            (who.to_owned(), figures.json())
        });
        let medians: serde_json::Map<String, Value> = medians.collect();
        json!({"row": self.row, "medians": medians, "runs": runs, "notes": *self.notes.borrow()})
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 || value.abs() >= 1000.0 => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
