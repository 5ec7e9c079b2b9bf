//! The table, in Markdown.

use std::fmt;

use crate::figures::{Figures, Objective};
use crate::rows::Row;

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was compared, or counted.
    pub what: String,
    /// One figure a round.
    pub figures: Figures,
    /// Digits after the point.
    pub digits: usize,
    /// What is asked.
    pub objective: Objective,
    /// Absolute figures behind it, which say something of this machine only.
    pub behind: String,
}

/// What a row gives.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its lines.
    pub findings: Vec<Finding>,
    /// What could not be measured, and why.
    pub note: Option<&'static str>,
}

impl From<Vec<Finding>> for Measured {
    fn from(findings: Vec<Finding>) -> Self {
        Self { findings, note: None }
    }
}

/// The lines so far.
#[derive(Debug, Default)]
pub struct Table(Vec<String>);

impl Table {
    /// Adds what a row gave.
    pub fn add(&mut self, row: &Row, measured: &Measured) {
        self.0.extend(measured.findings.iter().map(|finding| line(row.name, finding)));
        self.0.extend(measured.note.map(|note| format!("| {} | {note} | | | | | |", row.name)));
    }
}

fn line(row: &str, finding: &Finding) -> String {
    let Finding { what, figures, digits, objective, behind } = finding;
    let reached = match objective.is_reached_by(figures) {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "–",
    };
    let median = figures.median();
    format!("| {row} | {what} | {median:.digits$} | {figures:.digits$} | {objective} | {reached} | {behind} |")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| row | what | median | spread | objective | reached | on this machine |")?;
        writeln!(f, "| --- | --- | ---: | ---: | --- | --- | --- |")?;
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
