//! Places, phases and tickets. No I/O; `now` is an argument.

use std::collections::HashSet;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::catalog::domain::Hours;
use crate::platform::clock::Timestamp;
use crate::platform::error::Code;
use crate::platform::token::Sealer;

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
    JOINS_CLOSED = 409 "joins_closed" "Closed to newcomers" "An operator has closed this line to newcomers. Whoever has a place keeps it.";
    BOOKING_CLOSED = 409 "booking_closed" "Booking closed" "This concert can no longer be booked.";
    NOT_CALLED = 409 "not_called" "Not your turn" "Keep polling. With ahead 0 you are called, but everybody inside is still busy: keep asking, your place is kept.";
    TICKET_LAPSED = 410 "ticket_lapsed" "Place lost" "The place was called and not claimed in time, was given up, or has been used. Join again.";
    CONCERT_CANCELLED = 409 "concert_cancelled" "Concert cancelled" "This concert is cancelled: nothing of it is held, paid or claimed any more, and whoever has paid gets the money back.";
    SALE_STOPPED = 503 "sale_stopped" "Sale stopped" "An operator has stopped this sale for the moment: nothing is held or paid, and nobody is let in. Nothing took effect; repeat it after Retry-After seconds.";
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
    pub slo_ms: u64,
    pub standby_admit_per_second: u32,
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
            slo_ms: 500,
            standby_admit_per_second: 20,
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

/// A place as its holder sees it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it stands.
    pub standing: Standing,
    /// The arrival index.
    pub arrival: u64,
    /// The rank, unknown in the lobby.
    pub rank: Option<u64>,
    /// How many ranks come first, unknown in the lobby.
    pub ahead: Option<u64>,
    /// Seconds until the call, estimated from the rate.
    pub eta_seconds: Option<u64>,
    /// When to ask again.
    pub poll_after_ms: u64,
    /// When the ticket ends.
    pub expires_at: Timestamp,
    /// Until when a called rank may claim.
    pub claim_by: Option<Timestamp>,
}

/// Who keeps a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InCharge {
    /// Redis.
    #[default]
    #[serde(rename = "redis")]
    Usual,
    /// MySQL, while Redis is away for everyone.
    #[serde(rename = "mysql")]
    Standby,
}

impl InCharge {
    /// Its word in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Usual => "redis",
            Self::Standby => "mysql",
        }
    }
}

/// A sale's rules as operators set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
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
    #[serde(rename = "paused")]
    pub is_paused: bool,
    /// Nobody new gets a place while set.
    pub joins_closed: bool,
    /// While set nobody is called or let in, and nothing is held or paid.
    #[serde(rename = "stopped")]
    pub is_stopped: bool,
}

impl Rules {
    /// Whether nobody is called.
    #[must_use]
    pub const fn is_halted(&self) -> bool {
        self.is_paused || self.is_stopped
    }

    /// The rules of claims. While the sale is stopped there is no slot for anybody: whoever claims is present, and the time
    /// in which they must come stops while they keep asking.
    #[must_use]
    pub const fn of_claims(&self) -> Self {
        Self { max_active: if self.is_stopped { 0 } else { self.max_active }, ..*self }
    }

    /// Why nobody new gets a place in this phase, where that is so.
    #[must_use]
    pub fn refusal(&self, phase: Phase) -> Option<&'static Code> {
        match phase {
            Phase::SoldOut => Some(&SOLD_OUT),
            _ => self.joins_closed.then_some(&JOINS_CLOSED),
        }
    }
}

/// Why nothing of a sale may be held, paid or claimed, as MySQL has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halt {
    /// An operator has stopped it for the moment.
    pub is_stopped: bool,
    /// Its concert is cancelled.
    pub is_cancelled: bool,
}

impl From<(bool, bool)> for Halt {
    fn from((is_stopped, is_cancelled): (bool, bool)) -> Self {
        Self { is_stopped, is_cancelled }
    }
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
    /// An operator has stopped calling, or the sale.
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
            _ if rules.is_halted() => Self::Paused,
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
        let ticket = sealer.read(text, |reader| {
            Some(Self { user: UserId(reader.uuid()?), arrival: reader.u64()?, expires_at: reader.time()? })
        })?;
        (now < ticket.expires_at).then_some(ticket)
    }
}

