//! What operators do to a running sale: change its rules, stop it and let it go on, end everybody's stay.
//!
//! Whatever they do is written into the log of actions by the transaction that does it, with how it was before and after. The
//! instance that was asked obeys at once, every other one with its next [`Queue::refresh`]. What must not wait for that, a
//! stop, is asked of MySQL by whoever holds, pays or claims ([`super::pass::refuse_if_stopped`]).

use std::sync::Arc;

use serde_json::json;

use super::domain::{CONCERT_CANCELLED, Rules};
use super::pass;
use super::service::Queue;
use super::store::{self, SaleRow};
use crate::accounts::{UserId, actions};
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{self, Conn};
use crate::platform::error::Problem;

/// Stays ended by one transaction: few enough that those whose rows it locks hardly wait.
const STAYS_PER_UNIT: u32 = 500;

/// What an operator changes; what is left out stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of Rules")]
pub struct RulesChange {
    pub is_paused: Option<bool>,
    pub admit_per_second: Option<u32>,
    pub max_active: Option<u32>,
    pub claim_secs: Option<u32>,
    pub session_secs: Option<u32>,
    pub joins_closed: Option<bool>,
    pub is_stopped: Option<bool>,
}

impl RulesChange {
    fn applied_to(&self, rules: Rules) -> Rules {
        Rules {
            admit_per_second: self.admit_per_second.unwrap_or(rules.admit_per_second),
            max_active: self.max_active.unwrap_or(rules.max_active),
            claim_secs: self.claim_secs.unwrap_or(rules.claim_secs),
            session_secs: self.session_secs.unwrap_or(rules.session_secs),
            is_paused: self.is_paused.unwrap_or(rules.is_paused),
            joins_closed: self.joins_closed.unwrap_or(rules.joins_closed),
            is_stopped: self.is_stopped.unwrap_or(rules.is_stopped),
        }
    }
}

/// A change with who makes it and what the log calls it.
#[derive(Clone, Copy)]
struct Changing {
    operator: UserId,
    action: &'static str,
    concert: ConcertId,
    change: RulesChange,
}

impl Queue {
    /// Changes the rules of a sale. Every instance follows within a second or so.
    ///
    /// # Errors
    /// 404 where there is no such concert.
    pub async fn change_rules(
        &self,
        operator: UserId,
        concert: ConcertId,
        change: RulesChange,
    ) -> Result<Rules, Problem> {
        self.change(Changing { operator, action: "queue.rules_changed", concert, change }).await
    }

    /// Stops the sale: nobody is called or let in, nothing is held or paid, from the answer on and on every instance. Joining,
    /// polling and releasing go on. Stopping a stopped one changes nothing.
    ///
    /// # Errors
    /// 404 where there is no such concert.
    pub async fn stop(&self, operator: UserId, concert: ConcertId) -> Result<Rules, Problem> {
        let change = RulesChange { is_stopped: Some(true), ..RulesChange::default() };
        self.change(Changing { operator, action: "sale.stopped", concert, change }).await
    }

    /// Lets a stopped sale go on, paused or not as it was.
    ///
    /// # Errors
    /// 404 where there is no such concert, `concert_cancelled`.
    pub async fn resume(&self, operator: UserId, concert: ConcertId) -> Result<Rules, Problem> {
        let change = RulesChange { is_stopped: Some(false), ..RulesChange::default() };
        self.change(Changing { operator, action: "sale.resumed", concert, change }).await
    }

    async fn change(&self, changing: Changing) -> Result<Rules, Problem> {
        let row =
            self.parts.db.in_tx("queue.change_rules", changing, |conn, changing| Box::pin(changing.run(conn))).await?;
        if let Some(sale) = self.sales.get(&changing.concert).await {
            self.adopt(&sale, &row)?;
        }
        Ok(row.rules)
    }

    /// Ends every stay that is live now, and frees its slot. Gives how many. Holds are left to their own end, and may be paid.
    /// Once begun it goes on to its end, whether or not the operator waits for it.
    ///
    /// # Errors
    /// 404 where there is no such concert. Where MySQL does not answer, some may have been ended: again ends the rest.
    pub async fn end_stays(self: &Arc<Self>, operator: UserId, concert: ConcertId) -> Result<u64, Problem> {
        let queue = self.clone();
        let ending = async move {
            let begin = (operator, concert);
            let db = &queue.parts.db;
            let began =
                db.in_tx("queue.begin_ending", begin, |conn, begin| Box::pin(begin_ending(conn, *begin))).await?;
            let mut ending = Ending { operator, concert, began, ended: 0 };
            loop {
                let ended = db.in_tx("queue.end_stays", ending, |conn, ending| Box::pin(ending.run(conn))).await?;
                queue.parts.wake.now();
                ending.ended += ended;
                if ended < u64::from(STAYS_PER_UNIT) {
                    return Ok(ending.ended);
                }
            }
        };
        tokio::spawn(ending).await.map_err(Problem::internal)?
    }
}

impl Changing {
    async fn run(&self, conn: &mut Conn) -> Result<SaleRow, Problem> {
        let row = store::find_sale_for_update(conn, self.concert).await?;
        let mut row = row.ok_or_else(|| Problem::not_found("concert"))?;
        if self.change.is_stopped == Some(false) && store::find_halt(conn, self.concert).await?.is_cancelled {
            return Err(Problem::new(&CONCERT_CANCELLED));
        }
        let before = row.rules;
        // Nothing was ordered: nobody is told, and the log keeps nothing of it.
        if self.change == RulesChange::default() {
            return Ok(row);
        }
        row.rules = self.change.applied_to(before);
        store::update_rules(conn, self.concert, &row.rules).await?;
        row.rules_version += 1;
        let details = json!({"before": before, "after": row.rules});
        actions::record(conn, self.operator, self.action, Some(self.concert), &details).await?;
        Ok(row)
    }
}

/// Notes that all stays are about to be ended, and tells since when none of them is new: claims hold the sale's row, so every
/// earlier one is committed now and every later one is made after this instant.
async fn begin_ending(conn: &mut Conn, (operator, concert): (UserId, ConcertId)) -> Result<Timestamp, Problem> {
    let row = store::find_sale_for_update(conn, concert).await?;
    row.ok_or_else(|| Problem::not_found("concert"))?;
    let now = db::now(conn).await?;
    let details = json!({"before": {"live": store::count_live(conn, concert).await?}});
    actions::record(conn, operator, "queue.stays_ending", Some(concert), &details).await?;
    Ok(now)
}

/// Where the ending of all stays has got to.
#[derive(Clone, Copy)]
struct Ending {
    operator: UserId,
    concert: ConcertId,
    began: Timestamp,
    ended: u64,
}

impl Ending {
    /// Ends a share of them; the last one tells the log how many there were.
    async fn run(&self, conn: &mut Conn) -> Result<u64, Problem> {
        let live = store::list_live_for_update(conn, self.concert, self.began, STAYS_PER_UNIT).await?;
        pass::end_all(conn, self.concert, &live).await?;
        let ended = live.len() as u64;
        if ended < u64::from(STAYS_PER_UNIT) {
            let details = json!({"after": {"ended": self.ended + ended}});
            actions::record(conn, self.operator, "queue.stays_ended", Some(self.concert), &details).await?;
        }
        Ok(ended)
    }
}
