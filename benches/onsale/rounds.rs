//! Rounds: both sides in turn, the one that goes first changing, so that whatever the machine does besides meets both.

use std::time::Duration;

/// How often, and how long each time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Measurements of each side.
    pub rounds: usize,
    /// Of one measurement.
    pub length: Duration,
    /// A pause before each: what the one before left in queues and buffers is done with.
    pub settling: Duration,
}

/// Which side is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// frontrow, or what should be no worse.
    Ours,
    /// What it is compared with.
    Theirs,
}

/// What one round gave.
#[derive(Clone, Debug)]
pub struct Pair<T> {
    /// Of [`Side::Ours`].
    pub ours: T,
    /// Of [`Side::Theirs`].
    pub theirs: T,
}

impl<T> Pair<T> {
    /// A number of both.
    pub fn map(&self, number: impl Fn(&T) -> f64) -> (f64, f64) {
        (number(&self.ours), number(&self.theirs))
    }
}

/// Measures each side once for warmth and then once a round.
///
/// # Errors
/// What a measurement fails with: there are no figures without it.
pub async fn interleaved<T>(
    pace: &Pace,
    mut measure: impl AsyncFnMut(Side) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Pair<T>>> {
    let mut settled = async |side| {
        tokio::time::sleep(pace.settling).await;
        measure(side).await
    };
    settled(Side::Ours).await?;
    settled(Side::Theirs).await?;
    let mut pairs = Vec::with_capacity(pace.rounds);
    for round in 0..pace.rounds {
        let pair = if round % 2 == 0 {
            let ours = settled(Side::Ours).await?;
            Pair { ours, theirs: settled(Side::Theirs).await? }
        } else {
            let theirs = settled(Side::Theirs).await?;
            Pair { ours: settled(Side::Ours).await?, theirs }
        };
        pairs.push(pair);
    }
    Ok(pairs)
}
