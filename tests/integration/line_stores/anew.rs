//! Lines that are lost and made anew.

use frontrow::accounts::UserId;
use frontrow::queue::domain::{InCharge, Standing};
use frontrow::queue::line::{At, Claimed, End, Joined, Remembered, Spot, Warm};

use super::{place, sorted};
use crate::support::lines::{TestLine, WINDOW, on_both, warm};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_cold_to_every_other_epoch_and_changes_nothing() {
    on_both(async |mut line: TestLine| {
        line.crowd(3).await;
        line.remade(Remembered { ceiling: 10, ..line.remembered() }).await;
        for epoch in [1, 3] {
            let at = At { concert: line.concert, epoch };
            let store = line.store();
            assert_eq!(store.join(at, &line.asking(UserId::new())).await.expect("an answer"), Warm::Cold);
            assert_eq!(store.look(at, 0, &line.rules).await.expect("an answer"), Warm::Cold);
            assert_eq!(store.claim(at, 0, &line.rules).await.expect("an answer"), Warm::Cold);
            assert_eq!(store.leave(at, place(0), End::Left).await.expect("an answer"), Warm::Cold);
            assert!(matches!(store.tick(at, &line.asked_tick()).await.expect("an answer"), Warm::Cold));
            assert_eq!(
                store.draw(at, &frontrow::queue::line::Drawing::default()).await.expect("an answer"),
                Warm::Cold
            );
            assert_eq!(store.restore(at, &[place(0)]).await.expect("an answer"), Warm::Cold);
        }
        line.rules.is_paused = true;
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.issued, ticked.serving, ticked.gone.len()), (10, 0, 0));
        line.wipe().await;
        let lost = line.store().join(line.at(), &line.asking(UserId::new())).await.expect("an answer");
        assert_eq!(lost, Warm::Cold);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_a_line_anew_twice_or_late_changes_nothing() {
    on_both(async |mut line: TestLine| {
        line.rules.is_paused = true;
        line.remade(Remembered { ceiling: 10, serving: 4, ..line.remembered() }).await;
        assert_eq!(
            line.join(UserId::new()).await,
            if line.store == InCharge::Usual { Joined::Unknown } else { Joined::New(10) }
        );
        let issued = line.tick().await.snapshot.issued;
        for epoch in [1, 2] {
            let at = At { concert: line.concert, epoch };
            let late = Remembered { ceiling: 500, serving: 400, ..line.remembered() };
            line.store().rebuild(at, &late).await.expect("an answer");
        }
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.issued, ticked.serving), (issued, 4));
        // Calls are not taken back by whoever knows of fewer.
        line.remade(Remembered { ceiling: 20, serving: 2, ..line.remembered() }).await;
        assert_eq!(line.serving().await, 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_lapses_by_a_loss_and_slots_are_those_of_live_passes() {
    on_both(async |mut line: TestLine| {
        line.crowd(6).await;
        line.rules.max_active = 4;
        assert_eq!(line.serving().await, 4);
        let until = TestLine::is_in(line.claim(1).await);
        line.wipe().await;
        let slots = vec![(1, until)];
        line.remade(Remembered { ceiling: 6, serving: 4, slots, ..line.remembered() }).await;
        assert_eq!(line.look(0).await, Standing::Called);
        assert_eq!(line.claim(1).await, Claimed::Admitted(until));
        assert_eq!(line.look(4).await, Standing::Waiting);
        line.rules.max_active = 2;
        TestLine::is_in(line.claim(3).await);
        assert_eq!(line.claim(2).await, Claimed::Full);
        line.advance(WINDOW);
        assert_eq!(line.look(0).await, Standing::Lapsed);
        assert_eq!(line.tick().await.snapshot.active, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_given_up_are_told_again() {
    on_both(async |mut line: TestLine| {
        line.crowd(10).await;
        line.wipe().await;
        line.remade(Remembered { ceiling: 10, serving: 4, ..line.remembered() }).await;
        line.rules.is_paused = true;
        let left = [place(2), place(5), place(7)];
        for _ in 0..2 {
            assert!(warm(line.store().restore(line.at(), &left).await.expect("an answer")));
        }
        assert_eq!(line.look(2).await, Standing::Left);
        assert_eq!(line.look(5).await, Standing::Left);
        let ticked = line.tick().await.snapshot;
        assert_eq!((sorted(ticked.gone), ticked.gone_seq), (vec![5, 7], 2));
        line.rules.is_paused = false;
        let ticked = line.tick().await.snapshot;
        assert_eq!((ticked.serving, ticked.calls_made), (10, 4));
        assert_eq!(line.look(7).await, Standing::Left);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_that_are_known_by_now_are_asked_for() {
    on_both(async |mut line: TestLine| {
        let unknown = [Spot { arrival: 1, rank: None }];
        line.remade(Remembered { ceiling: 10, ..line.remembered() }).await;
        assert!(warm(line.store().restore(line.at(), &unknown).await.expect("an answer")));
        line.remade(Remembered { ceiling: 10, lobby_size: Some(5), ..line.remembered() }).await;
        assert!(!warm(line.store().restore(line.at(), &unknown).await.expect("an answer")));
        assert!(line.tick().await.is_drawn);
    })
    .await;
}

/// What no store knows any more is deleted, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_of_earlier_lines_are_deleted() {
    on_both(async |mut line: TestLine| {
        if line.store == InCharge::Usual {
            return;
        }
        line.crowd(7).await;
        assert_eq!(line.serving().await, 7);
        line.remade(Remembered { ceiling: 10, serving: 7, ..line.remembered() }).await;
        line.leave(8, End::Left).await;
        let queue = &line.shelf.state.queue;
        assert_eq!(queue.tidy_ranks(4).await.expect("deleted"), 4);
        assert_eq!(queue.tidy_ranks(4).await.expect("deleted"), 3);
        assert_eq!(queue.tidy_ranks(4).await.expect("deleted"), 0);
        assert_eq!(line.look(8).await, Standing::Left);
    })
    .await;
}

/// Redis comes back with what it had before MySQL kept the line for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_remembers_of_before_holds_nobody_up() {
    on_both(async |mut line: TestLine| {
        line.crowd(4).await;
        assert_eq!(line.serving().await, 4);
        line.rules.max_active = 1;
        let until = TestLine::is_in(line.claim(0).await);
        assert_eq!(line.claim(1).await, Claimed::Full);
        // Elsewhere the first has finished and the second got in, and left.
        let slots = vec![(1, until)];
        line.remade(Remembered { ceiling: 4, serving: 4, slots, ..line.remembered() }).await;
        assert_eq!(line.claim(1).await, Claimed::Admitted(until));
        assert_eq!(line.tick().await.snapshot.present, 0);
        assert_eq!(line.leave(1, End::Finished).await, Standing::Admitted);
        TestLine::is_in(line.claim(2).await);
    })
    .await;
}

/// Calls that another instance has announced pass places that were given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_given_up_stays_given_up_however_it_is_passed() {
    on_both(async |mut line: TestLine| {
        line.remade(Remembered { ceiling: 20, gaps: "4-8,".into(), ..line.remembered() }).await;
        line.leave(5, End::Left).await;
        line.leave(9, End::Left).await;
        line.tick_with(|tick| (tick.rules.max_active, tick.announced) = (1, 3)).await;
        line.tick_with(|tick| (tick.rules.is_paused, tick.announced) = (true, 12)).await;
        for rank in [5, 9] {
            assert_eq!(line.look(rank).await, Standing::Left, "{rank}");
        }
        assert_eq!(line.look(6).await, Standing::Called);
    })
    .await;
}
