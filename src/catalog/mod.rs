//! What is sold: venues, concerts, performances, seat maps.
//!
//! Invariants: a venue's layout, a concert's grades, its performances but for their dates, and so its seat map never change
//! once created; seat `i` of the map is row `i` of the booking feature's seats; a concert, its performances, its
//! seats and its sale come to be in one transaction, or none of them does.
//!
//! Whatever changes a concert or a performance announces it as the last statement of its transaction ([`kept`]), so that every instance
//! shows it within a second.
//!
//! Tables owned: `venues`, `concerts`, `performances`. What a concert needs from higher features (its sale, its
//! seats, how many are left) is declared in [`ports`] and wired by the composition root.
//!
//! Reading order: [`layout`] and [`seat_map`] (pure), [`domain`], [`input`] (what operators send), [`reader`] (what
//! other features ask), [`service`] (what visitors see), [`operator`] (what operators do), [`changes`] (what the features above
//! change), [`warming`] (what is in memory before a crowd comes).

pub mod admin;
mod cache;
pub mod changes;
pub mod demo;
pub mod domain;
pub mod http;
pub mod input;
mod kept;
pub mod layout;
mod left;
mod listing;
pub mod operator;
pub mod ports;
pub mod reader;
pub mod seat_map;
pub mod service;
mod store;
pub mod views;
pub mod warming;
mod warmth;

pub use domain::{
    CODES, Concert, ConcertId, LiveSale, Order, Performance, PerformanceId, QueueSettings, Settings, Status, VenueId,
    WarmerSettings,
};
pub use ports::{ActionLog, Availability, SaleSetup, SeatSetup, SeatsLeft};
pub use reader::Reader;
pub use seat_map::{Seat, SeatMap};
pub use service::{Catalog, Parts, Ports};
pub use warming::Warmer;
