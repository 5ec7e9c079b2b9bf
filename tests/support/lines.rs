//! Lines by themselves, in Redis and in MySQL: what both must do alike is asked of both.

use std::sync::Arc;
use std::time::Duration;

use frontrow::accounts::UserId;
use frontrow::app::state::State;
use frontrow::catalog::ConcertId;
use frontrow::catalog::domain::Hours;
use frontrow::platform::clock::Timestamp;
use frontrow::queue::domain::{InCharge, Rules, Standing};
use frontrow::queue::line::{
    At, Claimed, Drawing, End, Join, Joined, Latency, Left, Line, Ranking, Remembered, Spot, Tick, Ticked, Warm,
};

use super::World;

/// A world in which any number of lines is made.
pub struct Shelf {
    pub world: World,
    pub state: State,
}

/// One line in one store, and what its callers know.
pub struct TestLine {
    pub shelf: Arc<Shelf>,
    pub store: InCharge,
    pub concert: ConcertId,
    pub epoch: u32,
    pub rules: Rules,
    pub hours: Hours,
    pub ranking: Ranking,
    pub ceiling: u64,
    pub seats_left: u64,
}

pub const CLAIM_SECS: u32 = 60;
pub const SESSION_SECS: u32 = 600;
/// Longer than a claim window, and shorter than a stay.
pub const WINDOW: Duration = Duration::from_secs(61);
/// Longer than a stay.
pub const SESSION: Duration = Duration::from_secs(601);

/// What a warm store answered.
#[track_caller]
pub fn warm<T>(answer: Warm<T>) -> T {
    match answer {
        Warm::Answer(answer) => answer,
        Warm::Cold => panic!("the line is cold"),
    }
}

/// Runs a case on a line of each store.
pub async fn on_both(case: impl AsyncFn(TestLine)) {
    let shelf = Shelf::new().await;
    for store in [InCharge::Usual, InCharge::Standby] {
        println!("in {store:?}");
        case(shelf.line(store).await).await;
    }
    Shelf::end(shelf).await;
}

impl Shelf {
    pub async fn new() -> Arc<Self> {
        let world = World::new().await;
        let state = world.services(&[]).await;
        Arc::new(Self { world, state })
    }

    pub async fn end(shelf: Arc<Self>) {
        let shelf = Arc::into_inner(shelf).expect("no line is in use");
        shelf.state.redis.close().await;
        shelf.state.db.close().await;
        shelf.world.end(Vec::new()).await;
    }

    /// A line of a sale that has been open for ten seconds.
    pub async fn line(self: &Arc<Self>, store: InCharge) -> TestLine {
        self.made(store, Made { is_draw: false, opens_in_secs: -10, ..Made::default() }).await
    }

    /// A line of a draw whose lobby is open for another hundred seconds.
    pub async fn lobby(self: &Arc<Self>, store: InCharge) -> TestLine {
        self.made(store, Made { is_draw: true, opens_in_secs: 100, ..Made::default() }).await
    }

    /// A line as described.
    pub async fn made(self: &Arc<Self>, store: InCharge, made: Made) -> TestLine {
        let now = self.state.clock.now();
        let by = Duration::from_secs(made.opens_in_secs.unsigned_abs());
        let opens_at = if made.opens_in_secs < 0 { now.minus(by) } else { now.plus(by) };
        let rules = Rules {
            admit_per_second: 1000,
            max_active: 1000,
            claim_secs: made.claim_secs,
            session_secs: made.session_secs,
            is_paused: false,
            joins_closed: false,
            is_stopped: false,
        };
        let hours = Hours {
            lobby_opens_at: made.is_draw.then_some(now),
            booking_opens_at: opens_at,
            booking_closes_at: now.plus(Duration::from_hours(1000)),
        };
        let line = TestLine {
            shelf: self.clone(),
            store,
            concert: ConcertId::new(),
            epoch: 1,
            rules,
            hours,
            ranking: if made.is_draw { Ranking::Undrawn { opens_at } } else { Ranking::Fifo },
            ceiling: 1000,
            seats_left: 10_000,
        };
        line.keep_rows().await;
        line.store().rebuild(line.at(), &line.remembered()).await.expect("the line is made");
        line
    }
}

/// What a line is to be like.
pub struct Made {
    pub is_draw: bool,
    pub opens_in_secs: i64,
    pub claim_secs: u32,
    pub session_secs: u32,
}

impl Default for Made {
    fn default() -> Self {
        Self { is_draw: false, opens_in_secs: 0, claim_secs: CLAIM_SECS, session_secs: SESSION_SECS }
    }
}

impl TestLine {
    /// The rows that a sale needs.
    async fn keep_rows(&self) {
        let mut sql = self.shelf.world.sql().await;
        let venue = "INSERT INTO venues (id, name, city, layout, seats_total, created_at) \
             VALUES (?, 'Hall', 'Busan', '[]', 100, UTC_TIMESTAMP(6))";
        sqlx::query(venue).bind(self.concert).execute(&mut sql).await.expect("a venue");
        let concert = "INSERT INTO concerts (id, venue_id, title, artist, description, booking_opens_at, \
             booking_closes_at, seat_limit_per_buyer, grades, first_performance_at, price_from, queue_order, \
             draw_commitment, created_at) \
             VALUES (?, ?, 'Night', 'Band', '', ?, ?, 4, '[]', ?, 1, ?, '', UTC_TIMESTAMP(6))";
        let (opens, closes) = (self.hours.booking_opens_at, self.hours.booking_closes_at);
        let is_draw = self.ranking != Ranking::Fifo;
        let query = sqlx::query(concert).bind(self.concert).bind(self.concert).bind(opens).bind(closes);
        query.bind(closes).bind(u8::from(is_draw)).execute(&mut sql).await.expect("a concert");
        let sale = "INSERT INTO queue_sales (concert_id, admit_per_second, max_active, claim_secs, session_secs, \
             seed_sealed, in_charge) VALUES (?, 1, 1, 60, 600, '', ?)";
        let in_charge = u8::from(self.store == InCharge::Standby);
        sqlx::query(sale).bind(self.concert).bind(in_charge).execute(&mut sql).await.expect("a sale");
    }

