//! The log of what operators did: who, what, to which concert, when, and how it was before and after.
//!
//! An entry is written by the transaction of what it tells of, so that neither is there without the other. Entries are
//! never changed or deleted, and say nothing about persons: an operator is an id, which erasing a user leaves.

use serde::Serialize;
use serde_json::Value;

use super::domain::{ActionId, UserId};
use super::service::Accounts;
use super::store;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::http::{Page, PageParams};

/// Longest text of an entry's details: what its column takes.
const DETAILS_CHARS_MAX: usize = 2000;

/// An entry of the log.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Action {
    /// The entry.
    pub id: ActionId,
    /// Who did it.
    pub operator_id: UserId,
    /// What was done, such as `queue.rules_changed`.
    #[schema(example = "queue.rules_changed")]
    pub action: String,
    /// To which concert, if to one.
    pub concert_id: Option<ConcertId>,
    /// How it was before and after.
    #[schema(value_type = Object)]
    pub details: Value,
    /// When.
    pub at: Timestamp,
}

/// Writes an entry in the transaction of what it tells of.
///
/// # Errors
/// Where the statement fails, or the details are longer than an entry may be.
pub async fn record(
    conn: &mut Conn,
    operator: UserId,
    action: &'static str,
    concert: Option<ConcertId>,
    details: &Value,
) -> Result<(), Problem> {
    let details = details.to_string();
    if details.chars().count() > DETAILS_CHARS_MAX {
        return Err(Problem::internal(anyhow::anyhow!("{action} has details of {} bytes", details.len())));
    }
    store::insert_action(conn, ActionId::new(), operator, action, concert, &details).await
}

impl Accounts {
    /// What operators did, the newest first: to one concert, or to all.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn list_actions(
        &self,
        concert: Option<ConcertId>,
        page: PageParams<ActionId>,
    ) -> Result<Page<Action>, Problem> {
        let before = page.after.unwrap_or(ActionId(uuid::Uuid::max()));
        let found = self
            .db
            .read("accounts.list_actions", (concert, before, page.fetch()), |conn, (concert, before, limit)| {
                Box::pin(store::list_actions(conn, *concert, *before, *limit))
            })
            .await?;
        Ok(Page::of(found, &page, |action| action.id))
    }
}
