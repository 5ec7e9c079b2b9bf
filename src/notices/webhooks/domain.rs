//! Endpoints and deliveries: what may be subscribed, what is sent, and when it is tried again.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::platform::clock::Timestamp;
use crate::platform::config::Secret;
use crate::platform::error::Problem;

crate::id_types! {
    /// Who is told of events.
    EndpointId;
}

crate::problem_codes! {
    WEBHOOK_EXISTS = 409 "webhook_exists" "Address subscribed" "This address is subscribed already. Remove it first: its secret was shown once, and a new one comes with a new subscription.";
    WEBHOOKS_FULL = 409 "webhooks_full" "No place left" "As many webhooks as this installation may have, limit, are there. Remove one first.";
}

/// What can be subscribed, in order, each with the version of its schema. `docs/events.md` describes each.
pub const TOPICS: &[(&str, u32)] = &[
    ("concert.cancelled", 1),
    ("performance.postponed", 1),
    ("queue.pass_ended", 1),
    ("reservation.cancelled", 1),
    ("reservation.confirmed", 1),
    ("reservation.refunded", 1),
];

/// Longest address of an endpoint, in bytes: what its column takes.
pub const URL_BYTES_MAX: usize = 1000;

/// The version of a topic's schema.
#[must_use]
pub fn schema_version(topic: &str) -> Option<u32> {
    TOPICS.iter().find(|(name, _)| *name == topic).map(|(_, version)| *version)
}

/// The topics as they are stored: known ones, each once, in order.
///
/// # Errors
/// 422 `invalid_body` for `topics`.
pub fn checked_topics(topics: &[String]) -> Result<Vec<&'static str>, Problem> {
    if let Some(unknown) = topics.iter().position(|topic| schema_version(topic).is_none()) {
        return Err(Problem::invalid_body(&format!("topics[{unknown}]"), "no such topic: see docs/events.md"));
    }
    let known = TOPICS.iter().map(|(name, _)| *name);
    let wanted: Vec<&'static str> = known.filter(|name| topics.iter().any(|topic| topic == name)).collect();
    if wanted.is_empty() {
        return Err(Problem::invalid_body("topics", "at least one"));
    }
    Ok(wanted)
}

/// Whether an endpoint is told of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointStatus {
    /// It is.
    Active,
    /// It answered 410, and is told of nothing any more.
    Disabled,
}

impl EndpointStatus {
    /// Reads the stored state.
    #[must_use]
    pub const fn of(state: u8) -> Self {
        if state == 0 { Self::Active } else { Self::Disabled }
    }
}

/// An endpoint as operators see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Endpoint {
    /// The endpoint.
    pub id: EndpointId,
    /// Where deliveries go.
    #[schema(example = "https://hooks.example.com/frontrow")]
    pub url: String,
    /// What it is told of.
    #[schema(example = json!(["reservation.confirmed"]))]
    pub topics: Vec<String>,
    /// Whether it is told.
    pub status: EndpointStatus,
    /// When it was subscribed.
    pub created_at: Timestamp,
}

/// A new endpoint, with the secret that is shown to whoever subscribed it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct NewEndpoint {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// What its deliveries are signed with. Keep it: it is not shown again.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub secret: String,
}

/// A delivery that was tried as often as it may be.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// To whom.
    pub endpoint_id: EndpointId,
    /// Which event.
    pub event_id: Uuid,
    /// Its topic.
    pub topic: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The status of the last answer, if there was one.
    pub last_status: Option<u16>,
    /// How the last try ended, in a word.
    pub last_error: String,
    /// When it was given up.
    pub dead_since: Timestamp,
}

/// What is sent, in this order of fields.
#[derive(Debug, Serialize)]
pub struct Envelope<'e> {
    /// The event's id; the same as in `webhook-id`.
    pub id: Uuid,
    /// The topic.
    #[serde(rename = "type")]
    pub topic: &'e str,
    /// The version of the schema of `data`.
    pub version: u32,
    /// What it happened to.
    pub aggregate_id: Uuid,
    /// The event's place among those of the aggregate, from 1.
    pub sequence: u32,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// The facts.
    pub data: &'e Value,
}

