//! Places, phases and tickets. No I/O; `now` is an argument.

use std::collections::HashSet;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::catalog::domain::Hours;
use crate::platform::clock::Timestamp;
use crate::platform::token::{Reader, Sealer};

crate::id_types! {
    /// A pass: one stay inside.
    PassId;
}

crate::problem_codes! {
    INVALID_TICKET = 401 "invalid_ticket" "Invalid ticket" "The Queue-Ticket is missing, expired, of another sale or another buyer's. Join the line again.";
    INVALID_PASS = 401 "invalid_pass" "Invalid pass" "The Queue-Pass is of another sale, another buyer's, or not ours.";
    PASS_REQUIRED = 403 "pass_required" "Pass required" "Booking needs a Queue-Pass: join the line and claim one when called.";
    PASS_EXPIRED = 403 "pass_expired" "Pass expired" "Your time inside is over. Join the line again.";
    QUEUE_NOT_OPEN = 409 "queue_not_open" "Not open yet" "The line opens at lobby_opens_at.";
    SOLD_OUT = 409 "sold_out" "Sold out" "Every seat is sold.";
    BOOKING_CLOSED = 409 "booking_closed" "Booking closed" "This concert can no longer be booked.";
    NOT_CALLED = 409 "not_called" "Not your turn" "Keep polling. With ahead 0 you are called, but everybody inside is still busy: keep asking, your place is kept.";
    TICKET_LAPSED = 410 "ticket_lapsed" "Place lost" "The place was called and not claimed in time, was given up, or has been used. Join again.";
}

/// `[queue]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub tick_ms: u64,
    pub poll_min_ms: u64,
    pub poll_max_ms: u64,
    pub polls_per_second_max: u32,
    pub calls_per_tick_max: u32,
    pub sales_max: u32,
    pub listeners_max: usize,
    pub events_ms: u64,
    pub heartbeat_ms: u64,
    pub missed_events_max: u32,
}

#[cfg(test)]
impl Settings {
    /// The shipped ones, for tests that vary them.
    pub(super) fn for_tests() -> Self {
        Self {
            tick_ms: 200,
            poll_min_ms: 500,
            poll_max_ms: 10_000,
            polls_per_second_max: 10_000,
            calls_per_tick_max: 500,
            sales_max: 1000,
            listeners_max: 10_000,
            events_ms: 1000,
            heartbeat_ms: 15_000,
            missed_events_max: 30,
        }
    }
}

/// Seats of a concert, all performances together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Neither sold nor held.
    pub available: u64,
    /// Not sold: available or held.
    pub unsold: u64,
}

/// Tells how many seats are left. Booking knows; the composition root wires it.
pub trait SeatSupply: Send + Sync {
    /// The concert's supply, or nothing where it is not known right now.
    fn supply(&self, concert: ConcertId) -> BoxFuture<'_, Option<Supply>>;
}

/// A sale's rules as operators set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Ranks called per second at most.
    pub admit_per_second: u32,
    /// Passes live at once at most.
    pub max_active: u32,
    /// How long a called rank may take to claim.
    pub claim_secs: u32,
    /// How long a pass lives.
    pub session_secs: u32,
    /// Nobody is called while set.
    pub is_paused: bool,
}

/// Where a sale is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Neither lobby nor line is open.
    Scheduled,
    /// Early arrivals gather.
    Lobby,
    /// Ranks are called.
    Open,
    /// An operator has stopped calling.
    Paused,
    /// Every seat is sold.
    SoldOut,
    /// Booking is over.
    Closed,
}

impl Phase {
    /// The phase at `now`.
    #[must_use]
    pub fn at(now: Timestamp, hours: &Hours, rules: &Rules, supply: Option<Supply>) -> Self {
        if now >= hours.booking_closes_at {
            return Self::Closed;
        }
        if now < hours.booking_opens_at {
            let is_lobby = hours.lobby_opens_at.is_some_and(|lobby| now >= lobby);
            return if is_lobby { Self::Lobby } else { Self::Scheduled };
        }
        match supply {
            Some(Supply { unsold: 0, .. }) => Self::SoldOut,
            _ if rules.is_paused => Self::Paused,
            _ => Self::Open,
        }
    }
}

