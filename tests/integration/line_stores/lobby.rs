//! Lobbies and draws.

use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::queue::domain::{Bound, InCharge, Standing};
use frontrow::queue::line::{ASKED_MAX, Drawing, End, Join, Joined, Left, Ranking, Spot};

use super::{place, sorted};
use crate::support::lines::{Shelf, TestLine};

const TO_OPENING: Duration = Duration::from_secs(101);

async fn in_both_lobbies(case: impl AsyncFn(TestLine)) {
    let shelf = Shelf::new().await;
    for store in [InCharge::Usual, InCharge::Standby] {
        println!("in {store:?}");
        case(shelf.lobby(store).await).await;
    }
    Shelf::end(shelf).await;
}

const fn early(arrival: u64) -> Spot {
    Spot { arrival, rank: None }
}

/// Ranks of a lobby of `size` in which the last comes first.
fn turned(size: u64) -> impl Fn(u64) -> u64 {
    move |arrival| if arrival < size { size - 1 - arrival } else { arrival }
}

fn drawn(line: &mut TestLine, lobby_size: u64) {
    line.ranking = Ranking::Drawn { lobby_size, opens_at: line.hours.booking_opens_at };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lobby_closes_once_by_a_tick() {
    in_both_lobbies(async |line: TestLine| {
        line.crowd(3).await;
        let ticked = line.tick().await;
        assert_eq!((ticked.lobby_size, ticked.snapshot.bound), (None, Bound::Closed));
        line.advance(TO_OPENING);
        let ticked = line.tick().await;
        assert_eq!((ticked.lobby_size, ticked.is_drawn, ticked.snapshot.serving), (Some(3), false, 0));
        assert_eq!(line.join(UserId::new()).await, Joined::New(3));
        line.shelf.world.rewind(TO_OPENING);
        line.crowd(2).await;
        line.advance(TO_OPENING);
        assert_eq!(line.tick().await.lobby_size, Some(3));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lobby_closes_once_by_a_join() {
    in_both_lobbies(async |line: TestLine| {
        line.crowd(4).await;
        line.advance(TO_OPENING);
        assert_eq!(line.join(UserId::new()).await, Joined::New(4));
        assert_eq!(line.tick().await.lobby_size, Some(4), "whoever came after opening ranks behind");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_count_once_every_place_given_up_is_told() {
    in_both_lobbies(async |mut line: TestLine| {
        let users = line.crowd(5).await;
        assert_eq!(line.try_leave(early(1), End::Left).await, Left::From(Standing::Lobby));
        assert_eq!(line.try_leave(early(1), End::Left).await, Left::From(Standing::Lobby));
        let ticked = line.tick().await.snapshot;
        assert_eq!((sorted(ticked.gone_early), ticked.gone.len(), ticked.gone_seq), (vec![1], 0, 1));
        assert_eq!(line.join(users[1]).await, Joined::New(5));
        line.advance(TO_OPENING);
        assert_eq!(line.tick().await.lobby_size, Some(6));
        let rank = turned(6);
        let drawing = Drawing { lobby_size: 6, ..Drawing::default() };
        assert_eq!(line.draw(&drawing).await, [1]);
        assert_eq!(line.serving().await, 0, "not yet");
        let told = Drawing { left: vec![(1, rank(1))], ..drawing.clone() };
        assert!(line.draw(&told).await.is_empty());
        assert!(line.draw(&drawing).await.is_empty(), "again, and nothing happens");
        assert_eq!(line.try_leave(early(2), End::Left).await, Left::Drawn);
        assert_eq!(line.join(users[0]).await, Joined::Drawn);
        drawn(&mut line, 6);
        let ticked = line.tick().await;
        assert!(ticked.is_drawn);
        assert_eq!((ticked.snapshot.serving, ticked.snapshot.calls_made), (6, 5));
        assert_eq!(line.look(rank(1)).await, Standing::Left);
        assert_eq!(line.look(rank(5)).await, Standing::Called);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rank_of_a_users_place_is_asked_for() {
    in_both_lobbies(async |mut line: TestLine| {
        let users = line.crowd(3).await;
        line.advance(TO_OPENING);
        line.rules.is_paused = true;
        line.tick().await;
        assert!(line.draw(&Drawing { lobby_size: 3, ..Drawing::default() }).await.is_empty());
        drawn(&mut line, 3);
        let late = UserId::new();
        assert_eq!(line.join(late).await, Joined::New(3));
        assert_eq!(line.join(late).await, Joined::Same(3), "the rank behind the lobby is the arrival");
        assert_eq!(line.join(users[0]).await, Joined::NeedsRank(0));
        let told = |user, arrival, rank| Join { asked: Some(Spot { arrival, rank: Some(rank) }), ..line.asking(user) };
        assert_eq!(line.join_with(&told(users[0], 0, 2)).await, Joined::Same(0));
        assert_eq!(line.join_with(&told(users[1], 0, 2)).await, Joined::NeedsRank(1), "of another place");
        assert_eq!(line.leave(2, End::Left).await, Standing::Waiting);
        assert_eq!(line.join_with(&told(users[0], 0, 2)).await, Joined::New(4));
    })
    .await;
}

/// The caller knows the ranks, and the line does not yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_given_up_in_the_lobby_is_not_given_back_before_the_draw_is_done() {
    in_both_lobbies(async |mut line: TestLine| {
        let users = line.crowd(3).await;
        line.try_leave(early(0), End::Left).await;
        line.advance(TO_OPENING);
        assert_eq!(line.tick().await.lobby_size, Some(3));
        drawn(&mut line, 3);
        let again = Join { asked: Some(Spot { arrival: 0, rank: Some(2) }), ..line.asking(users[0]) };
        assert_eq!(line.join_with(&again).await, Joined::New(3));
        // Who leaves by rank in between is passed too.
        assert_eq!(line.leave(1, End::Left).await, Standing::Waiting);
        let drawing = Drawing { lobby_size: 3, left: vec![(0, 2)], ..Drawing::default() };
        assert!(line.draw(&drawing).await.is_empty());
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.serving, ticked.calls_made), (4, 2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_places_given_up_are_told_step_by_step() {
    in_both_lobbies(async |mut line: TestLine| {
        let size = ASKED_MAX as u64 + 20;
        line.ceiling = 2000;
        line.crowd(10).await;
        for arrival in 0..size {
            line.try_leave(early(arrival), End::Left).await;
        }
        line.advance(TO_OPENING);
        line.tick().await;
        let mut drawing = Drawing { lobby_size: size, gaps: "530-540,".into(), ..Drawing::default() };
        let mut asked = Vec::new();
        loop {
            let more = line.draw(&drawing).await;
            if more.is_empty() {
                break;
            }
            assert!(more.len() <= ASKED_MAX);
            asked.extend(&more);
            drawing.left = more.into_iter().map(|arrival| (arrival, turned(size)(arrival))).collect();
        }
        assert_eq!(sorted(asked), (0..size).collect::<Vec<_>>());
        let ticked = line.tick_with(|tick| tick.gone_seq = size).await.snapshot;
        assert_eq!((ticked.serving, ticked.called), (10, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ghosts_and_gaps_come_with_the_draw() {
    in_both_lobbies(async |mut line: TestLine| {
        line.rules.max_active = 1;
        line.crowd(3).await;
        line.advance(TO_OPENING);
        line.tick().await;
        line.crowd(3).await;
        let drawing = Drawing { lobby_size: 3, gaps: "3-5,".into(), ghosts: vec![0, 2], left: Vec::new() };
        assert!(line.draw(&drawing).await.is_empty());
        drawn(&mut line, 3);
        let ticked = line.tick().await.snapshot;
        // The ghost 0, then 1: the slot is spoken for, so nobody goes on.
        assert_eq!((ticked.serving, ticked.calls_made), (2, 1));
        assert_eq!(line.leave(1, End::Left).await, Standing::Called);
        let ticked = line.tick().await.snapshot;
        // The ghost 2, the gap, and 5.
        assert_eq!((ticked.serving, ticked.calls_made), (6, 2));
        for rank in [0, 2, 3, 4, 5] {
            assert_eq!(line.look(rank).await, Standing::Called, "{rank}");
        }
        assert_eq!(place(3).rank, Some(3));
    })
    .await;
}
