//! What operators do: create venues and concerts, change concerts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::domain::{Concert, ConcertId, Grade, Performance, PerformanceId, Settings, Status, VenueId, VenueName};
use super::input::{ConcertChange, NewConcert, NewVenue};
use super::layout::Section;
use super::seat_map::SeatMap;
use super::service::{Catalog, Ports};
use super::views::{ConcertDetail, PerformanceView, VenueView};
use super::{kept, store};
use crate::accounts::UserId;
use crate::platform::clock::Clock;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, RequestKey};
use crate::platform::money::Money;

/// Stands in the row until the sale, which refers to it, has made its commitment in the same transaction.
const NO_COMMITMENT: &str = "";

struct VenueCreation {
    venue: NewVenue,
    seats_total: u32,
}

struct ConcertCreation {
    concert: NewConcert,
    settings: Arc<Settings>,
    clock: Clock,
    ports: Ports,
}

impl Catalog {
    /// Creates a venue: 201 with its id.
    ///
    /// # Errors
    /// 422 `invalid_body`, or what keys and the database refuse with.
    pub async fn create_venue(&self, user: UserId, key: RequestKey, venue: NewVenue) -> Result<Answer, Problem> {
        let seats_total = venue.check(&self.settings)?;
        let input = VenueCreation { venue, seats_total };
        self.idempotency
            .once("catalog.create_venue", user.0, key, input, |conn, input| Box::pin(create_venue(conn, input)))
            .await
    }

    /// Creates a concert with its performances, their seats and its line: 201 with the concert.
    ///
    /// # Errors
    /// 422 `invalid_body`, or what keys and the database refuse with.
    pub async fn create_concert(&self, user: UserId, key: RequestKey, concert: NewConcert) -> Result<Answer, Problem> {
        concert.check(&self.settings)?;
        let (settings, clock, ports) = (self.settings.clone(), self.clock.clone(), self.ports.clone());
        let limit = Duration::from_secs(settings.creation_timeout_secs);
        let input = ConcertCreation { concert, settings, clock, ports };
        self.idempotency
            .once_within(
                "catalog.create_concert",
                limit,
                user.0,
                key,
                (input, |conn, input| Box::pin(create_concert(conn, input))),
            )
            .await
    }

    /// Changes a concert. This instance shows the change at once, others with the next news.
    ///
    /// # Errors
    /// 404, 409 `sale_already_open` or `sale_already_closed`, 422 `invalid_body`, or what the database refuses with.
    /// 503 `unavailable` where the change took effect but nobody can tell the seats left.
    pub async fn change_concert(&self, id: ConcertId, change: ConcertChange) -> Result<ConcertDetail, Problem> {
        change.check()?;
        let changed = self
            .db
            .in_tx("catalog.change_concert", (id, change), |conn, (id, change)| Box::pin(apply(conn, *id, change)))
            .await?;
        self.show_changes().await;
        self.detail(&changed).await
    }
}

fn created<T: Serialize>(view: &T) -> Result<Answer, Problem> {
    let body = Bytes::from(serde_json::to_vec(view).map_err(Problem::internal)?);
    Ok(Answer { status: 201, body, replayed: false })
}

async fn create_venue(conn: &mut Conn, input: &VenueCreation) -> Result<Answer, Problem> {
    let VenueCreation { venue, seats_total } = input;
    let id = VenueId::new();
    store::insert_venue(conn, id, venue, *seats_total).await?;
    created(&VenueView { id, name: venue.name.clone(), city: venue.city.clone(), seats_total: *seats_total })
}

/// Parents before children: concert, sale, performances, seats.
async fn create_concert(conn: &mut Conn, input: &ConcertCreation) -> Result<Answer, Problem> {
    let venue = store::find_venue(conn, input.concert.venue_id).await?;
    let (venue, layout) = venue.ok_or_else(|| Problem::invalid_body("venue_id", "there is no such venue"))?;
    let (mut concert, map) = plan(&input.concert, venue, &layout, &input.settings)?;
    let id = concert.id;
    store::insert_concert(conn, &concert).await?;
    concert.draw_commitment = input.ports.sale.create(conn, id, &input.concert.queue).await?;
    store::set_commitment(conn, id, &concert.draw_commitment).await?;
    store::insert_performances(conn, &concert.performances).await?;
    for performance in &concert.performances {
        input.ports.seats.create(conn, performance.id, &map).await?;
    }
    kept::announce_new(conn).await?;
    let status = Status::at(input.clock.now(), &concert.hours());
    // Nobody else can see the concert before this transaction ends, so every seat is there.
    let views =
        concert.performances.iter().map(|performance| PerformanceView::of(performance, performance.seats_total));
    created(&ConcertDetail::of(&concert, status, views.collect()))
}

/// The concert as it will be, and the map that its performances share.
fn plan(
    new: &NewConcert,
    venue: VenueName,
    layout: &[Section],
    settings: &Settings,
) -> Result<(Concert, SeatMap), Problem> {
    let map = SeatMap::build(layout, &new.grades)?;
    let seats_total = map.seats_total();
    new.check_seats(seats_total, settings)?;
    let id = ConcertId::new();
    let mut starts: Vec<_> = new.performances.iter().map(|performance| performance.starts_at).collect();
    starts.sort_unstable();
    let first_performance_at = starts.first().copied().unwrap_or(new.booking_closes_at);
    let performances = starts
        .into_iter()
        .map(|starts_at| Arc::new(Performance { id: PerformanceId::new(), concert_id: id, starts_at, seats_total }));
    let concert = Concert {
        id,
        title: new.title.clone(),
        artist: new.artist.clone(),
        venue,
        lobby_opens_at: new.queue.lobby_opens_at,
        booking_opens_at: new.booking_opens_at,
        booking_closes_at: new.booking_closes_at,
        first_performance_at,
        price_from: cheapest(&new.grades),
        description: new.description.clone(),
        seat_limit_per_buyer: new.seat_limit_per_buyer,
        grades: new.grades.clone(),
        queue_order: new.queue.order,
        draw_commitment: NO_COMMITMENT.to_owned(),
        performances: performances.collect(),
    };
    Ok((concert, map))
}

fn cheapest(grades: &[Grade]) -> Money {
    grades.iter().map(|grade| grade.price).min().unwrap_or_default()
}

async fn apply(conn: &mut Conn, id: ConcertId, change: &ConcertChange) -> Result<Concert, Problem> {
    let concert = store::find_concert_for_update(conn, id).await?.ok_or_else(|| Problem::not_found("concert"))?;
    let changed = change.apply(&concert, db::now(conn).await?)?;
    store::update_concert(conn, &changed).await?;
    kept::announce(conn, id).await?;
    Ok(changed)
}
