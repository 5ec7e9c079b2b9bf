//! Placeholder of the chooser.

use serde::Serialize;

/// How the best available seats lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrangement {
    /// Side by side.
    Together,
}
