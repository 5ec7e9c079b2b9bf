//! What operators send: new venues, new concerts, changes. Shapes and their checks; no I/O.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::domain::{
    Concert, Grade, Hours, Order, QueueSettings, SALE_ALREADY_CLOSED, SALE_ALREADY_OPEN, Settings, VenueId,
};
use super::layout::{self, NAME_LEN_MAX, Section, check_code, check_text};
use crate::platform::clock::Timestamp;
use crate::platform::error::Problem;
use crate::platform::json;
use crate::platform::money::Money;

const TITLE_LEN_MAX: usize = 200;
const DESCRIPTION_LEN_MAX: usize = 10_000;
const GRADES_MAX: usize = 50;
const PRICES: RangeInclusive<i64> = 1..=100_000_000;
const SEAT_LIMITS: RangeInclusive<u32> = 1..=1_000;

/// A venue to be created.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVenue {
    /// What buyers read.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub name: String,
    /// Where it stands.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub city: String,
    /// The layout, in the order in which seats are counted.
    #[schema(min_items = 1, max_items = 500)]
    #[serde(deserialize_with = "json::objects")]
    pub sections: Vec<Section>,
}

impl NewVenue {
    /// Checks every field and counts the seats.
    ///
    /// # Errors
    /// 422 `invalid_body`.
    pub fn check(&self, settings: &Settings) -> Result<u32, Problem> {
        check_text("name", &self.name, TITLE_LEN_MAX)?;
        check_text("city", &self.city, NAME_LEN_MAX)?;
        layout::check(&self.sections, settings.venue_seats_max)
    }
}

/// A performance to be created.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPerformance {
    /// When it begins.
    pub starts_at: Timestamp,
}

/// A concert to be created, with its performances, its seats and its line.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConcert {
    /// What buyers read first.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub title: String,
    /// Who plays.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub artist: String,
    /// For whoever opens the concert's page.
    #[serde(default)]
    #[schema(max_length = 10_000, pattern = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$")]
    pub description: String,
    /// Where.
    pub venue_id: VenueId,
    /// When booking opens.
    pub booking_opens_at: Timestamp,
    /// When booking ends.
    pub booking_closes_at: Timestamp,
    /// Live holds and reservations of one buyer, over all performances.
    #[schema(minimum = 1, maximum = 1000)]
    pub seat_limit_per_buyer: u32,
    /// Prices; every section of the venue belongs to exactly one.
    #[schema(min_items = 1, max_items = 50)]
    #[serde(deserialize_with = "json::objects")]
    pub grades: Vec<Grade>,
    /// The evenings.
    #[schema(min_items = 1)]
    #[serde(deserialize_with = "json::objects")]
    pub performances: Vec<NewPerformance>,
    /// The rules of the line.
    #[serde(default, deserialize_with = "json::object")]
    pub queue: QueueSettings,
}

impl NewConcert {
    /// Checks everything that can be told without the venue.
    ///
    /// # Errors
    /// 422 `invalid_body`.
    pub fn check(&self, settings: &Settings) -> Result<(), Problem> {
        check_text("title", &self.title, TITLE_LEN_MAX)?;
        check_text("artist", &self.artist, TITLE_LEN_MAX)?;
        check_description(&self.description)?;
        check_range("seat_limit_per_buyer", self.seat_limit_per_buyer, &SEAT_LIMITS)?;
        check_hours(&self.hours(), "queue.lobby_opens_at")?;
        check_queue(&self.queue)?;
        check_grades(&self.grades)?;
        let count = self.performances.len();
        if !(1..=settings.performances_max).contains(&count) {
            let message = format!("from 1 to {} performances", settings.performances_max);
            return Err(Problem::invalid_body("performances", message));
        }
        let mut starts = HashSet::new();
        match self.performances.iter().position(|performance| !starts.insert(performance.starts_at)) {
            Some(index) => {
                let field = format!("performances[{index}].starts_at");
                Err(Problem::invalid_body(&field, "another performance starts at this time"))
            }
            None => Ok(()),
        }
    }

