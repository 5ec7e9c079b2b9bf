//! Time as a parameter. The only place that reads the wall clock.
//!
//! Three clocks take part: MySQL's (inside statements), Redis' (inside scripts) and this application clock
//! (tokens, answers), which is aligned with MySQL's every few seconds. All three are moved together by
//! one offset that only test builds can set: statements bind [`Clock::offset_micros`], scripts receive
//! [`Clock::offset_millis`], and [`Clock::now`] adds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlTypeInfo, MySqlValueRef};
use sqlx::{Decode, Encode, MySql, Type};

/// The database's clock may have been read at any moment of the round trip: longer ones tell little.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(50);
/// Slow readings in a row that are dropped before one is believed: about a minute of them.
const DROPS_MAX: u32 = 12;

/// An instant in UTC with microseconds, written as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

/// Bound as a `DATETIME`, which every column is: what is bound as a `TIMESTAMP` MariaDB takes for NULL from 2038 on.
impl Type<MySql> for Timestamp {
    fn type_info() -> MySqlTypeInfo {
        <NaiveDateTime as Type<MySql>>::type_info()
    }

    fn compatible(ty: &MySqlTypeInfo) -> bool {
        <DateTime<Utc> as Type<MySql>>::compatible(ty)
    }
}

impl Encode<'_, MySql> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut Vec<u8>) -> Result<IsNull, BoxDynError> {
        self.0.naive_utc().encode_by_ref(buffer)
    }

    fn size_hint(&self) -> usize {
        <NaiveDateTime as Encode<'_, MySql>>::size_hint(&self.0.naive_utc())
    }
}

impl<'r> Decode<'r, MySql> for Timestamp {
    fn decode(value: MySqlValueRef<'r>) -> Result<Self, BoxDynError> {
        <DateTime<Utc> as Decode<'r, MySql>>::decode(value).map(Self)
    }
}

impl Timestamp {
    /// The beginning of 1970.
    pub const EPOCH: Self = Self(DateTime::UNIX_EPOCH);

    /// From milliseconds since 1970; `None` outside the calendar's range.
    #[must_use]
    pub fn from_millis(millis: i64) -> Option<Self> {
        DateTime::from_timestamp_millis(millis).map(Self)
    }

    /// From microseconds since 1970; `None` outside the calendar's range.
    #[must_use]
    pub fn from_micros(micros: i64) -> Option<Self> {
        DateTime::from_timestamp_micros(micros).map(Self)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0.timestamp_millis()
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    /// Later by `duration`, or the greatest representable instant.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let delta = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        Self(self.0.checked_add_signed(delta).unwrap_or(DateTime::<Utc>::MAX_UTC))
    }

    /// Earlier by `duration`, or the smallest representable instant.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let delta = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        Self(self.0.checked_sub_signed(delta).unwrap_or(DateTime::<Utc>::MIN_UTC))
    }

    /// As HTTP's `Date` has it.
    #[must_use]
    pub fn http_date(self) -> String {
        self.0.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// As SQL writes it between quotes.
    #[must_use]
    pub fn sql(self) -> impl std::fmt::Display {
        self.0.format("%Y-%m-%d %H:%M:%S%.6f")
    }

    /// The time from `earlier` to this instant; zero where it lies behind.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        (self.0 - earlier.0).to_std().unwrap_or_default()
    }
}

/// An instant as answers write it.
const TEXT: &[u8; 24] = b"0000-00-00T00:00:00.000Z";

impl Timestamp {
    /// RFC 3339 with milliseconds; nothing for years that do not have four digits. Written by hand, as every poll of a crowd
    /// has one of them, and chrono takes a multiple of the time.
    fn text(self) -> Option<[u8; TEXT.len()]> {
        use chrono::{Datelike as _, Timelike as _};
        let year = u32::try_from(self.0.year()).ok().filter(|year| *year <= 9999)?;
        // A leap second's part is carried as more than a thousand milliseconds.
        let millis = (self.0.nanosecond() / 1_000_000).min(999);
        let time = self.0.time();
        let mut text = *TEXT;
        let parts = [
            (3, 4, year),
            (6, 2, self.0.month()),
            (9, 2, self.0.day()),
            (12, 2, time.hour()),
            (15, 2, time.minute()),
            (18, 2, time.second()),
            (22, 3, millis),
        ];
        for (last, digits, mut value) in parts {
            for at in (0..digits).map(|digit| last - digit) {
                text[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
                value /= 10;
            }
        }
        Some(text)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.text().as_ref().and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true)),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text().as_ref().and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = DateTime::parse_from_rfc3339(&text)
            .map_err(|_| de::Error::custom("expected an RFC 3339 time such as 2026-11-21T12:00:00Z"))?
            .with_timezone(&Utc);
        // chrono carries a leap second as more than a second's worth of nanoseconds, which neither MySQL nor sqlx takes.
        if chrono::Timelike::nanosecond(&parsed) >= 1_000_000_000 {
            return Err(de::Error::custom("expected a time without a leap second"));
        }
        // MySQL's DATETIME covers these years only.
        let year = chrono::Datelike::year(&parsed);
        if !(1970..=9998).contains(&year) {
            return Err(de::Error::custom("expected a year from 1970 to 9998"));
        }
        Ok(Self(parsed.trunc_subsecs(6)))
    }
}

/// Instants as they are kept between processes: in whole microseconds, of which the text that answers have keeps
/// milliseconds alone.
pub mod micros {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::Timestamp;

