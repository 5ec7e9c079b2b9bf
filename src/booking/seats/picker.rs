//! The best seats for many requests of one instance at the same time: each is given different ones.
//!
//! What is known to be taken is a picture that was read a moment ago. What this instance has chosen since stands beside it,
//! as marks, until a picture can know of it. All of it is advice: MySQL decides who gets a seat, and a picker that is
//! wrong costs a second try.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::best::{Ask, Choice, Plan, best};
use super::bits::Bits;
use crate::platform::clock::Timestamp;

/// How long a mark stands by itself: longer than a request takes, and what a request that died costs at most.
const MARK_MAX_AGE: Duration = Duration::from_secs(10);

/// Why a seat is not given to others although the picture shows it free.
#[derive(Clone, Copy, Debug)]
enum Mark {
    /// A request was given it, at that time.
    Chosen(Timestamp),
    /// It was taken, at that time at the latest: pictures that were read later know.
    Settled(Timestamp),
}

impl Mark {
    fn is_over(self, read_at: Timestamp) -> bool {
        let (Self::Chosen(since) | Self::Settled(since)) = self;
        matches!(self, Self::Settled(_)) && read_at > since || distance(read_at, since) > MARK_MAX_AGE
    }
}

/// A clock that was set back must not keep anything for ever, so age counts both ways.
fn distance(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

#[derive(Debug)]
struct State {
    /// As it was read.
    picture: Bits,
    read_at: Option<Timestamp>,
    /// Of seats of the plan only, so there are never more of them than seats.
    marks: HashMap<u32, Mark>,
    /// The picture and the marks.
    taken: Bits,
}

/// The seats of one performance, for all requests of this instance.
#[derive(Debug)]
pub struct Picker {
    plan: Arc<Plan>,
    state: Mutex<State>,
}

impl Picker {
    /// Over this plan. Every seat seems free until the first [`Self::refresh`].
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let none = Bits::new(plan.seats_total() as usize);
        let state = State { picture: none.clone(), read_at: None, marks: HashMap::new(), taken: none };
        Self { plan, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan it chooses by.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// When the picture was read, or `None` before the first one.
    #[must_use]
    pub fn read_at(&self) -> Option<Timestamp> {
        self.state().read_at
    }

    /// Takes over a picture of everything that is taken. `read_at` is when its reading began, on the same clock as all
    /// times here. An older picture than the known one is left alone.
    ///
    /// Marks that were settled before are forgotten: the picture knows better. Marks of requests that are still under
    /// way stay, for ten seconds at most.
    pub fn refresh(&self, taken: &Bits, read_at: Timestamp) {
        let mut state = self.state();
        if state.read_at.is_some_and(|known| known > read_at && distance(known, read_at) <= MARK_MAX_AGE) {
            return;
        }
        let State { picture, read_at: known, marks, taken: all } = &mut *state;
        marks.retain(|_, mark| !mark.is_over(read_at));
        // Room for every seat, however short the picture is.
        *all = Bits::new(self.plan.seats_total() as usize);
        all.merge(taken);
        (*picture, *known) = (all.clone(), Some(read_at));
        for seat in marks.keys() {
            all.set(*seat);
        }
    }

    /// Chooses as [`best`] does, and keeps the seats from others until [`Self::gave_up`], or, after [`Self::settled`],
    /// until a picture tells. `None` where too few seats are left; some of those that are missing may come back, where
    /// requests under way come to nothing.
    pub fn choose(&self, ask: Ask<'_>, variety: usize, now: Timestamp) -> Option<Choice> {
        let mut state = self.state();
        let choice = best(&self.plan, &state.taken, ask, variety)?;
        for seat in &choice.seats {
            state.taken.set(*seat);
            state.marks.insert(*seat, Mark::Chosen(now));
        }
        Some(choice)
    }

    /// These seats are taken as of `now`, whoever has them: chosen ones after their commit, named ones likewise, and
    /// those that were refused because others have them. Only a picture that was read later shows them free again.
    pub fn settled(&self, seats: &[u32], now: Timestamp) {
        let mut state = self.state();
        for seat in seats.iter().filter(|seat| **seat < self.plan.seats_total()) {
            state.taken.set(*seat);
            state.marks.insert(*seat, Mark::Settled(now));
        }
    }

    /// The request that was given these seats did not take them. Whoever learned at the same time what is taken calls
    /// [`Self::refresh`] or [`Self::settled`] for that: before, or others choose the same seats in between. A seat that was
    /// settled meanwhile stays so.
    pub fn gave_up(&self, seats: &[u32]) {
        let mut state = self.state();
        let State { picture, marks, taken, .. } = &mut *state;
        for seat in seats {
            if !matches!(marks.get(seat), Some(Mark::Chosen(_))) {
                continue;
            }
            marks.remove(seat);
            if !picture.has(*seat) {
                taken.clear(*seat);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::SeatMap;
    use crate::catalog::demo::{CLUB_SEATS, club_grades, club_layout};

    const PAIR: Ask<'_> = Ask { quantity: 2, grade: None };
    const ALL: Ask<'_> = Ask { quantity: CLUB_SEATS, grade: None };

    fn plan() -> Arc<Plan> {
        Arc::new(Plan::new(&SeatMap::build(&club_layout(), &club_grades()).unwrap()))
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).unwrap().plus(Duration::from_millis(millis))
    }

    fn nobody() -> Bits {
        Bits::new(CLUB_SEATS as usize)
    }

    fn taken(seats: &[u32]) -> Bits {
        let mut bits = nobody();
        for seat in seats {
            bits.set(*seat);
        }
        bits
    }

    /// Whether nobody is kept from these seats.
    fn is_free(picker: &Picker, seats: &[u32]) -> bool {
        seats.iter().all(|seat| !picker.state().taken.has(*seat))
    }

    #[test]
    fn every_request_is_given_other_seats() {
        let picker = Picker::new(plan());
        let chosen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(choice) = picker.choose(PAIR, 0, at(0)) {
                        chosen.lock().unwrap().extend(choice.seats);
                    }
                });
            }
        });
        let mut chosen = chosen.into_inner().unwrap();
        chosen.sort_unstable();
        assert!(chosen.into_iter().eq(0..CLUB_SEATS));
    }

    #[test]
    fn a_choice_outlives_pictures_until_one_can_know_of_it() {
        let picker = Picker::new(plan());
        let seats = picker.choose(PAIR, 0, at(0)).unwrap().seats;
        picker.refresh(&nobody(), at(100));
        assert!(!is_free(&picker, &seats), "its request is still under way");
        picker.settled(&seats, at(200));
        picker.refresh(&nobody(), at(200));
        assert!(!is_free(&picker, &seats), "the picture may have been read before");
        picker.refresh(&taken(&seats), at(201));
        assert!(!is_free(&picker, &seats) && picker.state().marks.is_empty());
        picker.refresh(&nobody(), at(300));
        assert!(is_free(&picker, &seats), "the picture alone tells");
    }

    #[test]
    fn a_request_that_died_is_forgotten() {
        let picker = Picker::new(plan());
        assert!(picker.choose(ALL, 0, at(1000)).is_some());
        picker.refresh(&nobody(), at(11_000));
        assert_eq!(picker.choose(PAIR, 0, at(11_000)), None);
        picker.refresh(&nobody(), at(11_001));
        assert!(picker.choose(ALL, 0, at(11_001)).is_some());
        assert_eq!(picker.read_at(), Some(at(11_001)));
    }

    #[test]
    fn what_is_given_up_can_be_chosen_again() {
        let picker = Picker::new(plan());
        let seats = picker.choose(PAIR, 0, at(0)).unwrap().seats;
        picker.gave_up(&seats);
        assert_eq!(picker.choose(PAIR, 0, at(1)).unwrap().seats, seats);
        // Others have one of them.
        picker.refresh(&taken(&seats[..1]), at(2));
        picker.gave_up(&seats);
        assert!(!is_free(&picker, &seats[..1]) && is_free(&picker, &seats[1..]));
        picker.settled(&seats[1..], at(3));
        picker.gave_up(&seats);
        assert!(!is_free(&picker, &seats[1..]), "taken is taken, whoever gives it up");
    }

    #[test]
    fn old_pictures_are_left_alone_unless_the_clock_was_set_back() {
        let picker = Picker::new(plan());
        picker.refresh(&taken(&[7]), at(20_000));
        picker.refresh(&nobody(), at(19_999));
        assert!(!is_free(&picker, &[7]));
        picker.settled(&[8], at(20_000));
        picker.refresh(&nobody(), at(9_999));
        assert!(is_free(&picker, &[7, 8]));
    }

    #[test]
    fn seats_that_do_not_exist_are_not_remembered() {
        let picker = Picker::new(plan());
        picker.settled(&[CLUB_SEATS - 1, CLUB_SEATS, u32::MAX], at(0));
        picker.gave_up(&[CLUB_SEATS, u32::MAX]);
        assert_eq!(picker.state().marks.len(), 1);
    }

    #[test]
    fn a_short_picture_hides_no_choice() {
        let picker = Picker::new(plan());
        picker.refresh(&Bits::new(1), at(0));
        assert!(picker.choose(ALL, 0, at(1)).is_some());
        picker.refresh(&Bits::new(1), at(2));
        assert_eq!(picker.choose(PAIR, 0, at(3)), None);
    }

    proptest::proptest! {
            #![proptest_config(crate::platform::properties::config())]

            /// Two instances sell the same seats; pictures come late, and some requests die.
            #[test]
            fn two_pickers_sell_everything_once(
                steps in proptest::collection::vec((0_usize..2, 1_u32..=4, 0_usize..4, 0_u8..8), 0..200),
            ) {
                let pickers = [Picker::new(plan()), Picker::new(plan())];
                let mut truth = nobody();
                let mut now = 0;
                let mut under_way: [Vec<u32>; 2] = Default::default();
                for (instance, quantity, variety, fate) in steps {
                    let picker = &pickers[instance];
                    now += 5;
                    if fate == 0 {
                        picker.refresh(&truth, at(now));
                    }
                    let Some(choice) = picker.choose(Ask { quantity, grade: None }, variety, at(now)) else { continue };
                    proptest::prop_assert_eq!(choice.seats.len(), quantity as usize);
                    proptest::prop_assert!(choice.seats.iter().all(|seat| !under_way[instance].contains(seat)));
                    let (lost, rest): (Vec<u32>, Vec<u32>) = choice.seats.iter().partition(|seat| truth.has(**seat));
                    if fate == 1 {
                        under_way[instance].extend(&choice.seats);
                    } else if lost.is_empty() {
                        for seat in &rest {
    truth.set(*seat);
    }
                        picker.settled(&rest, at(now));
                    } else {
                        picker.settled(&lost, at(now));
                        picker.gave_up(&choice.seats);
                        proptest::prop_assert!(is_free(picker, &rest));
                    }
                }
                // The dead are forgotten, and what is left is sold to the last seat.
                now += 10_001;
                for picker in &pickers {
                    picker.refresh(&truth, at(now));
                    proptest::prop_assert!(picker.state().marks.is_empty());
                }
                for turn in 0.. {
                    let picker = &pickers[turn % 2];
                    let Some(choice) = picker.choose(Ask { quantity: 1, grade: None }, 0, at(now)) else { break };
                    if truth.has(choice.seats[0]) {
                        picker.settled(&choice.seats, at(now));
                    } else {
                        truth.set(choice.seats[0]);
                    }
                }
                proptest::prop_assert_eq!(truth.count(), CLUB_SEATS);
            }
        }
}