    /// Checks what depends on the venue: how many seats there would be.
    ///
    /// # Errors
    /// 422 `invalid_body`.
    pub fn check_seats(&self, seats_each: u32, settings: &Settings) -> Result<(), Problem> {
        let total = self.performances.len() as u64 * u64::from(seats_each);
        if total > u64::from(settings.concert_seats_max) {
            let message =
                format!("at most {} seats over all performances, this makes {total}", settings.concert_seats_max);
            return Err(Problem::invalid_body("performances", message));
        }
        Ok(())
    }

    /// When its doors open and close.
    #[must_use]
    pub const fn hours(&self) -> Hours {
        Hours {
            lobby_opens_at: self.queue.lobby_opens_at,
            booking_opens_at: self.booking_opens_at,
            booking_closes_at: self.booking_closes_at,
        }
    }
}

/// What an operator may change of a concert. What is left out stays as it is.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConcertChange {
    /// What buyers read first.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub title: Option<String>,
    /// Who plays.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    pub artist: Option<String>,
    /// For whoever opens the concert's page.
    #[schema(max_length = 10_000, pattern = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$")]
    pub description: Option<String>,
    /// Live holds and reservations of one buyer, over all performances.
    #[schema(minimum = 1, maximum = 1000)]
    pub seat_limit_per_buyer: Option<u32>,
    /// When booking opens: until the lobby or the booking has opened.
    pub booking_opens_at: Option<Timestamp>,
    /// When booking ends: until it has ended.
    pub booking_closes_at: Option<Timestamp>,
}

impl ConcertChange {
    /// Checks everything that can be told without the concert.
    ///
    /// # Errors
    /// 422 `invalid_body`.
    pub fn check(&self) -> Result<(), Problem> {
        if let Some(title) = &self.title {
            check_text("title", title, TITLE_LEN_MAX)?;
        }
        if let Some(artist) = &self.artist {
            check_text("artist", artist, TITLE_LEN_MAX)?;
        }
        if let Some(description) = &self.description {
            check_description(description)?;
        }
        self.seat_limit_per_buyer.map_or(Ok(()), |limit| check_range("seat_limit_per_buyer", limit, &SEAT_LIMITS))
    }

    /// The concert as it is after the change.
    ///
    /// # Errors
    /// 409 `sale_already_open` or `sale_already_closed`, 422 `invalid_body` where the times no longer fit.
    pub fn apply(&self, concert: &Concert, now: Timestamp) -> Result<Concert, Problem> {
        let mut changed = concert.clone();
        let before = concert.hours();
        changed.booking_opens_at = self.booking_opens_at.unwrap_or(before.booking_opens_at);
        changed.booking_closes_at = self.booking_closes_at.unwrap_or(before.booking_closes_at);
        if changed.booking_opens_at != before.booking_opens_at && before.line_opens_at() <= now {
            return Err(Problem::new(&SALE_ALREADY_OPEN).detail("booking_opens_at is fixed once buyers may come."));
        }
        // A concert that was cancelled before it opened closes before it opens; its words may still be mended.
        if changed.hours() != before {
            if before.booking_closes_at <= now {
                return Err(Problem::new(&SALE_ALREADY_CLOSED));
            }
            check_hours(&changed.hours(), "booking_opens_at")?;
        }
        replace(&mut changed.title, self.title.as_ref());
        replace(&mut changed.artist, self.artist.as_ref());
        replace(&mut changed.description, self.description.as_ref());
        changed.seat_limit_per_buyer = self.seat_limit_per_buyer.unwrap_or(concert.seat_limit_per_buyer);
        Ok(changed)
    }
}

fn replace(text: &mut String, with: Option<&String>) {
    if let Some(with) = with {
        text.clone_from(with);
    }
}

