//! The composition root: the only module that knows every other.
//!
//! [`state`] builds the services, [`router`] lists every route, [`schedule`] every job, [`serve`] runs an
//! instance, [`dev`] runs one with private servers and a demonstration, [`psp`] a card provider to try it with, [`letters`]
//! says what mails say, [`schema`] brings the tables up to date, [`cli`] is the command line.

pub mod audit;
pub mod cli;
pub mod config;
mod demonstration;
pub mod dev;
mod draw;
pub mod letters;
mod openapi;
pub mod operations;
mod payments;
pub mod psp;
pub mod router;
pub mod schedule;
pub mod schema;
pub mod seed;
pub mod serve;
pub mod state;
mod warm;
mod webhooks;
