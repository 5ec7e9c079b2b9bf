//! Venues, concerts, performances and their states. No I/O; `now` is an argument.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::platform::clock::{Timestamp, micros};
use crate::platform::error::Problem;
use crate::platform::money::Money;

crate::id_types! {
    /// A venue.
    VenueId;
    /// A concert.
    ConcertId;
    /// A performance: one evening of a concert.
    PerformanceId;
}

crate::problem_codes! {
    SALE_ALREADY_OPEN = 409 "sale_already_open" "Sale already open" "The lobby or the booking has opened: what early buyers relied on cannot change any more.";
    SALE_ALREADY_CLOSED = 409 "sale_already_closed" "Sale already closed" "Booking has ended, and does not open again.";
}

/// `[catalog]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub venue_seats_max: u32,
    pub performances_max: usize,
    pub concert_seats_max: u32,
    pub creation_timeout_secs: u64,
}

/// `[warmer]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct WarmerSettings {
    pub enabled: bool,
    pub lead_secs: u64,
    pub look_ms: u64,
    pub lease_secs: u32,
    pub concerts_per_second_max: u32,
}

/// Who comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = QueueOrder)]
pub enum Order {
    /// In the order of arrival.
    #[default]
    Fifo,
    /// Those who came to the lobby are drawn; who comes later stands behind them.
    Draw,
}

impl Order {
    /// As `concerts.queue_order` keeps it.
    #[must_use]
    pub const fn stored(self) -> u8 {
        match self {
            Self::Fifo => 0,
            Self::Draw => 1,
        }
    }

    /// Reads what [`Order::stored`] wrote.
    ///
    /// # Errors
    /// `internal` for any other number.
    pub fn from_stored(number: u8) -> Result<Self, Problem> {
        match number {
            0 => Ok(Self::Fifo),
            1 => Ok(Self::Draw),
            _ => Err(Problem::internal(anyhow::anyhow!("no queue order has the number {number}"))),
        }
    }
}

/// The rules of a concert's line, as its operator sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Who comes first. A draw needs a lobby.
    pub order: Order,
    /// When the lobby opens; without one the line opens with the booking.
    pub lobby_opens_at: Option<Timestamp>,
    /// Ranks called per second at most, 1 to 10,000.
    #[schema(minimum = 1, maximum = 10_000)]
    pub admit_per_second: u32,
    /// Passes live at once at most, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub max_active: u32,
    /// How long a called buyer may take to claim, 5 to 3,600 seconds.
    #[schema(minimum = 5, maximum = 3600)]
    pub claim_secs: u32,
    /// How long a pass lives, 30 to 86,400 seconds.
    #[schema(minimum = 30, maximum = 86_400)]
    pub session_secs: u32,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            order: Order::Fifo,
            lobby_opens_at: None,
            admit_per_second: 50,
            max_active: 500,
            claim_secs: 60,
            session_secs: 600,
        }
    }
}

/// Where a concert's sale is, as lists show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ConcertStatus)]
pub enum Status {
    /// Neither lobby nor booking is open.
    Scheduled,
    /// Early arrivals gather.
    Lobby,
    /// Seats can be booked.
    Open,
    /// Booking is open, but every seat is sold.
    SoldOut,
    /// Booking is over.
    Closed,
}

impl Status {
    /// The status at `now` as far as time alone tells it: never `sold_out`.
    #[must_use]
    pub fn at(now: Timestamp, hours: &Hours) -> Self {
        if now >= hours.booking_closes_at {
            Self::Closed
        } else if now >= hours.booking_opens_at {
            Self::Open
        } else if now >= hours.line_opens_at() {
            Self::Lobby
        } else {
            Self::Scheduled
        }
    }
}

/// When a concert's doors open and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// When the lobby opens, where there is one.
    #[serde(with = "micros::optional")]
    pub lobby_opens_at: Option<Timestamp>,
    /// When booking opens.
    #[serde(with = "micros")]
    pub booking_opens_at: Timestamp,
    /// When booking ends.
    #[serde(with = "micros")]
    pub booking_closes_at: Timestamp,
}

impl Hours {
    /// When buyers may first come: the lobby's opening, or the booking's where there is no lobby.
    #[must_use]
    pub fn line_opens_at(&self) -> Timestamp {
        self.lobby_opens_at.unwrap_or(self.booking_opens_at)
    }
}

