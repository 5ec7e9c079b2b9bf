//! The pass: what lets a buyer book. Sealed, so that it is verified without Redis; its row says whether
//! it is still live. This is all of the line that booking may know.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

pub use super::domain::PassId;
pub use super::domain::{BOOKING_CLOSED, CONCERT_CANCELLED, Halt, PASS_EXPIRED};
use super::domain::{INVALID_PASS, PASS_REQUIRED, SALE_STOPPED};
use super::store;
use crate::accounts::UserId;
use crate::catalog::ConcertId;
use crate::platform::clock::Timestamp;
use crate::platform::db::{Conn, Outcomes, Script, Slot};
use crate::platform::error::{Fault, Problem};
use crate::platform::outbox;
use crate::platform::token::{KeyRing, Reader, Sealer};

/// The event that a stay inside has ended: its slot is to be freed.
pub const PASS_ENDED: &str = "queue.pass_ended";

/// When to try again while a sale is stopped: sooner than any window in which a called rank must claim.
const STOPPED_RETRY_SECS: u32 = 3;

/// What a pass says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Its row.
    pub id: PassId,
    /// The sale.
    pub concert: ConcertId,
    /// Who may use it.
    pub user: UserId,
    /// The place that was exchanged for it.
    pub arrival: u64,
    /// When it ends, at the latest.
    pub expires_at: Timestamp,
}

/// Seals and opens passes.
#[derive(Clone, Debug)]
pub struct Passes(Arc<Sealer>);

impl Passes {
    /// With the installation's keys.
    #[must_use]
    pub fn new(keys: &KeyRing) -> Self {
        Self(Arc::new(keys.sealer("queue.pass", b"")))
    }

    /// The text that the buyer holds.
    #[must_use]
    pub fn seal(&self, pass: &Pass) -> String {
        let mut payload = Vec::with_capacity(64);
        for id in [pass.id.0, pass.concert.0, pass.user.0] {
            payload.extend_from_slice(id.as_bytes());
        }
        payload.extend_from_slice(&pass.arrival.to_be_bytes());
        payload.extend_from_slice(&pass.expires_at.millis().to_be_bytes());
        self.0.seal(&payload)
    }

    /// Opens the `Queue-Pass` that `user` sent to book `concert`.
    ///
    /// # Errors
    /// `pass_required`, `invalid_pass` or `pass_expired`.
    pub fn open(&self, text: Option<&str>, user: UserId, concert: ConcertId, now: Timestamp) -> Result<Pass, Problem> {
        let text = text.ok_or_else(|| Problem::new(&PASS_REQUIRED))?;
        let pass = self.read(text).ok_or_else(|| Problem::new(&INVALID_PASS))?;
        if pass.user != user || pass.concert != concert {
            return Err(Problem::new(&INVALID_PASS));
        }
        if now >= pass.expires_at {
            return Err(Problem::new(&PASS_EXPIRED));
        }
        Ok(pass)
    }

    fn read(&self, text: &str) -> Option<Pass> {
        let payload = self.0.open(text)?;
        let mut reader = Reader::new(&payload);
        let pass = Pass {
            id: PassId(reader.uuid()?),
            concert: ConcertId(reader.uuid()?),
            user: UserId(reader.uuid()?),
            arrival: reader.u64()?,
            expires_at: reader.time()?,
        };
        reader.is_done().then_some(pass)
    }
}

/// What a script asks about passes and their sale.
#[derive(Debug)]
pub struct Asked {
    passes: Slot<store::LockedPass>,
    halt: Slot<(bool, bool)>,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Those of the passes that are live.
    pub live: HashSet<PassId>,
    /// The database's present instant; none where it has none of the passes.
    pub now: Option<Timestamp>,
    /// Whether nothing of the sale may be held.
    pub halt: Halt,
}

/// Has a script lock the rows of these passes for the rest of the transaction, which also puts one buyer's bookings in a row, as
/// one user has one live pass per sale; and read, after that, whether the sale is halted, as [`refuse_if_stopped`] does.
pub fn ask(script: &mut Script, offset_micros: i64, concert: ConcertId, ids: &[PassId]) -> Asked {
    let passes = script.add_all((!ids.is_empty()).then(|| store::list_by_id_for_update_text(offset_micros, ids)));
    Asked { passes, halt: script.add(store::find_halt_text(concert)) }
}

impl Asked {
    /// Reads what the script found.
    ///
    /// # Errors
    /// Where a row is not what it should be.
    pub fn read(&self, outcomes: &Outcomes) -> Result<Found, Problem> {
        let rows = outcomes.list(&self.passes)?;
        let now = rows.first().map(|row| row.now_at);
        let live = rows.into_iter().filter(|row| row.live && row.now_at < row.expires_at).map(|row| row.id).collect();
        let halt = outcomes.list(&self.halt)?.into_iter().map(Halt::from).next().unwrap_or_default();
        Ok(Found { live, now, halt })
    }
}

/// What is told of a pass whose stay has ended.
#[must_use]
pub fn expired() -> Problem {
    Problem::new(&PASS_EXPIRED)
}

