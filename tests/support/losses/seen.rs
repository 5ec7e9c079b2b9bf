//! What a crowd saw while its line was lost, and what must be true of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::{Call, Reply};

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    Join,
    Poll,
    Claim,
    Leave,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Event {
    pub asked: Asked,
    pub client: usize,
    pub instance: usize,
    /// Both from the beginning of the record.
    pub sent: Duration,
    pub answered: Duration,
    /// 0 where the connection failed.
    pub status: u16,
    pub retries_told: bool,
    pub body: serde_json::Value,
    /// The rank of the place that it was about, where the client knew one.
    pub rank: Option<u64>,
}

impl Event {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn says(&self, word: &str) -> bool {
        self.body["status"] == word
    }
}

/// The record.
pub struct Seen {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { began: Instant::now(), events: Mutex::default() }
    }
}

impl Seen {
    /// The present, from the beginning of the record.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sends and records.
    pub async fn send(
        &self,
        (asked, client, rank): (Asked, usize, Option<u64>),
        instance: usize,
        call: Call<'_>,
    ) -> Event {
        let sent = self.now();
        let reply: Option<Reply> = call.try_send().await.ok();
        let (status, body) = reply.as_ref().map_or((0, serde_json::Value::Null), |r| (r.status, r.body.clone()));
        let rank = rank.or_else(|| body["rank"].as_u64());
        let retries_told = reply.is_some_and(|reply| reply.header("retry-after").is_some());
        let event = Event { asked, client, instance, sent, answered: self.now(), status, retries_told, body, rank };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
        event
    }

    /// Everything so far, by the time of the answer.
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        events.sort_by_key(|event| event.answered);
        events
    }

    /// How often each outcome was seen.
    pub fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut outcomes = BTreeMap::new();
        for event in self.events() {
            let code = event.body["code"].as_str().unwrap_or_default().to_owned();
            *outcomes.entry(format!("{:?} {} {code}", event.asked, event.status).trim_end().to_owned()).or_default() +=
                1;
        }
        outcomes
    }

    /// How often this one was seen.
    pub fn count(&self, outcome: &str) -> usize {
        self.outcomes().get(outcome).copied().unwrap_or_default()
    }

    /// Every rank that was told, with its arrival.
    pub fn ranks(&self) -> BTreeSet<(u64, u64)> {
        let pair = |event: &Event| Some((event.body["arrival"].as_u64()?, event.body["rank"].as_u64()?));
        self.events().iter().filter_map(pair).collect()
    }

    /// When each place was answered first.
    pub fn first_answers(&self) -> BTreeMap<u64, Duration> {
        let mut first = BTreeMap::new();
        for event in self.events().iter().filter(|event| event.asked == Asked::Join) {
            if let Some(arrival) = event.body["arrival"].as_u64() {
                first.entry(arrival).or_insert(event.answered);
            }
        }
        first
    }

    /// When the first request sent at `from` or later succeeded on that instance, counted from `from`.
    pub fn first_success(&self, asked: Asked, instance: usize, from: Duration) -> Option<Duration> {
        let events = self.events();
        let mut of_it = events.iter().filter(|event| event.asked == asked && event.instance == instance);
        of_it.find(|event| event.is_success() && event.sent >= from).map(|event| event.answered.saturating_sub(from))
    }

    /// Answers in time, and none but success, "not yet", and "not now, come back at that time".
    pub fn assert_answered(&self, longest: Duration) {
        for event in self.events() {
            let is_fair = match event.status {
                200..=299 => true,
                409 => event.body["code"] == "not_called",
                503 => event.retries_told,
                _ => false,
            };
            assert!(is_fair, "{event:?}");
            assert!(event.answered.saturating_sub(event.sent) < longest, "{event:?}");
            let is_over = ["lapsed", "left", "finished"].iter().any(|word| event.says(word));
            assert!(!is_over || event.asked == Asked::Join, "a place was lost: {event:?}");
        }
    }

    /// No number was given to two clients, in all answers there ever were.
    pub fn assert_unique(&self) -> usize {
        let mut owners: HashMap<u64, usize> = HashMap::new();
        for event in self.events().iter().filter(|event| event.is_success()) {
            let Some(arrival) = event.body["arrival"].as_u64() else { continue };
            let owner = *owners.entry(arrival).or_insert(event.client);
            assert_eq!(owner, event.client, "a number was given twice: {event:?}");
        }
        owners.len()
    }

    /// Ranks are called in order: once somebody was seen to be called, nobody with a lower rank is told to wait by the same
    /// instance, nor is a claim with a lower rank refused as too early by any.
    pub fn assert_order(&self, instances: usize) -> usize {
        let events = self.events();
        let mut checked = 0;
        for instance in 0..instances {
            let here = |event: &&Event| event.instance == instance && matches!(event.asked, Asked::Poll | Asked::Join);
            let called = events.iter().filter(here).filter(|event| event.says("called") || event.says("admitted"));
            let waiting = events.iter().filter(here).filter(|event| event.says("waiting"));
            checked += assert_behind(called, waiting);
        }
        let claims = || events.iter().filter(|event| event.asked == Asked::Claim);
        let early = claims().filter(|event| event.status == 409 && event.body["ahead"] != 0);
        checked + assert_behind(claims().filter(|event| event.is_success()), early)
    }
}

/// Asserts that whoever waits stands behind everybody who had been called when they asked.
fn assert_behind<'a>(called: impl Iterator<Item = &'a Event>, waiting: impl Iterator<Item = &'a Event>) -> usize {
    let mut waiting: Vec<&Event> = waiting.collect();
    waiting.sort_by_key(|event| event.sent);
    let mut called = called.peekable();
    let (mut last, mut checked): (Option<&Event>, usize) = (None, 0);
    for event in waiting {
        while let Some(earlier) = called.next_if(|earlier| earlier.answered <= event.sent) {
            if last.is_none_or(|last| last.rank < earlier.rank) {
                last = Some(earlier);
            }
        }
        let Some(last) = last else { continue };
        assert!(event.rank > last.rank, "called out of order: {last:?} before {event:?}");
        checked += 1;
    }
    checked
}