fn check_description(text: &str) -> Result<(), Problem> {
    let is_plain = !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    if is_plain && text.chars().count() <= DESCRIPTION_LEN_MAX {
        return Ok(());
    }
    Err(Problem::invalid_body("description", format!("at most {DESCRIPTION_LEN_MAX} characters of plain text")))
}

fn check_range(field: &str, number: u32, range: &RangeInclusive<u32>) -> Result<(), Problem> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(Problem::invalid_body(field, format!("from {} to {}", range.start(), range.end())))
}

/// `lobby_field` is what the client sent when lobby and booking do not fit together.
fn check_hours(hours: &Hours, lobby_field: &str) -> Result<(), Problem> {
    if hours.booking_closes_at <= hours.booking_opens_at {
        return Err(Problem::invalid_body("booking_closes_at", "later than booking_opens_at"));
    }
    if hours.line_opens_at() > hours.booking_opens_at {
        return Err(Problem::invalid_body(lobby_field, "the lobby opens no later than the booking"));
    }
    Ok(())
}

fn check_queue(queue: &QueueSettings) -> Result<(), Problem> {
    if queue.order == Order::Draw && queue.lobby_opens_at.is_none() {
        return Err(Problem::invalid_body("queue.lobby_opens_at", "a draw needs a lobby"));
    }
    check_range("queue.admit_per_second", queue.admit_per_second, &(1..=10_000))?;
    check_range("queue.max_active", queue.max_active, &(1..=100_000))?;
    check_range("queue.claim_secs", queue.claim_secs, &(5..=3_600))?;
    check_range("queue.session_secs", queue.session_secs, &(30..=86_400))
}