/// Where a place stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Before opening: the rank is not known yet.
    Lobby,
    /// Not called yet.
    Waiting,
    /// May claim a pass.
    Called,
    /// Has a pass.
    Admitted,
    /// Was called and did not come.
    Lapsed,
    /// Given up.
    Left,
    /// The pass ended.
    Finished,
}

/// What the ticket that a buyer holds says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Whose place.
    pub user: UserId,
    /// The arrival index, from 0.
    pub arrival: u64,
    /// When booking closes.
    pub expires_at: Timestamp,
}

impl Ticket {
    /// Seals it with the sale's sealer.
    #[must_use]
    pub fn seal(&self, sealer: &Sealer) -> String {
        let mut payload = Vec::with_capacity(32);
        payload.extend_from_slice(self.user.0.as_bytes());
        payload.extend_from_slice(&self.arrival.to_be_bytes());
        payload.extend_from_slice(&self.expires_at.millis().to_be_bytes());
        sealer.seal(&payload)
    }

    /// Opens one of this sale's tickets that has not expired.
    #[must_use]
    pub fn open(text: &str, sealer: &Sealer, now: Timestamp) -> Option<Self> {
        let payload = sealer.open(text)?;
        let mut reader = Reader::new(&payload);
        let ticket = Self { user: UserId(reader.uuid()?), arrival: reader.u64()?, expires_at: reader.time()? };
        (reader.is_done() && now < ticket.expires_at).then_some(ticket)
    }
}

/// What an instance knows of a line from its last tick.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Indices issued so far.
    pub issued: u64,
    /// Ranks called so far.
    pub serving: u64,
    /// Slots in use.
    pub active: u64,
    /// Called and not claimed yet.
    pub called: u64,
    /// The sequence number of the newest place given up that this instance has seen.
    pub gone_seq: u64,
    /// Waiting places given up.
    pub gone: HashSet<u64>,
}

impl Snapshot {
    /// Places still waiting.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.issued.saturating_sub(self.serving).saturating_sub(self.gone.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::config::Secret;
    use crate::platform::token::KeyRing;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000).unwrap()
    }

    const RULES: Rules = Rules { admit_per_second: 1, max_active: 1, claim_secs: 1, session_secs: 1, is_paused: false };

    #[test]
    fn a_sale_goes_through_its_phases() {
        let hours = Hours { lobby_opens_at: Some(at(10)), booking_opens_at: at(20), booking_closes_at: at(30) };
        let supply = Some(Supply { available: 0, unsold: 1 });
        let phase = |secs, rules: &Rules, supply| Phase::at(at(secs), &hours, rules, supply);
        assert_eq!(phase(9, &RULES, supply), Phase::Scheduled);
        assert_eq!(phase(10, &RULES, supply), Phase::Lobby);
        assert_eq!(phase(20, &RULES, supply), Phase::Open);
        assert_eq!(phase(20, &Rules { is_paused: true, ..RULES }, supply), Phase::Paused);
        assert_eq!(phase(20, &RULES, Some(Supply { available: 0, unsold: 0 })), Phase::SoldOut);
        assert_eq!(phase(30, &RULES, supply), Phase::Closed);
    }

    #[test]
    fn a_ticket_is_good_until_its_end_and_in_its_sale_only() {
        let keys = KeyRing::parse(&Secret::new(format!("1:{}", "0123456789abcdef".repeat(4)))).unwrap();
        let (mine, other) = (keys.sealer("queue.ticket", b"a"), keys.sealer("queue.ticket", b"b"));
        let ticket = Ticket { user: UserId::new(), arrival: 7, expires_at: at(10) };
        let text = ticket.seal(&mine);
        assert_eq!(Ticket::open(&text, &mine, at(9)), Some(ticket));
        assert_eq!(Ticket::open(&text, &mine, at(10)), None);
        assert_eq!(Ticket::open(&text, &other, at(9)), None);
    }
}