/// A price level and the sections that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewGrade)]
pub struct Grade {
    /// Unique within the concert.
    #[schema(min_length = 1, max_length = 16, pattern = r"^[A-Za-z0-9_.]([A-Za-z0-9_. ]*[A-Za-z0-9_.])?$")]
    pub code: String,
    /// What buyers read.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub name: String,
    /// Of one seat.
    #[schema(value_type = i64, minimum = 1, maximum = 100_000_000)]
    pub price: Money,
    /// Codes of the venue's sections.
    #[schema(min_items = 1)]
    pub sections: Vec<String>,
}

/// A venue as concerts show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VenueName {
    /// The venue.
    pub id: VenueId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub city: String,
}

/// What a list shows of a concert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headline {
    /// The concert.
    pub id: ConcertId,
    /// Its title.
    pub title: String,
    /// Who plays.
    pub artist: String,
    /// Where.
    pub venue: VenueName,
    /// When its doors open and close.
    pub hours: Hours,
    /// The earliest performance.
    #[serde(with = "micros")]
    pub first_performance_at: Timestamp,
    /// The cheapest grade.
    pub price_from: Money,
}

/// A concert with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concert {
    /// The concert.
    pub id: ConcertId,
    /// Its title.
    pub title: String,
    /// Who plays.
    pub artist: String,
    /// Where.
    pub venue: VenueName,
    /// When the lobby opens, where there is one.
    #[serde(with = "micros::optional")]
    pub lobby_opens_at: Option<Timestamp>,
    /// When booking opens.
    #[serde(with = "micros")]
    pub booking_opens_at: Timestamp,
    /// When booking ends.
    #[serde(with = "micros")]
    pub booking_closes_at: Timestamp,
    /// The earliest performance.
    #[serde(with = "micros")]
    pub first_performance_at: Timestamp,
    /// The cheapest grade.
    pub price_from: Money,
    /// For whoever opens the concert's page.
    pub description: String,
    /// Live holds and reservations of one buyer, over all performances.
    pub seat_limit_per_buyer: u32,
    /// Prices, and the sections that have them.
    pub grades: Vec<Grade>,
    /// Who comes first.
    pub queue_order: Order,
    /// Hex SHA-256 of the draw's seed.
    pub draw_commitment: String,
    /// The evenings, by their start.
    #[serde(with = "shared")]
    pub performances: Vec<Arc<Performance>>,
}

/// Values that are shared, as they are kept between processes.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(values: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(AsRef::as_ref))
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<T>>, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().map(Arc::new).collect())
    }
}

impl Concert {
    /// When its doors open and close.
    #[must_use]
    pub const fn hours(&self) -> Hours {
        let Self { lobby_opens_at, booking_opens_at, booking_closes_at, .. } = *self;
        Hours { lobby_opens_at, booking_opens_at, booking_closes_at }
    }

    /// What lists show of it.
    #[must_use]
    pub fn headline(&self) -> Headline {
        Headline {
            id: self.id,
            title: self.title.clone(),
            artist: self.artist.clone(),
            venue: self.venue.clone(),
            hours: self.hours(),
            first_performance_at: self.first_performance_at,
            price_from: self.price_from,
        }
    }
}

/// One evening of a concert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Performance {
    /// The performance.
    pub id: PerformanceId,
    /// Its concert.
    pub concert_id: ConcertId,
    /// When it begins.
    #[serde(with = "micros")]
    pub starts_at: Timestamp,
    /// Seats in its map.
    pub seats_total: u32,
}

/// A sale that is open or opens soon: what the line's ticker needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSale {
    /// The concert.
    pub concert_id: ConcertId,
    /// Who comes first.
    pub order: Order,
    /// When its doors open and close.
    pub hours: Hours,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000).unwrap()
    }

    #[test]
    fn the_status_follows_the_hours() {
        use Status::{Closed, Lobby, Open, Scheduled};
        let hours = Hours { lobby_opens_at: Some(at(10)), booking_opens_at: at(20), booking_closes_at: at(30) };
        let told: Vec<Status> = [9, 10, 19, 20, 29, 30].map(|secs| Status::at(at(secs), &hours)).into();
        assert_eq!(told, [Scheduled, Lobby, Lobby, Open, Open, Closed]);
        let without_lobby = Hours { lobby_opens_at: None, ..hours };
        assert_eq!(Status::at(at(19), &without_lobby), Scheduled);
    }

    #[test]
    fn the_rules_of_a_line_have_defaults() {
        let rules: QueueSettings = serde_json::from_str("{\"order\": \"draw\"}").unwrap();
        assert_eq!(rules, QueueSettings { order: Order::Draw, ..QueueSettings::default() });
        assert!(serde_json::from_str::<QueueSettings>("{\"pace\": 1}").is_err());
    }
}
