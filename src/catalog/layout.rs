//! A venue's layout: sections with rows of seats, or standing areas with a capacity. Pure.
//!
//! Codes and row names contain no `-`, so a seat's label `101-A-12` can be read in one way only.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::platform::error::Problem;
use crate::platform::json;

/// Longest section code, row name and grade code.
pub const CODE_LEN_MAX: usize = 16;
/// Longest name of a section, a grade or a city.
pub const NAME_LEN_MAX: usize = 100;
const SECTIONS_MAX: usize = 500;
const ROWS_MAX: usize = 500;
const ROW_SEATS_MAX: u32 = 1_000;
/// The name of the one row that a standing area is sold as.
const STANDING_ROW: &str = "S";

/// A row of seats, numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LayoutRow)]
pub struct Row {
    /// Unique within its section: letters, digits, space, `_` and `.`.
    #[schema(min_length = 1, max_length = 16, pattern = r"^[A-Za-z0-9_.]([A-Za-z0-9_. ]*[A-Za-z0-9_.])?$")]
    pub name: String,
    /// How many seats.
    #[schema(minimum = 1, maximum = 1000)]
    pub seats: u32,
}

/// A part of a venue, with either `rows` or, where people stand, a `capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LayoutSection)]
pub struct Section {
    /// Unique within the venue: letters, digits, space, `_` and `.`.
    #[schema(min_length = 1, max_length = 16, pattern = r"^[A-Za-z0-9_.]([A-Za-z0-9_. ]*[A-Za-z0-9_.])?$")]
    pub code: String,
    /// What buyers read.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub name: String,
    /// The rows, from the stage backwards.
    #[schema(min_items = 1, max_items = 500)]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::optional_objects")]
    pub rows: Option<Vec<Row>>,
    /// How many people may stand.
    #[schema(minimum = 1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

/// One row as it is sold: a standing area is a single row of numbered entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoldRow<'a> {
    /// The row's name.
    pub name: &'a str,
    /// How many seats or entries.
    pub seats: u32,
}

impl Section {
    /// Whether people stand here.
    #[must_use]
    pub const fn is_standing(&self) -> bool {
        self.capacity.is_some()
    }

    /// The rows as they are sold.
    #[must_use]
    pub fn sold_rows(&self) -> Vec<SoldRow<'_>> {
        if let Some(seats) = self.capacity {
            return vec![SoldRow { name: STANDING_ROW, seats }];
        }
        let rows = self.rows.iter().flatten();
        rows.map(|row| SoldRow { name: &row.name, seats: row.seats }).collect()
    }
}

/// Checks sections and counts their seats.
///
/// # Errors
/// 422 `invalid_body` that names the first field found wrong.
pub fn check(sections: &[Section], seats_max: u32) -> Result<u32, Problem> {
    if sections.is_empty() || sections.len() > SECTIONS_MAX {
        return Err(Problem::invalid_body("sections", format!("from 1 to {SECTIONS_MAX} sections")));
    }
    let mut codes = HashSet::new();
    let mut total = 0_u32;
    for (index, section) in sections.iter().enumerate() {
        let path = format!("sections[{index}]");
        check_code(&format!("{path}.code"), &section.code)?;
        check_text(&format!("{path}.name"), &section.name, NAME_LEN_MAX)?;
        if !codes.insert(section.code.as_str()) {
            return Err(Problem::invalid_body(&format!("{path}.code"), "another section has this code"));
        }
        let seats = match (&section.rows, section.capacity) {
            (Some(rows), None) => check_rows(&path, rows)?,
            (None, Some(capacity)) if (1..=seats_max).contains(&capacity) => capacity,
            (None, Some(_)) => {
                return Err(Problem::invalid_body(&format!("{path}.capacity"), format!("from 1 to {seats_max}")));
            }
            _ => return Err(Problem::invalid_body(&path, "either rows or a capacity")),
        };
        total = total.saturating_add(seats);
    }
    if total > seats_max {
        return Err(Problem::invalid_body("sections", format!("at most {seats_max} seats in total")));
    }
    Ok(total)
}

