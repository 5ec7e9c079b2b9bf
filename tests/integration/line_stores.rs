//! What every store of lines does alike, asked of each: places, claims, calls, draws, and lines made anew.

use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::queue::domain::{Bound, InCharge, Standing};
use frontrow::queue::line::{Claimed, End, Join, Joined, Latency, Remembered, Spot, Tick};
use futures::future::join_all;

use crate::support::lines::{CLAIM_SECS, SESSION, TestLine, WINDOW, on_both};

fn sorted(numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut numbers: Vec<u64> = numbers.into_iter().collect();
    numbers.sort_unstable();
    numbers
}

fn place(arrival: u64) -> Spot {
    Spot { arrival, rank: Some(arrival) }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_one_place_until_it_is_used_up() {
    on_both(async |mut line: TestLine| {
        line.rules.max_active = 1;
        let users = line.crowd(4).await;
        assert_eq!(line.join(users[2]).await, Joined::Same(2));
        assert_eq!(line.serving().await, 1);
        // Called, then inside: still the same place.
        assert_eq!(line.join(users[0]).await, Joined::Same(0));
        TestLine::is_in(line.claim(0).await);
        assert_eq!(line.join(users[0]).await, Joined::Same(0));
        assert_eq!(line.leave(0, End::Finished).await, Standing::Admitted);
        assert_eq!(line.join(users[0]).await, Joined::New(4));
        // Given up while waiting.
        assert_eq!(line.leave(2, End::Left).await, Standing::Waiting);
        assert_eq!(line.join(users[2]).await, Joined::New(5));
        // Lapsed.
        assert_eq!(line.serving().await, 2);
        line.advance(WINDOW);
        assert_eq!(line.look(1).await, Standing::Lapsed);
        assert_eq!(line.join(users[1]).await, Joined::New(6));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_of_one_user_at_once_give_one_place() {
    on_both(async |line: TestLine| {
        let user = UserId::new();
        let joined = join_all((0..16).map(|_| line.join(user))).await;
        assert_eq!(joined.iter().filter(|joined| **joined == Joined::New(0)).count(), 1, "{joined:?}");
        assert_eq!(joined.iter().filter(|joined| **joined == Joined::Same(0)).count(), 15, "{joined:?}");
        let others: Vec<UserId> = (0..16).map(|_| UserId::new()).collect();
        let joined = join_all(others.iter().map(|other| line.join(*other))).await;
        let new = joined.iter().map(|joined| if let Joined::New(arrival) = joined { *arrival } else { 0 });
        assert_eq!(sorted(new), (1..17).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_place_is_given_past_the_ceiling_or_where_new_ones_are_refused() {
    on_both(async |mut line: TestLine| {
        line.ceiling = 2;
        let users = line.crowd(2).await;
        assert_eq!(line.join(UserId::new()).await, Joined::Ceiling(2));
        assert_eq!(line.join(users[1]).await, Joined::Same(1));
        line.ceiling = 3;
        let refused = Join { is_refused: true, ..line.asking(UserId::new()) };
        assert_eq!(line.join_with(&refused).await, Joined::Refused);
        let known = Join { is_refused: true, ..line.asking(users[0]) };
        assert_eq!(line.join_with(&known).await, Joined::Same(0));
        assert_eq!(line.join(refused.user).await, Joined::New(2));
        assert_eq!(line.tick().await.snapshot.issued, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_proven_is_kept_after_a_loss() {
    on_both(async |mut line: TestLine| {
        let users = line.crowd(3).await;
        line.wipe().await;
        line.remade(Remembered { ceiling: 100, ..line.remembered() }).await;
        let proven = Join { presented: Some(place(1)), has_looked: true, ..line.asking(users[1]) };
        assert_eq!(line.join_with(&proven).await, Joined::Same(1));
        let looked = Join { has_looked: true, ..line.asking(users[1]) };
        assert_eq!(line.join_with(&looked).await, Joined::Same(1));
        // What was never issued proves nothing.
        let made_up = Join { presented: Some(place(100)), has_looked: true, ..line.asking(UserId::new()) };
        assert_eq!(line.join_with(&made_up).await, Joined::New(100));
        // A store that knows the users' places by itself finds them; one that lost them says so.
        let expected = if line.store == InCharge::Usual { Joined::Unknown } else { Joined::Same(2) };
        assert_eq!(line.join(users[2]).await, expected);
        // What was given up is proof of nothing.
        assert_eq!(line.leave(2, End::Left).await, Standing::Waiting);
        let over = Join { presented: Some(place(2)), has_looked: true, ..line.asking(users[2]) };
        assert_eq!(line.join_with(&over).await, Joined::New(101));
    })
    .await;
}

/// A line that comes back older remembers a place that was used up since, and its user has another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_place_of_a_user_counts_after_a_loss() {
    on_both(async |mut line: TestLine| {
        let users = line.crowd(4).await;
        line.remade(Remembered { ceiling: 100, ..line.remembered() }).await;
        let newer = Join { presented: Some(place(50)), has_looked: true, ..line.asking(users[1]) };
        assert_eq!(line.join_with(&newer).await, Joined::Same(50));
        let by_ticket = Join { presented: Some(place(51)), ..line.asking(users[2]) };
        assert_eq!(line.join_with(&by_ticket).await, Joined::Same(51));
        if line.store == InCharge::Usual {
            // MySQL sees by itself which places are over.
            let over = Join { has_looked: true, over: Some(60), ..line.asking(users[3]) };
            assert_eq!(line.join_with(&over).await, Joined::New(100));
            let earlier = Join { presented: Some(place(3)), ..over };
            assert_eq!(line.join_with(&earlier).await, Joined::Same(100));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_exchanged_for_one_slot_until_its_end() {
    on_both(async |line: TestLine| {
        line.crowd(2).await;
        assert_eq!(line.claim(0).await, Claimed::Refused(Standing::Waiting));
        assert_eq!(line.serving().await, 2);
        let until = TestLine::is_in(line.claim(0).await);
        assert_eq!(line.claim(0).await, Claimed::Admitted(until));
        assert_eq!(line.look(0).await, Standing::Admitted);
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.active, ticked.called, ticked.present, ticked.calls_made), (1, 1, 0, 2));
        line.advance(SESSION);
        assert_eq!(line.look(0).await, Standing::Finished);
        assert_eq!(line.claim(0).await, Claimed::Refused(Standing::Finished));
        assert_eq!(line.claim(1).await, Claimed::Refused(Standing::Lapsed));
        let ticked = line.tick().await;
        assert_eq!((ticked.snapshot.active, ticked.snapshot.called), (0, 0));
        assert_eq!(line.look(0).await, Standing::Finished);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_at_once_take_no_more_slots_than_there_are() {
    on_both(async |mut line: TestLine| {
        line.crowd(32).await;
        assert_eq!(line.serving().await, 32);
        line.rules.max_active = 5;
        let claimed = join_all((0..32).map(|rank| line.claim(rank))).await;
        let inside = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Admitted(_))).count();
        let full = claimed.iter().filter(|claimed| **claimed == Claimed::Full).count();
        assert!((1..=5).contains(&inside) && inside + full == 32, "{claimed:?}");
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.active, ticked.present), (inside as u64, full as u64));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_present_get_slots_in_order_and_do_not_lapse_while_they_ask() {
    on_both(async |mut line: TestLine| {
        line.crowd(4).await;
        assert_eq!(line.serving().await, 4);
        line.rules.max_active = 1;
        TestLine::is_in(line.claim(0).await);
        assert_eq!(line.claim(3).await, Claimed::Full);
        assert_eq!(line.claim(1).await, Claimed::Full);
        for _ in 0..4 {
            line.advance(Duration::from_secs(u64::from(CLAIM_SECS) / 2));
            assert_eq!(line.look(1).await, Standing::Called);
            assert_eq!(line.claim(3).await, Claimed::Full);
        }
        let ticked = line.tick().await;
        assert_eq!((ticked.lapsed, ticked.snapshot.present, ticked.snapshot.called), (1, 2, 2));
        assert_eq!(line.look(2).await, Standing::Lapsed);
        line.leave(0, End::Finished).await;
        assert_eq!(line.claim(3).await, Claimed::Full, "the lower one comes first");
        TestLine::is_in(line.claim(1).await);
        line.leave(1, End::Finished).await;
        TestLine::is_in(line.claim(3).await);
        assert_eq!(line.tick().await.snapshot.present, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_can_be_given_up_wherever_it_stands() {
    on_both(async |mut line: TestLine| {
        line.crowd(5).await;
        line.rules.max_active = 2;
        assert_eq!(line.serving().await, 2);
        TestLine::is_in(line.claim(0).await);
        assert_eq!(line.leave(0, End::Left).await, Standing::Admitted, "frees no slot");
        assert_eq!(line.leave(0, End::Finished).await, Standing::Admitted);
        assert_eq!(line.leave(0, End::Finished).await, Standing::Finished);
        assert_eq!(line.leave(1, End::Left).await, Standing::Called);
        assert_eq!(line.leave(1, End::Left).await, Standing::Left);
        assert_eq!(line.leave(3, End::Left).await, Standing::Waiting);
        assert_eq!(line.leave(3, End::Left).await, Standing::Left);
        let ticked = line.tick().await.snapshot;
        // The one given up is passed, and calls nobody.
        assert_eq!((ticked.serving, ticked.calls_made, ticked.called), (5, 4, 2));
        assert_eq!(line.look(3).await, Standing::Left);
        line.advance(WINDOW);
        assert_eq!(line.leave(2, End::Left).await, Standing::Lapsed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_tells_which_places_were_given_up() {
    on_both(async |mut line: TestLine| {
        line.rules.is_paused = true;
        line.crowd(4).await;
        line.leave(2, End::Left).await;
        let first = line.tick().await.snapshot;
        assert_eq!((sorted(first.gone), first.gone_seq), (vec![2], 1));
        line.leave(1, End::Left).await;
        let seen = |tick: &mut Tick| tick.gone_seq = 1;
        let second = line.tick_with(seen).await.snapshot;
        assert_eq!((sorted(second.gone), second.gone_seq), (vec![1], 2));
        assert_eq!(sorted(line.tick().await.snapshot.gone), [1, 2]);
        assert_eq!(line.tick_with(|tick| tick.gone_seq = 2).await.snapshot.gone_seq, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_follow_the_rate_and_a_clock_that_goes_back_gives_nothing() {
    on_both(async |mut line: TestLine| {
        line.rules.admit_per_second = 2;
        line.crowd(20).await;
        let first = line.tick().await.snapshot;
        assert_eq!((first.serving, first.bound), (2, Bound::Rate));
        line.advance(SECOND);
        let serving = line.serving().await;
        assert!((4..=5).contains(&serving), "{serving}");
        line.shelf.world.rewind(SECOND * 100);
        assert_eq!(line.serving().await, serving);
        // A place called before is called still.
        assert_eq!(line.look(0).await, Standing::Called);
        line.advance(SECOND * 99);
        assert_eq!(line.serving().await, serving, "those seconds gave their calls already");
        line.advance(SECOND * 30);
        assert_eq!(line.serving().await, serving + 2, "a second's worth is saved up, no more");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_called_where_nobody_can_be_served() {
    on_both(async |mut line: TestLine| {
        line.crowd(10).await;
        let paused = line.tick_with(|tick| tick.rules.is_paused = true).await.snapshot;
        assert_eq!((paused.serving, paused.bound), (0, Bound::Closed));
        let over = line.tick_with(|tick| tick.hours.booking_closes_at = tick.hours.booking_opens_at).await.snapshot;
        assert_eq!((over.serving, over.bound), (0, Bound::Closed));
        let early = line.tick_with(|tick| tick.hours.booking_opens_at = tick.hours.booking_closes_at).await.snapshot;
        assert_eq!((early.serving, early.bound), (0, Bound::Closed));
        let sold = line.tick_with(|tick| tick.seats_left = 0).await.snapshot;
        assert_eq!((sold.serving, sold.bound), (0, Bound::Seats));
        let few = line.tick_with(|tick| tick.calls_max = 3).await.snapshot;
        assert_eq!(few.serving, 3);
        line.seats_left = 5;
        let seats = line.tick().await.snapshot;
        assert_eq!((seats.serving, seats.called), (5, 5));
        line.rules.max_active = 6;
        line.seats_left = 100;
        let slots = line.tick().await.snapshot;
        assert_eq!((slots.serving, slots.bound), (6, Bound::Slots));
        line.rules.max_active = 100;
        assert_eq!(line.serving().await, 10);
        assert_eq!(line.tick().await.snapshot.bound, Bound::Nobody);
        let slowed = line.tick_with(|tick| tick.latency = Latency::Over).await.snapshot.pace;
        assert!((699.9..700.1).contains(&slowed), "{slowed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_slows_the_pace_and_time_gives_it_back() {
    on_both(async |mut line: TestLine| {
        line.rules.admit_per_second = 100;
        line.rules.max_active = 10_000;
        line.ceiling = 10_000;
        line.tick().await;
        let mut paces = Vec::new();
        for _ in 0..3 {
            line.advance(SECOND * 2);
            for _ in 0..2 {
                let ticked = line.tick_with(|tick| tick.latency = Latency::Over).await.snapshot;
                paces.push(ticked.pace.round());
            }
        }
        assert_eq!(paces, [70.0, 70.0, 49.0, 49.0, 34.0, 34.0]);
        line.crowd(1).await;
        let slowed = line.tick_with(|tick| (tick.rules.is_paused, tick.calls_max) = (false, 0)).await.snapshot;
        assert_eq!(slowed.bound, Bound::Latency);
        line.advance(SECOND * 15);
        let half = line.tick_with(|tick| tick.latency = Latency::Within).await.snapshot.pace;
        assert!((83.0..90.0).contains(&half), "{half}");
        line.advance(SECOND * 15);
        assert!(line.tick().await.snapshot.pace > 99.99);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_are_called_where_many_do_not_come_and_the_cap_holds() {
    on_both(async |mut line: TestLine| {
        line.crowd(200).await;
        line.rules.max_active = 10;
        assert_eq!(line.serving().await, 10);
        let mut claimed = 0;
        for round in 0..5 {
            let serving = line.serving().await;
            // Every fourth comes.
            for rank in (claimed..serving).filter(|rank| rank % 4 == 0) {
                match line.claim(rank).await {
                    Claimed::Admitted(_) => drop(line.leave(rank, End::Finished).await),
                    other => panic!("{other:?} in round {round}"),
                }
            }
            claimed = serving;
            line.advance(WINDOW);
        }
        let ticked = line.tick().await.snapshot;
        assert!((0.5..0.9).contains(&ticked.no_show), "{}", ticked.no_show);
        assert!(ticked.called > 15, "{} called for ten slots", ticked.called);
        let claimed = join_all((ticked.serving - ticked.called..ticked.serving).map(|rank| line.claim(rank))).await;
        let inside = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Admitted(_))).count();
        assert!(inside <= 10, "{inside} inside");
        assert!(claimed.iter().all(|claimed| matches!(claimed, Claimed::Admitted(_) | Claimed::Full)));
        assert_eq!(line.tick().await.snapshot.active, inside as u64);
    })
    .await;
}

/// Ranks that nobody is known to have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_are_passed_in_one_step_and_ghosts_outside_the_budget() {
    on_both(async |mut line: TestLine| {
        line.rules.max_active = 2;
        let gaps = "1-5,7-40,".to_owned();
        line.remade(Remembered { ceiling: 44, gaps, ghosts: vec![5, 41], ..line.remembered() }).await;
        let ticked = line.tick().await.snapshot;
        // 0, the gap, the ghost 5, 6, the gap: two calls.
        assert_eq!((ticked.serving, ticked.calls_made, ticked.called), (40, 2, 2));
        // Whoever is there after all may claim for a window.
        assert_eq!(line.look(3).await, Standing::Called);
        assert_eq!(line.look(5).await, Standing::Called);
        TestLine::is_in(line.claim(5).await);
        TestLine::is_in(line.claim(0).await);
        assert_eq!(line.claim(6).await, Claimed::Full);
        line.advance(WINDOW);
        assert_eq!(line.look(3).await, Standing::Lapsed);
        assert_eq!(line.look(5).await, Standing::Admitted);
        line.leave(0, End::Finished).await;
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.serving, ticked.calls_made), (41, 3));
        line.rules.max_active = 3;
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.serving, ticked.calls_made), (43, 4), "the ghost 41, and the call of 42");
        assert_eq!(line.look(41).await, Standing::Called);
        assert_eq!(line.leave(41, End::Left).await, Standing::Called);
        assert_eq!(line.look(41).await, Standing::Left);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_announced_are_not_taken_back() {
    on_both(async |mut line: TestLine| {
        line.remade(Remembered { ceiling: 50, serving: 5, ..line.remembered() }).await;
        line.rules.is_paused = true;
        assert_eq!(line.serving().await, 5);
        assert_eq!(line.tick_with(|tick| tick.announced = 20).await.snapshot.serving, 20);
        assert_eq!(line.serving().await, 20);
        assert_eq!(line.look(19).await, Standing::Called);
        assert_eq!(line.tick_with(|tick| tick.announced = 60).await.snapshot.serving, 50, "nobody has more");
        line.advance(WINDOW);
        assert_eq!(line.look(49).await, Standing::Lapsed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_lapses_before_everybody_has_heard() {
    on_both(async |line: TestLine| {
        line.crowd(1).await;
        let until = line.now().plus(WINDOW * 3);
        line.tick_with(|tick| tick.lapses_from = until).await;
        line.advance(WINDOW * 2);
        assert_eq!(line.look(0).await, Standing::Called);
        line.advance(WINDOW);
        assert_eq!(line.look(0).await, Standing::Lapsed);
    })
    .await;
}

mod anew;
mod lobby;
