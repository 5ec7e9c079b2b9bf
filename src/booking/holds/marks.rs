//! What a request keeps from others while MySQL is asked: marks in the seat filter, and in the picker of this instance.
//!
//! However a request ends, its marks end with it: kept where its hold was made, left to end by themselves where that is not
//! known, given back in every other case. One that is dropped on its way (its client is gone, or its batch was never run) gives
//! them back too, so nobody can block seats by asking for them and going away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

use crate::booking::seats::filter::{Claim, Filter};
use crate::booking::seats::picker::Picker;
use crate::booking::seats::store::TakenSeat;
use crate::platform::clock::Clock;

/// The marks of one request.
#[derive(Debug)]
pub(super) struct Marks {
    pub filter: Filter,
    /// None until it is known that somebody may have the seats.
    pub picker: Option<Arc<Picker>>,
    pub clock: Clock,
    /// By number.
    pub seats: Vec<u32>,
    /// Whether the picker chose them, and so keeps them from its other requests.
    pub is_chosen: bool,
    /// None where the filter was not asked, or did not know.
    pub claim: Option<Claim>,
    pub is_over: AtomicBool,
}

impl Marks {
    /// The hold was made.
    pub fn keep(&self) {
        self.is_over.store(true, Ordering::Release);
        self.settled(&self.seats);
    }

    fn settled(&self, seats: &[u32]) {
        if let Some(picker) = &self.picker {
            picker.settled(seats, self.clock.now());
        }
    }

    /// Whether the hold was made is not known: the marks end by themselves.
    pub fn leave(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn give_up(&self) {
        if let Some(picker) = self.picker.as_ref().filter(|_| self.is_chosen) {
            picker.gave_up(&self.seats);
        }
    }

    /// Nothing came of the request. Of seats that others have the filter learns what MySQL says.
    pub async fn give_back(&self, lost: &[TakenSeat]) {
        self.is_over.store(true, Ordering::Release);
        let numbers: Vec<u32> = lost.iter().map(|seat| seat.seat_no).collect();
        self.settled(&numbers);
        self.give_up();
        if let Some(claim) = &self.claim {
            self.filter.give_back_but(claim, lost).await;
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        self.give_up();
        // Without a runtime the process is ending.
        if let (Some(claim), Ok(runtime)) = (self.claim.take(), Handle::try_current()) {
            let filter = self.filter.clone();
            runtime.spawn(async move { filter.give_back(&claim).await });
        }
    }
}