/// Refuses while an operator has stopped the sale, and once its concert is cancelled. Under READ COMMITTED each statement sees
/// what was committed before it, so nothing that begins after the operator was answered gets past. It locks nothing: a lock on
/// the sale's row would be shared by all bookings of the sale, and hold up its checkpoints and claims. What was past it already
/// may end well.
///
/// # Errors
/// `sale_stopped`, `concert_cancelled`.
pub async fn refuse_if_stopped(conn: &mut Conn, concert: ConcertId) -> Result<(), Problem> {
    find_halt(conn, concert).await?.refusal().map_or(Ok(()), Err)
}

/// Why nothing may be sold, as [`refuse_if_stopped`] reads it.
///
/// # Errors
/// Where the statement fails.
pub async fn find_halt(conn: &mut Conn, concert: ConcertId) -> Result<Halt, Problem> {
    store::find_halt(conn, concert).await
}

/// Tells from memory which sales may be halted. The lines know; the composition root wires it.
pub trait Halts: std::fmt::Debug + Send + Sync {
    /// Whether the sale was halted when its rules were last read, a second ago or so. For certain only MySQL knows.
    fn may_be_halted(&self, concert: ConcertId) -> bool;
}

impl Halt {
    /// What everybody is told; nothing where the sale goes on.
    #[must_use]
    pub fn refusal(self) -> Option<Problem> {
        match self {
            Self { is_cancelled: true, .. } => Some(Problem::new(&CONCERT_CANCELLED)),
            Self { is_stopped: true, .. } => Some(stopped()),
            Self { .. } => None,
        }
    }
}

/// What everybody is told while the sale is stopped.
pub(super) fn stopped() -> Problem {
    Problem::new(&SALE_STOPPED).retry_after(STOPPED_RETRY_SECS)
}

/// Ends a sale for good, with its concert: nothing of it is held, paid or claimed once this is committed. It counts as stopped,
/// and cannot be resumed.
///
/// # Errors
/// Where the statement fails.
pub async fn cancel_sale(conn: &mut Conn, concert: ConcertId) -> Result<(), Problem> {
    store::cancel(conn, concert).await
}

/// Ends the stay of `user`, if one is live, and records that its slot is to be freed. Whether one was.
///
/// # Errors
/// Where a statement fails.
pub async fn end_live(conn: &mut Conn, concert: ConcertId, user: UserId) -> Result<bool, Problem> {
    let Some((id, arrival)) = store::find_by_user_for_update(conn, concert, user).await? else {
        return Ok(false);
    };
    end_locked(conn, id, concert, arrival).await?;
    Ok(true)
}

/// Locks the stay of `user` for the rest of the transaction, if there is one: what this buyer books comes one after the other.
///
/// # Errors
/// Where the statement fails.
pub async fn lock_stay(conn: &mut Conn, concert: ConcertId, user: UserId) -> Result<(), Problem> {
    store::find_by_user_for_update(conn, concert, user).await.map(drop)
}

/// What a script asks about the sales and the stays of buyers who pay.
#[derive(Debug)]
pub struct AskedStays {
    halts: Slot<(bool, bool, ConcertId)>,
    stays: Slot<store::stays::Stay>,
}

/// What was found: live stays, whose rows are locked.
#[derive(Debug)]
pub struct Stays {
    /// Why nothing of these sales may be paid.
    pub halts: HashMap<ConcertId, Halt>,
    live: Vec<store::stays::Stay>,
}

/// Has a script lock the stays of these buyers (sorted) for the rest of the transaction, as far as they have not ended, and read
/// whether their sales are halted, as [`refuse_if_stopped`] does.
pub fn ask_stays(script: &mut Script, buyers: &[(ConcertId, UserId)]) -> AskedStays {
    let concerts: HashSet<ConcertId> = buyers.iter().map(|(concert, _)| *concert).collect();
    let concerts: Vec<ConcertId> = concerts.into_iter().collect();
    let halts = store::stays::ask_halts(script, &concerts);
    AskedStays { halts, stays: store::stays::ask_for_update(script, buyers) }
}

impl AskedStays {
    /// Reads what the script found.
    ///
    /// # Errors
    /// Where a row is not what it should be.
    pub fn read(&self, outcomes: &Outcomes) -> Result<Stays, Problem> {
        let halts = outcomes.list(&self.halts)?.into_iter();
        let halts = halts.map(|(is_stopped, is_cancelled, concert)| (concert, Halt::from((is_stopped, is_cancelled))));
        Ok(Stays { halts: halts.collect(), live: outcomes.list(&self.stays)? })
    }
}

impl Stays {
    /// Ends those of them that `is_over` tells, and records that their slots are to be freed.
    pub fn end(self, script: &mut Script, offset_micros: i64, is_over: impl Fn(ConcertId, UserId) -> bool) {
        let over: Vec<_> = self.live.into_iter().filter(|stay| is_over(stay.concert_id, stay.user_id)).collect();
        let ids: Vec<PassId> = over.iter().map(|stay| stay.id).collect();
        store::end_passes(script, offset_micros, &ids);
        let events: Vec<_> = over.iter().map(|stay| (stay.id.0, ended(stay.concert_id, stay.arrival))).collect();
        outbox::record_first(script, offset_micros, PASS_ENDED, &events);
    }
}

