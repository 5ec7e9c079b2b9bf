//! frontrow: seats for concerts that everybody wants at the same moment.

pub mod accounts;
pub mod catalog;
pub mod points;

pub mod platform;