/// What holds admission back now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The rate that operators set.
    Rate,
    /// The latency of holds and payments: the rate is lowered for now.
    Latency,
    /// Everybody inside: all slots are taken, or expected to be by those called.
    Slots,
    /// Seats that could still be sold.
    Seats,
    /// Nobody waits.
    #[default]
    Nobody,
    /// Not open, paused, or not drawn yet.
    Closed,
}

impl Bound {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Rate, Self::Latency, Self::Slots, Self::Seats, Self::Nobody, Self::Closed];

    /// Its word in metrics and scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Latency => "latency",
            Self::Slots => "slots",
            Self::Seats => "seats",
            Self::Nobody => "nobody",
            Self::Closed => "closed",
        }
    }
}

/// What an instance knows of a line from its last tick.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, by the store's clock.
    pub at: Option<Timestamp>,
    /// Indices issued so far.
    pub issued: u64,
    /// Ranks called so far.
    pub serving: u64,
    /// Slots in use.
    pub active: u64,
    /// Called and not claimed yet.
    pub called: u64,
    /// Those among them who asked while all slots were taken.
    pub present: u64,
    /// Calls made in this making of the line: without places given up, and without ranks that nobody has.
    pub calls_made: u64,
    /// The sequence number of the newest place given up that this instance has seen.
    pub gone_seq: u64,
    /// Indices ahead that nobody is known to have.
    pub nobodys: u64,
    /// Ranks of waiting places given up.
    pub gone: HashSet<u64>,
    /// Arrivals of places given up in the lobby, before the draw.
    pub gone_early: HashSet<u64>,
    /// Ranks called per second at most, after what latency allows.
    pub pace: f64,
    /// The share of those called lately who did not come.
    pub no_show: f64,
    /// What holds admission back.
    pub bound: Bound,
}

impl Snapshot {
    /// Places still waiting.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let gone = self.gone.len() + self.gone_early.len();
        self.issued.saturating_sub(self.serving).saturating_sub(gone as u64).saturating_sub(self.nobodys)
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

    const RULES: Rules = Rules {
        admit_per_second: 1,
        max_active: 1,
        claim_secs: 1,
        session_secs: 1,
        is_paused: false,
        joins_closed: false,
        is_stopped: false,
    };

    #[test]
    fn a_sale_goes_through_its_phases() {
        let hours = Hours { lobby_opens_at: Some(at(10)), booking_opens_at: at(20), booking_closes_at: at(30) };
        let supply = Some(Supply { available: 0, unsold: 1 });
        let phase = |secs, rules: &Rules, supply| Phase::at(at(secs), &hours, rules, supply);
        assert_eq!(phase(9, &RULES, supply), Phase::Scheduled);
        assert_eq!(phase(10, &RULES, supply), Phase::Lobby);
        assert_eq!(phase(20, &RULES, supply), Phase::Open);
        assert_eq!(phase(20, &Rules { is_paused: true, ..RULES }, supply), Phase::Paused);
        assert_eq!(phase(20, &Rules { is_stopped: true, ..RULES }, supply), Phase::Paused);
        assert_eq!(phase(20, &Rules { joins_closed: true, ..RULES }, supply), Phase::Open);
        assert_eq!(phase(20, &RULES, Some(Supply { available: 0, unsold: 0 })), Phase::SoldOut);
        assert_eq!(phase(30, &RULES, supply), Phase::Closed);
    }

    #[test]
    fn newcomers_are_told_why_they_get_no_place() {
        let closed = Rules { joins_closed: true, is_stopped: true, ..RULES };
        let told = |rules: &Rules, phase| rules.refusal(phase).map(|code| code.code);
        assert_eq!(told(&RULES, Phase::Open), None);
        assert_eq!(told(&RULES, Phase::SoldOut), Some("sold_out"));
        assert_eq!(told(&closed, Phase::Lobby), Some("joins_closed"));
        assert_eq!(told(&closed, Phase::SoldOut), Some("sold_out"), "that is for good");
        assert_eq!(told(&Rules { is_stopped: true, ..RULES }, Phase::Paused), None, "a stopped sale takes newcomers");
    }

    #[test]
    fn a_stopped_sale_has_no_slots() {
        assert_eq!(RULES.of_claims(), RULES);
        assert_eq!(Rules { is_stopped: true, ..RULES }.of_claims().max_active, 0);
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
