//! frontrow: seats for concerts that everybody wants at the same moment.
//!
//! Reading order: a buyer joins the line ([`queue`]), holds seats and pays ([`booking`]) with points
//! ([`points`], [`payments`]) for what the [`catalog`] offers, as one of the [`accounts`]; [`notices`] tell others of
//! it; [`app`] puts it together over the [`platform`].

pub mod app;

pub mod booking;
pub mod queue;

pub mod accounts;
pub mod catalog;
pub mod notices;
pub mod payments;
pub mod points;

pub mod platform;