fn check_grades(grades: &[Grade]) -> Result<(), Problem> {
    if !(1..=GRADES_MAX).contains(&grades.len()) {
        return Err(Problem::invalid_body("grades", format!("from 1 to {GRADES_MAX} grades")));
    }
    let mut codes = HashSet::new();
    for (index, grade) in grades.iter().enumerate() {
        let field = |name: &str| format!("grades[{index}].{name}");
        check_code(&field("code"), &grade.code)?;
        check_text(&field("name"), &grade.name, NAME_LEN_MAX)?;
        if !codes.insert(grade.code.as_str()) {
            return Err(Problem::invalid_body(&field("code"), "another grade has this code"));
        }
        let Money(price) = grade.price;
        if !PRICES.contains(&price) {
            return Err(Problem::invalid_body(&field("price"), format!("from {} to {}", PRICES.start(), PRICES.end())));
        }
        if grade.sections.is_empty() {
            return Err(Problem::invalid_body(&field("sections"), "at least one section"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::demo;
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000).unwrap()
    }

    fn settings() -> Settings {
        Settings { venue_seats_max: 100_000, performances_max: 2, concert_seats_max: 120, creation_timeout_secs: 60 }
    }

    fn valid() -> NewConcert {
        NewConcert {
            title: "Live".into(),
            artist: "The Band".into(),
            description: "Two lines\nof text".into(),
            venue_id: VenueId::new(),
            booking_opens_at: at(100),
            booking_closes_at: at(200),
            seat_limit_per_buyer: 4,
            grades: demo::club_grades(),
            performances: vec![NewPerformance { starts_at: at(300) }],
            queue: QueueSettings::default(),
        }
    }

    fn refused(change: impl FnOnce(&mut NewConcert)) -> String {
        let mut concert = valid();
        change(&mut concert);
        let body = concert.check(&settings()).unwrap_err().body("r");
        assert_eq!(body["code"], "invalid_body");
        body["errors"][0]["field"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_valid_concert_passes() {
        valid().check(&settings()).unwrap();
        valid().check_seats(120, &settings()).unwrap();
    }

    #[test]
    fn what_is_wrong_with_a_concert_is_named() {
        assert_eq!(refused(|c| c.title.clear()), "title");
        assert_eq!(refused(|c| c.artist = "x".repeat(201)), "artist");
        assert_eq!(refused(|c| c.description.push('\0')), "description");
        assert_eq!(refused(|c| c.seat_limit_per_buyer = 0), "seat_limit_per_buyer");
        assert_eq!(refused(|c| c.booking_closes_at = c.booking_opens_at), "booking_closes_at");
        assert_eq!(refused(|c| c.queue.order = Order::Draw), "queue.lobby_opens_at");
        assert_eq!(refused(|c| c.queue.lobby_opens_at = Some(at(101))), "queue.lobby_opens_at");
        assert_eq!(refused(|c| c.queue.admit_per_second = 10_001), "queue.admit_per_second");
        assert_eq!(refused(|c| c.queue.max_active = 0), "queue.max_active");
        assert_eq!(refused(|c| c.queue.claim_secs = 4), "queue.claim_secs");
        assert_eq!(refused(|c| c.queue.session_secs = 29), "queue.session_secs");
        assert_eq!(refused(|c| c.grades.clear()), "grades");
        assert_eq!(refused(|c| c.grades[0].price = Money(0)), "grades[0].price");
        assert_eq!(refused(|c| c.grades.extend(demo::club_grades())), "grades[1].code");
        assert_eq!(refused(|c| c.performances.clear()), "performances");
        assert_eq!(refused(|c| c.performances.push(c.performances[0])), "performances[1].starts_at");
        assert!(valid().check_seats(121, &settings()).is_err());
    }

    fn concert() -> Concert {
        let new = valid();
        Concert {
            id: super::super::ConcertId::new(),
            title: new.title,
            artist: new.artist,
            venue: super::super::domain::VenueName { id: new.venue_id, name: "Club".into(), city: "Seoul".into() },
            lobby_opens_at: Some(at(90)),
            booking_opens_at: at(100),
            booking_closes_at: at(200),
            first_performance_at: at(300),
            price_from: Money(44_000),
            description: new.description,
            seat_limit_per_buyer: 4,
            grades: new.grades,
            queue_order: Order::Fifo,
            draw_commitment: String::new(),
            performances: Vec::new(),
        }
    }

    #[test]
    fn the_opening_moves_until_buyers_may_come() {
        let change = ConcertChange { booking_opens_at: Some(at(150)), ..ConcertChange::default() };
        assert_eq!(change.apply(&concert(), at(89)).unwrap().booking_opens_at, at(150));
        assert_eq!(change.apply(&concert(), at(90)).unwrap_err().code(), &SALE_ALREADY_OPEN);
        let before_the_lobby = ConcertChange { booking_opens_at: Some(at(80)), ..ConcertChange::default() };
        assert!(before_the_lobby.apply(&concert(), at(10)).is_err());
        // Saying what is so already is no change.
        let same = ConcertChange { booking_opens_at: Some(at(100)), ..ConcertChange::default() };
        assert!(same.apply(&concert(), at(150)).is_ok());
    }

    #[test]
    fn the_end_moves_until_it_has_come() {
        let change = ConcertChange { booking_closes_at: Some(at(500)), ..ConcertChange::default() };
        assert_eq!(change.apply(&concert(), at(199)).unwrap().booking_closes_at, at(500));
        assert_eq!(change.apply(&concert(), at(200)).unwrap_err().code(), &SALE_ALREADY_CLOSED);
        let cancelled = Concert { booking_closes_at: at(20), ..concert() };
        let renamed = ConcertChange { title: Some("Cancelled: Live".to_owned()), ..ConcertChange::default() };
        assert_eq!(renamed.apply(&cancelled, at(30)).unwrap().booking_closes_at, at(20));
        assert_eq!(change.apply(&cancelled, at(30)).unwrap_err().code(), &SALE_ALREADY_CLOSED);
        let too_early = ConcertChange { booking_closes_at: Some(at(100)), ..ConcertChange::default() };
        assert!(too_early.apply(&concert(), at(10)).is_err());
    }
}