    /// Writes microseconds since 1970.
    ///
    /// # Errors
    /// What the serializer refuses with.
    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(time.micros())
    }

    /// Reads them.
    ///
    /// # Errors
    /// Where it is no number, or outside the calendar's range.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let micros = i64::deserialize(deserializer)?;
        Timestamp::from_micros(micros).ok_or_else(|| de::Error::custom("outside the calendar's range"))
    }

    /// The same where there need not be one.
    pub mod optional {
        use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

        use super::Timestamp;

        /// Writes microseconds since 1970, or nothing.
        ///
        /// # Errors
        /// What the serializer refuses with.
        pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
            time.map(Timestamp::micros).serialize(serializer)
        }

        /// Reads them.
        ///
        /// # Errors
        /// Where it is neither a number nor nothing, or outside the calendar's range.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
            let Some(micros) = Option::<i64>::deserialize(deserializer)? else { return Ok(None) };
            Timestamp::from_micros(micros).map(Some).ok_or_else(|| de::Error::custom("outside the calendar's range"))
        }
    }
}

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl utoipa::ToSchema for Timestamp {
    fn name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
}

/// The application clock. Clones share their alignment and offset.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// What MySQL's clock reads minus what this machine's reads, in microseconds.
    alignment: Arc<AtomicI64>,
    /// How many more imprecise readings of MySQL's clock are dropped: none before the first precise one.
    drops: Arc<AtomicU32>,
    /// The tests' offset, in microseconds. Nothing outside `test-kit` can make it differ from zero.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// A clock whose offset is shared with whoever holds `offset` (microseconds).
    #[cfg(feature = "test-kit")]
    #[must_use]
    pub fn with_offset(offset: Arc<AtomicI64>) -> Self {
        Self { offset, ..Self::default() }
    }

    /// The present instant, on the database's clock as far as it is known.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let shift = self.alignment.load(Ordering::Relaxed) + self.offset_micros();
        Timestamp(wall() + TimeDelta::microseconds(shift))
    }

    /// What statements add to the database's clock, in microseconds.
    #[must_use]
    pub fn offset_micros(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// What scripts add to the Redis clock, in milliseconds.
    #[must_use]
    pub fn offset_millis(&self) -> i64 {
        self.offset_micros() / 1000
    }

    /// Takes over the database's clock: `database_now` was read (offset included) within `round_trip`. Slow readings
    /// are dropped, unless there have been no others for long.
    pub fn align(&self, database_now: Timestamp, round_trip: Duration) {
        if round_trip <= ROUND_TRIP_MAX {
            self.drops.store(DROPS_MAX, Ordering::Relaxed);
        } else if self.drops.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |drops| drops.checked_sub(1)).is_ok() {
            return;
        }
        let middle = database_now.plus(round_trip / 2);
        let unaligned = wall() + TimeDelta::microseconds(self.offset_micros());
        self.alignment.store(middle.micros() - unaligned.timestamp_micros(), Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn wall() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_takes_over_the_databases_clock() {
        let clock = Clock::default();
        let ahead = clock.now().plus(Duration::from_hours(1));
        clock.align(ahead, Duration::ZERO);
        assert!(clock.now() >= ahead);
        assert!(clock.now() < ahead.plus(Duration::from_mins(1)));
    }

    #[test]
    fn slow_readings_are_dropped_while_there_are_better_ones() {
        let (clock, slow) = (Clock::default(), Duration::from_millis(51));
        let (now, hour) = (clock.now(), Duration::from_hours(1));
        let is_ahead = |clock: &Clock| clock.now() > now.plus(hour / 2);
        clock.align(now.plus(hour), slow);
        assert!(is_ahead(&clock), "the first is better than nothing");
        clock.align(now, ROUND_TRIP_MAX);
        for _ in 0..DROPS_MAX {
            clock.align(now.plus(hour), slow);
            assert!(!is_ahead(&clock));
        }
        clock.align(now.plus(hour), slow);
        assert!(is_ahead(&clock), "the network is slow");
    }

    #[test]
    fn times_are_written_with_milliseconds_and_read_back() {
        let time = Timestamp::from_millis(1_700_000_000_123).unwrap();
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, "\"2023-11-14T22:13:20.123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time);
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn every_instant_is_written_as_chrono_writes_it(
            near in -100_000_000_000_000_i64..100_000_000_000_000,
            far in -8_000_000_000_000_000_i64..8_000_000_000_000_000,
        ) {
            for millis in [near, far] {
                let time = DateTime::from_timestamp_millis(millis).unwrap();
                let wanted = time.to_rfc3339_opts(SecondsFormat::Millis, true);
                proptest::prop_assert_eq!(Timestamp(time).to_string(), wanted.clone());
                proptest::prop_assert_eq!(serde_json::to_value(Timestamp(time)).unwrap(), wanted);
            }
        }
    }

    #[test]
    fn leap_seconds_are_refused() {
        assert!(serde_json::from_str::<Timestamp>("\"2016-12-31T23:59:60Z\"").is_err());
        assert!(serde_json::from_str::<Timestamp>("\"2016-12-31T23:59:60.5+00:00\"").is_err());
        assert!(serde_json::from_str::<Timestamp>("\"2016-12-31T23:59:59.999Z\"").is_ok());
    }

    #[test]
    fn years_that_the_database_cannot_keep_are_refused() {
        assert!(serde_json::from_str::<Timestamp>("\"9999-12-31T23:59:59Z\"").is_err());
        assert!(serde_json::from_str::<Timestamp>("\"0001-01-01T00:00:00Z\"").is_err());
    }
}
