//! Payments: what was paid, how, and for what.
//!
//! A payment by points is settled in the transaction of what it pays for. A payment by card is an attempt (`attempts.rs`): it is
//! committed before the provider is asked, and recovered (`recovery.rs`) where nobody heard the provider's answer. What a card
//! provider must be able to do is in [`gateway`]; [`stripe`] speaks to one, and [`sandbox`] is one to try things with.
//!
//! Invariants:
//! - At most one attempt for the same thing is undecided, and at most one of the same request; unique keys decide.
//! - Nothing is charged before the attempt and the provider's name for it are committed.
//! - A charge that has succeeded ends as what it was for, or as a refund: one of the two, and once.
//! - No outcome is guessed: an attempt is closed by what the provider says of it.
//!
//! Tables owned: `payments`, `provider_events`.

mod asking;
pub mod attempts;
mod by_hand;
pub mod domain;
pub mod gateway;
pub mod http;
mod limits;
mod metrics;
pub mod payable;
mod recovery;
pub mod sandbox;
mod settings;
pub mod signature;
pub mod store;
pub mod stripe;
pub mod webhooks;

pub use attempts::{Attempts, card_token, in_progress};
pub use by_hand::{ByHand, ClosedAs, OpenPayment};
pub use domain::{CODES, Method, Payment, PaymentId, PaymentStatus, Reason, Settled, Subject};
pub use limits::CardLimits;
pub use settings::Settings;
pub use store::attempts::find_last_of_subject;
pub use store::{
    INVARIANTS, ask_in_progress, count_owed, has_any_for_update, insert_settled, list, list_tried, mark_refunded,
    owe_refund,
};
pub use webhooks::Webhooks;

/// Where the provider sends its webhooks.
pub const WEBHOOK_PATH: &str = "/v1/payments/webhooks";