fn check_rows(section: &str, rows: &[Row]) -> Result<u32, Problem> {
    if rows.is_empty() || rows.len() > ROWS_MAX {
        return Err(Problem::invalid_body(&format!("{section}.rows"), format!("from 1 to {ROWS_MAX} rows")));
    }
    let mut names = HashSet::new();
    let mut total = 0;
    for (index, row) in rows.iter().enumerate() {
        let path = format!("{section}.rows[{index}]");
        check_code(&format!("{path}.name"), &row.name)?;
        if !names.insert(row.name.as_str()) {
            return Err(Problem::invalid_body(&format!("{path}.name"), "another row of this section has this name"));
        }
        if !(1..=ROW_SEATS_MAX).contains(&row.seats) {
            return Err(Problem::invalid_body(&format!("{path}.seats"), format!("from 1 to {ROW_SEATS_MAX}")));
        }
        total += row.seats;
    }
    Ok(total)
}

/// A code: 1 to [`CODE_LEN_MAX`] letters, digits, spaces inside, `_` and `.`.
///
/// # Errors
/// 422 `invalid_body`.
pub fn check_code(field: &str, code: &str) -> Result<(), Problem> {
    let is_plain = code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" _.".contains(&byte));
    if is_plain && code.trim() == code && (1..=CODE_LEN_MAX).contains(&code.len()) {
        return Ok(());
    }
    Err(Problem::invalid_body(field, format!("1 to {CODE_LEN_MAX} letters, digits, spaces, '_' or '.'")))
}

/// One line of text: 1 to `len_max` characters, no control characters, no space at either end.
///
/// # Errors
/// 422 `invalid_body`.
pub fn check_text(field: &str, text: &str, len_max: usize) -> Result<(), Problem> {
    let length = text.chars().count();
    if text.trim() == text && (1..=len_max).contains(&length) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Problem::invalid_body(field, format!("1 to {len_max} characters on one line, no space at either end")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seated(code: &str, rows: &[(&str, u32)]) -> Section {
        let rows = rows.iter().map(|(name, seats)| Row { name: (*name).into(), seats: *seats }).collect();
        Section { code: code.into(), name: "Block".into(), rows: Some(rows), capacity: None }
    }

    fn standing(code: &str, capacity: u32) -> Section {
        Section { code: code.into(), name: "Floor".into(), rows: None, capacity: Some(capacity) }
    }

    fn refused(sections: &[Section]) -> String {
        let body = check(sections, 100).unwrap_err().body("r");
        assert_eq!(body["code"], "invalid_body");
        body["errors"][0]["field"].as_str().unwrap().to_owned()
    }

    #[test]
    fn seats_and_standing_places_are_counted_together() {
        assert_eq!(check(&[seated("101", &[("A", 10), ("B", 12)]), standing("F 1", 78)], 100).unwrap(), 100);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(refused(&[]), "sections");
        assert_eq!(refused(&[seated("1-1", &[("A", 1)])]), "sections[0].code");
        assert_eq!(refused(&[standing("F", 1), standing("F", 1)]), "sections[1].code");
        assert_eq!(refused(&[standing(" F", 1)]), "sections[0].code");
        assert_eq!(refused(&[seated("101", &[])]), "sections[0].rows");
        assert_eq!(refused(&[seated("101", &[("A", 1), ("B-", 1)])]), "sections[0].rows[1].name");
        assert_eq!(refused(&[seated("101", &[("A", 1), ("A", 1)])]), "sections[0].rows[1].name");
        assert_eq!(refused(&[seated("101", &[("A", 0)])]), "sections[0].rows[0].seats");
        assert_eq!(refused(&[standing("F", 101)]), "sections[0].capacity");
        assert_eq!(refused(&[standing("F", 60), standing("G", 41)]), "sections");
        assert_eq!(refused(&[Section { capacity: Some(1), ..seated("101", &[("A", 1)]) }]), "sections[0]");
        assert_eq!(refused(&[Section { capacity: None, ..standing("F", 1) }]), "sections[0]");
        assert_eq!(refused(&[Section { name: "a\nb".into(), ..standing("F", 1) }]), "sections[0].name");
    }
}