/// What became of a user's stay from another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// It is over, or there was none.
    Ended,
    /// The user's stay is from this very place.
    IsHere,
}

/// Ends the stay of `user` unless it is the one from this place.
///
/// # Errors
/// Where a statement fails.
pub(super) async fn end_elsewhere(
    conn: &mut Conn,
    concert: ConcertId,
    user: UserId,
    here: u64,
) -> Result<Elsewhere, Problem> {
    match store::find_by_user_for_update(conn, concert, user).await? {
        Some((_, arrival)) if arrival == here => return Ok(Elsewhere::IsHere),
        Some((id, arrival)) => end_locked(conn, id, concert, arrival).await?,
        None => {}
    }
    Ok(Elsewhere::Ended)
}

/// Ends the stay that this place was exchanged for, if it is the user's and live. Where the place has not been exchanged yet,
/// a stay that is over takes its row: a claim that has a slot already can keep no pass any more.
///
/// # Errors
/// Where a statement fails.
pub(super) async fn end_at(conn: &mut Conn, place: &Pass, rank: u64) -> Result<(), Problem> {
    let find = store::find_by_place_for_update(conn, place.concert, place.arrival);
    if let Some(row) = find.await? {
        return end_row(conn, &row, place).await;
    }
    match store::insert_ended_pass(conn, place, rank).await {
        Ok(()) => Ok(()),
        // The claim came first.
        Err(problem) if problem.fault() == Some(Fault::Duplicate) => {
            match store::find_by_place_for_update(conn, place.concert, place.arrival).await? {
                Some(row) => end_row(conn, &row, place).await,
                None => Err(problem),
            }
        }
        Err(problem) => Err(problem),
    }
}

async fn end_row(conn: &mut Conn, row: &store::PlacePass, place: &Pass) -> Result<(), Problem> {
    if row.live && row.user_id == place.user {
        end_locked(conn, row.id, place.concert, place.arrival).await?;
    }
    Ok(())
}

/// Ends the stay of this pass and no other, if it is live.
///
/// # Errors
/// Where a statement fails.
pub(super) async fn end(conn: &mut Conn, pass: &Pass) -> Result<(), Problem> {
    match store::list_by_id_for_update(conn, &[pass.id]).await?.first() {
        Some(row) if row.live => end_locked(conn, pass.id, pass.concert, pass.arrival).await,
        _ => Ok(()),
    }
}

async fn end_locked(conn: &mut Conn, id: PassId, concert: ConcertId, arrival: u64) -> Result<(), Problem> {
    store::end_pass(conn, id).await?;
    outbox::record(conn, PASS_ENDED, id.0, 1, &ended(concert, arrival)).await
}

/// Ends the stays of these passes, whose rows are locked and live.
///
/// # Errors
/// Where a statement fails.
pub(super) async fn end_all(conn: &mut Conn, concert: ConcertId, passes: &[(PassId, u64)]) -> Result<(), Problem> {
    let (mut script, offset) = (Script::default(), conn.offset_micros());
    let ids: Vec<PassId> = passes.iter().map(|(id, _)| *id).collect();
    store::end_passes(&mut script, offset, &ids);
    let events: Vec<_> = passes.iter().map(|(id, arrival)| (id.0, ended(concert, *arrival))).collect();
    outbox::record_first(&mut script, offset, PASS_ENDED, &events);
    script.run(conn).await.map(drop)
}

/// What the event says.
fn ended(concert: ConcertId, arrival: u64) -> Value {
    json!({"concert_id": concert, "arrival": arrival})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::config::Secret;

    #[test]
    fn a_pass_is_for_one_buyer_one_sale_and_a_while() {
        let keys = KeyRing::parse(&Secret::new(format!("1:{}", "0123456789abcdef".repeat(4)))).unwrap();
        let passes = Passes::new(&keys);
        let at = |secs: i64| Timestamp::from_millis(secs * 1000).unwrap();
        let (user, concert) = (UserId::new(), ConcertId::new());
        let pass = Pass { id: PassId::new(), concert, user, arrival: 3, expires_at: at(10) };
        let text = passes.seal(&pass);
        let refusal = |text, user, concert, now| passes.open(text, user, concert, now).unwrap_err().code().code;
        assert_eq!(passes.open(Some(&text), user, concert, at(9)).unwrap(), pass);
        assert_eq!(refusal(Some(&text), user, concert, at(10)), "pass_expired");
        assert_eq!(refusal(Some(&text), UserId::new(), concert, at(9)), "invalid_pass");
        assert_eq!(refusal(Some(&text), user, ConcertId::new(), at(9)), "invalid_pass");
        assert_eq!(refusal(Some("nonsense"), user, concert, at(9)), "invalid_pass");
        assert_eq!(refusal(None, user, concert, at(9)), "pass_required");
    }
}