    /// What MySQL would remember of a line to which nothing has happened.
    pub fn remembered(&self) -> Remembered {
        Remembered {
            ceiling: 0,
            serving: 0,
            gaps: String::new(),
            ghosts: Vec::new(),
            lobby_size: None,
            claim_secs: self.rules.claim_secs,
            closes_at: self.hours.booking_closes_at,
            slots: Vec::new(),
        }
    }

    /// Makes the line anew at the next epoch.
    pub async fn remade(&mut self, line: Remembered) {
        self.raise_epoch().await;
        self.store().rebuild(self.at(), &line).await.expect("the line is made anew");
    }

    /// What another instance does first when it makes the line anew.
    pub async fn raise_epoch(&mut self) {
        let raise = "UPDATE queue_sales SET epoch = epoch + 1 WHERE concert_id = ?";
        sqlx::query(raise).bind(self.concert).execute(&mut self.shelf.world.sql().await).await.expect("a sale");
        self.epoch += 1;
    }

    /// Takes away what the store has of the line, but not what MySQL knows of the sale.
    pub async fn wipe(&self) {
        match self.store {
            InCharge::Usual => self.shelf.world.wipe_redis().await,
            InCharge::Standby => {
                let mut sql = self.shelf.world.sql().await;
                for wipe in
                    ["DELETE FROM queue_ranks WHERE concert_id = ?", "DELETE FROM queue_lines WHERE concert_id = ?"]
                {
                    sqlx::query(wipe).bind(self.concert).execute(&mut sql).await.expect("a wipe");
                }
            }
        }
    }

    pub fn store(&self) -> &dyn Line {
        self.shelf.state.queue.store(self.store)
    }

    pub fn at(&self) -> At {
        At { concert: self.concert, epoch: self.epoch }
    }

    pub fn now(&self) -> Timestamp {
        self.shelf.state.clock.now()
    }

    pub fn advance(&self, by: Duration) {
        self.shelf.world.advance(by);
    }

    /// A join as the service asks for it.
    pub fn asking(&self, user: UserId) -> Join {
        Join {
            user,
            ceiling: self.ceiling,
            presented: None,
            has_looked: false,
            over: None,
            is_refused: false,
            ranking: self.ranking,
            asked: None,
        }
    }

    pub async fn join(&self, user: UserId) -> Joined {
        self.join_with(&self.asking(user)).await
    }

    pub async fn join_with(&self, join: &Join) -> Joined {
        warm(self.store().join(self.at(), join).await.expect("an answer"))
    }

    /// So many users with a place each, in order.
    pub async fn crowd(&self, count: u64) -> Vec<UserId> {
        let mut users = Vec::new();
        for _ in 0..count {
            let user = UserId::new();
            assert!(matches!(self.join(user).await, Joined::New(_)));
            users.push(user);
        }
        users
    }

    pub fn asked_tick(&self) -> Tick {
        Tick {
            rules: self.rules,
            hours: self.hours,
            ranking: self.ranking,
            seats_left: self.seats_left,
            calls_max: 500,
            gone_seq: 0,
            announced: 0,
            latency: Latency::Unknown,
            lapses_from: self.hours.booking_opens_at,
        }
    }

    pub async fn tick(&self) -> Ticked {
        self.tick_with(|_| {}).await
    }

    pub async fn tick_with(&self, change: impl FnOnce(&mut Tick)) -> Ticked {
        let mut tick = self.asked_tick();
        change(&mut tick);
        warm(self.store().tick(self.at(), &tick).await.expect("an answer"))
    }

    /// Ranks called after a tick.
    pub async fn serving(&self) -> u64 {
        self.tick().await.snapshot.serving
    }

    pub async fn look(&self, rank: u64) -> Standing {
        warm(self.store().look(self.at(), rank, &self.rules).await.expect("an answer")).0
    }

    pub async fn claim(&self, rank: u64) -> Claimed {
        warm(self.store().claim(self.at(), rank, &self.rules).await.expect("an answer"))
    }

    #[track_caller]
    pub fn is_in(claimed: Claimed) -> Timestamp {
        match claimed {
            Claimed::Admitted(until) => until,
            other => panic!("not admitted but {other:?}"),
        }
    }

    /// Where a rank of a line without a draw, or of one that was drawn, is a place.
    pub async fn leave(&self, rank: u64, end: End) -> Standing {
        match self.try_leave(Spot { arrival: rank, rank: Some(rank) }, end).await {
            Left::From(standing) => standing,
            Left::Drawn => panic!("the rank was told"),
        }
    }

    pub async fn try_leave(&self, spot: Spot, end: End) -> Left {
        warm(self.store().leave(self.at(), spot, end).await.expect("an answer"))
    }

    pub async fn draw(&self, draw: &Drawing) -> Vec<u64> {
        warm(self.store().draw(self.at(), draw).await.expect("an answer"))
    }
}
