//! File descriptors: every connection needs one, and the operating system gives a limited number.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of an instance besides its clients' and the pools': the runtime, logs, probes, listeners.
const RESERVE: usize = 64;
/// An instance that can serve fewer clients at once does not start.
const CONNECTIONS_MIN: usize = 16;

/// Raises this process' limit so that it suffices for `connections` clients and `others`, as far as the operating
/// system lets it. Gives how many clients it suffices for.
///
/// # Errors
/// Where too few descriptors are allowed to serve anybody.
pub fn allow(connections: usize, others: usize) -> anyhow::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections.saturating_add(others).saturating_add(RESERVE);
    let allowed = raised(limit, wanted);
    let room = allowed.saturating_sub(others).saturating_sub(RESERVE);
    if room < CONNECTIONS_MIN.min(connections) {
        bail!("only {allowed} open files are allowed (ulimit -n): {wanted} are wanted for http.connections_max");
    }
    if room < connections {
        tracing::warn!(
            allowed,
            wanted,
            connections_max = room,
            "too few open files are allowed (ulimit -n): http.connections_max is lowered"
        );
    }
    Ok(room.min(connections))
}

/// How many descriptors are allowed once `limit` is raised to what is wanted, where that is possible.
fn raised(limit: Rlimit, wanted: usize) -> usize {
    let count = |limit: Option<u64>| limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (now, most) = (count(limit.current), count(limit.maximum));
    let target = wanted.min(most);
    if now >= target {
        return now;
    }
    let new = Rlimit { current: u64::try_from(target).ok(), maximum: limit.maximum };
    match setrlimit(Resource::Nofile, new) {
        Ok(()) => target,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_suffices_is_left_alone() {
        for limit in [Some(5000), None] {
            let limit = Rlimit { current: limit, maximum: limit };
            assert!(raised(limit, 4000) >= 5000);
        }
    }

    #[test]
    fn what_is_wanted_beyond_the_hard_limit_is_not_had() {
        let limit = Rlimit { current: Some(70), maximum: Some(70) };
        assert_eq!(raised(limit, 4000), 70);
        assert!(allow(usize::MAX, usize::MAX).is_err());
    }
}
