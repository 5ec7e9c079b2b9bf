//! Medians, spreads, and what is asked of them. No I/O.

use std::fmt;

/// Several measurements of one thing.
#[derive(Clone, Debug)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// In ascending order; what is not a number has no place here.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The ratios of `ours` to `theirs`, round by round.
    pub fn ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self::new(pairs.into_iter().map(|(ours, theirs)| ours / theirs).collect())
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let values = &self.0;
        match values.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => values[len / 2],
            len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
        }
    }

    /// The least one.
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The greatest one.
    pub fn greatest(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

/// The spread: least to greatest, with the digits that the format asks for.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} to {:.digits$}", self.least(), self.greatest())
    }
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Objective {
    /// At least so much.
    AtLeast(f64),
    /// At most so much.
    AtMost(f64),
    /// A ratio whose spread does not lie wholly above 1.
    NoGrowth,
    /// Nothing is asked; it is there to compare with.
    None,
}

impl Objective {
    /// Whether the figures reach it; nothing where nothing is asked.
    pub fn is_reached_by(self, figures: &Figures) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(figures.median() >= least),
            Self::AtMost(most) => Some(figures.median() <= most),
            Self::NoGrowth => Some(figures.least() <= 1.0),
            Self::None => None,
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::NoGrowth => f.write_str("no growth beyond the spread"),
            Self::None => f.write_str("–"),
        }
    }
}
