//! One client of a line that is lost meanwhile.

use std::time::Duration;

use rand::Rng as _;
use serde_json::Value;

use super::seen::{Asked, Event};
use super::{Moment, Scene};
use crate::support::{Api, Buyer};

/// Over which time clients come.
const COMING_MS: u64 = 3500;
/// The client.
pub struct Client<'a> {
    pub scene: &'a Scene,
    pub buyer: &'a Buyer,
    pub number: usize,
    turn: usize,
    /// Whether the place was asked for again after the loss.
    has_checked: bool,
}

/// A place as the client knows it.
struct Place {
    ticket: String,
    arrival: u64,
    rank: Option<u64>,
}

/// What became of the client.
#[derive(Debug, Default)]
pub struct Story {
    /// Places it had, by arrival.
    pub arrivals: Vec<u64>,
    /// Those of them that were exchanged for a pass.
    pub admitted: Vec<u64>,
    /// How it asked for its place again after the loss.
    pub checked: Option<Check>,
}

/// Asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    WithTicket,
    WithoutTicket,
}

impl<'a> Client<'a> {
    pub fn new(scene: &'a Scene, buyer: &'a Buyer, number: usize) -> Self {
        Self { scene, buyer, number, turn: number, has_checked: false }
    }

    /// Comes, waits, goes in, leaves; some come again.
    pub async fn live(mut self) -> Story {
        let mut story = Story::default();
        match self.number % 10 {
            8 => self.scene.reaches(Moment::During).await,
            9 => self.scene.reaches(Moment::After).await,
            _ => pause(0..COMING_MS).await,
        }
        self.stay(&mut story).await;
        if self.number.is_multiple_of(10) {
            self.stay(&mut story).await;
        }
        story
    }

    async fn stay(&mut self, story: &mut Story) {
        let mut place = self.join(story.arrivals.last().copied()).await;
        story.arrivals.push(place.arrival);
        loop {
            if let Some(check) = self.due_check(&place) {
                self.has_checked = true;
                self.check(check, &place).await;
                story.checked = Some(check);
            }
            let event = self.ask(Asked::Poll, &mut place).await;
            if !event.is_success() {
                self.turn += 1;
                pause(200..500).await;
                continue;
            }
            assert_eq!(event.body["arrival"], place.arrival, "{event:?}");
            let is_in = match event.body["status"].as_str() {
                Some("called" | "admitted") if !self.holds_back() => self.claim(&mut place).await,
                _ => None,
            };
            if let Some(pass) = is_in {
                story.admitted.push(place.arrival);
                return self.inside(&mut place, &pass).await;
            }
            if self.number % 25 == 24 && event.body["status"] == "waiting" {
                return self.give_up(&mut place).await;
            }
            let is_next = event.body["ahead"].as_u64().is_some_and(|ahead| ahead < 40);
            pause(if is_next { 100..300 } else { 500..1000 }).await;
        }
    }

    /// A load balancer may send the next request anywhere; who was refused is sent elsewhere.
    fn next_turn(&self, is_success: bool) -> usize {
        self.turn + if is_success { rand::rng().random_range(0..2) } else { 0 }
    }

    fn target(&self) -> (usize, &'a Api) {
        let instance = self.turn % self.scene.apis.len();
        (instance, &self.scene.apis[instance])
    }

    /// Joins, repeatedly where the answer is 503, on one instance after the other. After a stay it takes a moment until the old
    /// place is over.
    async fn join(&mut self, old: Option<u64>) -> Place {
        loop {
            let event = self.try_join(None).await;
            let arrival = event.body["arrival"].as_u64().filter(|_| event.is_success());
            if let Some(arrival) = arrival.filter(|arrival| Some(*arrival) != old) {
                assert!(old.is_none_or(|old| arrival > old), "{event:?}");
                let ticket = event.body["ticket"].as_str().expect("a ticket").to_owned();
                return Place { ticket, arrival, rank: event.rank };
            }
            if arrival.is_none() {
                self.turn += 1;
            }
            pause(200..500).await;
        }
    }