/// How one try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Accepted(u16),
    /// 410: the endpoint wants no more.
    Gone,
    /// Any other status.
    Refused(u16),
    /// No answer, and why.
    Unanswered(&'static str),
}

impl Outcome {
    /// The status of the answer, if there was one.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Accepted(status) | Self::Refused(status) => Some(status),
            Self::Gone => Some(410),
            Self::Unanswered(_) => None,
        }
    }

    /// What is kept of it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accepted(_) => "",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Unanswered(why) => why,
        }
    }
}

/// How long after each try the next one comes, in seconds: together a little over a day.
const DELAYS_SECS: [u32; 7] = [5, 300, 1800, 7200, 18_000, 36_000, 36_000];

/// How long to wait after so many tries have failed; nothing where there is no other. `spread` from 0 to 1 moves it by a fifth
/// either way, so that what failed together does not come back together.
#[must_use]
pub fn delay_after(tries: u32, spread: f64) -> Option<Duration> {
    let index = usize::try_from(tries).ok()?.checked_sub(1)?;
    let secs = f64::from(*DELAYS_SECS.get(index)?);
    Some(Duration::from_secs_f64(secs * (0.8 + 0.4 * spread.clamp(0.0, 1.0))))
}

/// A delivery that was claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Which event.
    pub event_id: Uuid,
    /// What to send.
    pub body: Vec<u8>,
    /// Tries before this one.
    pub attempts: u32,
    /// The claim's number.
    pub fence: u32,
}

/// Where deliveries of an endpoint go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The endpoint.
    pub id: EndpointId,
    /// Its address.
    pub url: String,
    /// Its secret, as it is stored.
    pub secret_sealed: Secret,
    /// When its next delivery is due, if it has one that waits.
    pub due_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_for_about_a_day_and_then_given_up() {
        assert_eq!(delay_after(0, 0.5), None, "before the first try nothing is waited for");
        let delays: Vec<u64> = (1..).map_while(|tries| delay_after(tries, 0.5)).map(|it| it.as_secs()).collect();
        assert_eq!(delays, [5, 300, 1800, 7200, 18_000, 36_000, 36_000]);
        let total: u64 = delays.iter().sum();
        assert!((24..30).contains(&(total / 3600)), "{total} s");
        let spread = |spread| delay_after(2, spread).unwrap().as_secs();
        assert_eq!([spread(0.0), spread(1.0), spread(7.0)], [240, 360, 360]);
    }

    #[test]
    fn topics_are_known_and_each_stands_once_in_order() {
        assert!(TOPICS.is_sorted(), "in order");
        let of = |topics: &[&str]| checked_topics(&topics.iter().map(|&topic| topic.to_owned()).collect::<Vec<_>>());
        let twice = of(&["reservation.confirmed", "queue.pass_ended", "reservation.confirmed"]);
        assert_eq!(twice.unwrap(), ["queue.pass_ended", "reservation.confirmed"]);
        for bad in [&[][..], &["reservation.*"], &["reservation.confirmed", ""]] {
            assert_eq!(of(bad).unwrap_err().code().code, "invalid_body", "{bad:?}");
        }
        let all: Vec<&str> = TOPICS.iter().map(|(name, _)| *name).collect();
        assert!(of(&all).unwrap().join(",").len() < 1000, "what the column takes");
    }

    #[test]
    fn the_envelope_has_its_fields_in_the_documented_order() {
        let id = Uuid::nil();
        let occurred_at = Timestamp::from_millis(0).unwrap();
        let data = serde_json::json!({"amount": 1});
        let envelope =
            Envelope { id, topic: "a.b", version: 1, aggregate_id: id, sequence: 2, occurred_at, data: &data };
        let nil = "00000000-0000-0000-0000-000000000000";
        let expected = format!(
            r#"{{"id":"{nil}","type":"a.b","version":1,"aggregate_id":"{nil}","sequence":2,"occurred_at":"1970-01-01T00:00:00.000Z","data":{{"amount":1}}}}"#
        );
        assert_eq!(serde_json::to_string(&envelope).unwrap(), expected);
    }
}
