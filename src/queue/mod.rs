//! The waiting line: join, wait, be called, claim a pass.
//!
//! A deli counter, not a list. Redis holds counters per sale (`issued`, `serving`) and small sets of
//! those who are called or inside; a buyer's place is arithmetic on a fixed rank: the arrival, or what the draw of a lobby
//! makes of it. The ticket that the buyer holds is sealed, so polling while waiting needs neither Redis nor MySQL: each
//! instance keeps what its own last tick returned. While Redis is away for everyone, MySQL keeps the line.
//!
//! Invariants: no index is issued twice (never past `issued_ceiling`, which MySQL raises first); ranks are
//! called in order; `serving` never goes back; at most `max_active` slots live at once; one live pass
//! per sale and user.
//!
//! Tables owned: `queue_sales`, `queue_passes`, `queue_places`, `queue_lines`, `queue_ranks`. Redis keys owned, each `<prefix>:{sale:<concert id>}:…`: `head`,
//! `users`, `calls`, `slots`, `present`, `ends`, `gone`, `ghosts` (see `lua/line.lua`).

pub mod admin;
mod admission;
pub mod board;
pub mod channel;
mod charge;
mod claims;
pub mod domain;
pub mod draw;
mod eta;
mod gaps;
pub mod http;
pub mod jobs;
mod joins;
pub mod limits;
pub mod line;
pub mod listeners;
mod metrics;
pub mod operators;
pub mod pace;
pub mod pass;
mod places;
mod redis;
pub mod sale;
pub mod service;
pub mod setup;
mod skipped;
mod standby;
mod standby_step;
mod standby_tick;
pub mod store;
mod upkeep;

pub use domain::{CODES, SeatSupply, Settings, Supply};
pub use limits::JoinLimits;
pub use listeners::Listeners;
pub use operators::RulesChange;
pub use pass::Passes;
pub use service::{Parts, Queue};
pub use setup::NewSales;
pub use store::INVARIANTS;
