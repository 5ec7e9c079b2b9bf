//! Tickets: what opens a gate, once.
//!
//! Invariants: a ticket's code cannot be guessed or made up, and a gate that has the public keys can tell without asking; a
//! ticket opens a gate once for each date of its performance, however many gates it is shown to at once; one whose reservation
//! was given back opens none.
//!
//! The rows belong to [`crate::booking::reservations`]. Reading order: [`keys`] (pure), `gate.rs`, `qr.rs`.

pub mod admin;
mod gate;
pub mod http;
pub mod keys;
mod qr;

pub use gate::{CheckedIn, Gate};
pub use keys::TicketKeys;

crate::problem_codes! {
    ALREADY_CHECKED_IN = 409 "already_checked_in" "Already checked in" "This ticket has opened a gate before, at checked_in_at, for the same date.";
    TICKET_VOID = 409 "ticket_void" "Ticket void" "The reservation of this ticket was given back: it opens no gate.";
    OTHER_PERFORMANCE = 409 "other_performance" "Another performance's ticket" "This ticket is good, but for the performance that performance_id names. It was not used up.";
    TICKET_GONE = 410 "ticket_gone" "Ticket gone" "The reservation was given back, and its tickets with it.";
}