    async fn try_join(&mut self, ticket: Option<&str>) -> Event {
        let path = format!("{}/tickets", self.scene.base);
        let (instance, api) = self.target();
        let mut call = api.post(&path).bearer(&self.buyer.token);
        if let Some(ticket) = ticket {
            call = call.ticket(ticket);
        }
        let event = self.scene.seen.send((Asked::Join, self.number, None), instance, call).await;
        self.turn = self.next_turn(event.is_success());
        event
    }

    /// Whether, and how, it is time to ask for the place again.
    fn due_check(&self, place: &Place) -> Option<Check> {
        if self.has_checked || !self.scene.is_at(Moment::After) {
            return None;
        }
        match self.number % 3 {
            0 => Some(Check::WithTicket),
            1 if self.scene.is_copied(place.arrival) => Some(Check::WithoutTicket),
            _ => None,
        }
    }

    /// Some of those who come before the loss go in only after they asked for their place again, so that there is somebody to
    /// ask, however fast the others were let in: far fewer than may be inside, and of both kinds.
    fn holds_back(&self) -> bool {
        !self.has_checked && matches!(self.number % 60, 7 | 27)
    }

    /// Asks for the place again and finds the same.
    async fn check(&mut self, check: Check, place: &Place) {
        let ticket = (check == Check::WithTicket).then_some(place.ticket.as_str());
        loop {
            let event = self.try_join(ticket).await;
            if event.is_success() {
                assert_eq!(event.body["arrival"], place.arrival, "{check:?}: {event:?}");
                return;
            }
            self.turn += 1;
            pause(200..500).await;
        }
    }

    /// Looks after the place, claims, or gives it up.
    async fn ask(&mut self, asked: Asked, place: &mut Place) -> Event {
        let (me, passes) = (format!("{}/tickets/me", self.scene.base), format!("{}/passes", self.scene.base));
        let (instance, api) = self.target();
        let call = match asked {
            Asked::Claim => api.post(&passes).bearer(&self.buyer.token).ticket(&place.ticket),
            Asked::Leave => api.delete(&me).bearer(&self.buyer.token).ticket(&place.ticket),
            _ => api.get(&me).ticket(&place.ticket),
        };
        let event = self.scene.seen.send((asked, self.number, place.rank), instance, call).await;
        place.rank = place.rank.or_else(|| event.body["rank"].as_u64());
        self.turn = self.next_turn(event.is_success());
        event
    }

    async fn claim(&mut self, place: &mut Place) -> Option<String> {
        let event = self.ask(Asked::Claim, place).await;
        if !event.is_success() {
            self.turn += 1;
        }
        event.body["pass"].as_str().map(str::to_owned)
    }

    async fn give_up(&mut self, place: &mut Place) {
        while self.ask(Asked::Leave, place).await.status != 204 {
            self.turn += 1;
            pause(200..500).await;
        }
    }

    /// Stays for some polls and leaves.
    async fn inside(&mut self, place: &mut Place, pass: &str) {
        for _ in 0..2 {
            pause(100..250).await;
            let event = self.ask(Asked::Poll, place).await;
            assert!(!event.is_success() || is_in(&event.body), "{event:?}");
        }
        let path = format!("{}/passes/me", self.scene.base);
        loop {
            let (instance, api) = self.target();
            let leave = api.delete(&path).bearer(&self.buyer.token).pass(pass);
            if self.scene.seen.send((Asked::Leave, self.number, place.rank), instance, leave).await.status == 204 {
                return;
            }
            self.turn += 1;
            pause(200..500).await;
        }
    }
}

/// An instance that has just begun to follow the line may not know that this rank was called.
fn is_in(place: &Value) -> bool {
    place["status"] == "admitted" || place["status"] == "waiting"
}

async fn pause(range_ms: std::ops::Range<u64>) {
    let pause = rand::rng().random_range(range_ms);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
