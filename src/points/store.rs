//! The SQL of `points_accounts`, `ledger_transactions` and `ledger_entries`.

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::domain::{Account, Balance, ChargeId, Entry, Kind, Month, Movement, Statement, TransactionId};
use crate::accounts::UserId;
use crate::platform::audit::Invariant;
use crate::platform::db::{Conn, Script, Slot, Text, derived, in_list, parts, rows};
use crate::platform::error::Problem;
use crate::platform::money::Money;

const FIND_BALANCE: &str = "SELECT balance, entries FROM points_accounts WHERE user_id = ?";
const FIND_BALANCE_FOR_UPDATE: &str = "SELECT balance, entries FROM points_accounts WHERE user_id = ? FOR UPDATE";
const LIST_BALANCES: &str = "SELECT user_id, balance, entries FROM points_accounts WHERE user_id IN (?)";
/// Changes nothing where the row exists, but waits for it and locks it, as it does where it makes it.
const ENSURE_ACCOUNT: &str = "INSERT INTO points_accounts (user_id, balance, entries, changed_at) \
     VALUES (?, 0, 0, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND) ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)";
const INSERT_ACCOUNT: &str = "INSERT IGNORE INTO points_accounts (user_id, balance, entries, changed_at) \
     VALUES (?, 0, 0, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const SET_BALANCE: &str = "UPDATE points_accounts SET balance = ?, entries = ?, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE user_id = ?";
const LIST_BALANCES_FOR_UPDATE: &str =
    "SELECT user_id, balance, entries FROM points_accounts WHERE user_id IN (?) ORDER BY user_id FOR UPDATE";
/// By how much each balance falls, and each number of entries rises.
const TAKE: &str = "UPDATE (SELECT ? AS user_id, ? AS balance, ? AS entries) AS w \
     STRAIGHT_JOIN points_accounts AS a ON a.user_id = w.user_id \
     SET a.balance = a.balance - w.balance, a.entries = a.entries + w.entries, \
     a.changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE a.balance >= w.balance";
/// A buyer of that statement, a transaction and an entry as text, in bytes.
const TAKE_ROW_LEN: usize = 110;
const TRANSACTION_LEN: usize = 160;
const ENTRY_LEN: usize = 160;
const GIVE_MANY: &str = "UPDATE points_accounts SET balance = balance + ?, entries = entries + 1, \
     changed_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND WHERE user_id IN (?)";
const INSERT_TRANSACTION: &str = "INSERT INTO ledger_transactions (id, kind, reference, created_at) \
     VALUES (?, ?, ?, UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)";
const INSERT_ENTRY: &str = "INSERT INTO ledger_entries \
     (transaction_id, line, account, user_id, amount, user_entry, balance_after) \
     VALUES (?, ?, ?, ?, ?, ?, ?)";
/// What a movement of this kind and reference changed the buyer's balance by.
const FIND_CHANGE: &str = "SELECT e.amount FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id \
     WHERE t.kind = ? AND t.reference = ? AND e.user_id = ?";
const LIST_ENTRIES: &str = "SELECT t.id, e.user_entry, t.kind, e.amount, e.balance_after, t.reference, t.created_at \
     FROM ledger_entries e JOIN ledger_transactions t ON t.id = e.transaction_id \
     WHERE e.user_id = ? AND e.user_entry < ? ORDER BY e.user_entry DESC LIMIT ?";

/// Of the entries before the end of a month. Those of one buyer are few.
const SUM_MONTH: &str = "SELECT CAST(COALESCE(SUM(IF(t.created_at < ?, e.amount, 0)), 0) AS SIGNED), \
     CAST(COALESCE(SUM(IF(t.created_at >= ? AND t.kind = 0, e.amount, 0)), 0) AS SIGNED), \
     CAST(COALESCE(SUM(IF(t.created_at >= ? AND t.kind = 1, e.amount, 0)), 0) AS SIGNED), \
     CAST(COALESCE(SUM(IF(t.created_at >= ? AND t.kind = 2, e.amount, 0)), 0) AS SIGNED), \
     CAST(COALESCE(SUM(IF(t.created_at >= ? AND t.kind = 3, e.amount, 0)), 0) AS SIGNED), \
     CAST(COALESCE(SUM(e.amount), 0) AS SIGNED) \
     FROM ledger_entries e JOIN ledger_transactions t ON t.id = e.transaction_id WHERE e.user_id = ? AND t.created_at < ?";

/// What the audit checks of the ledger. Each statement reads one snapshot, so writers beside it do not show as
/// breaches.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        name: "ledger_transactions_sum_to_zero",
        promise: "Every ledger transaction has at least two entries, and they sum to zero.",
        statement: "SELECT CONCAT('transaction ', HEX(t.id), ': ', COUNT(e.line), ' entries, sum ', COALESCE(SUM(e.amount), 0)) \
             FROM ledger_transactions t LEFT JOIN ledger_entries e ON e.transaction_id = t.id \
             WHERE t.created_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL \
             GROUP BY t.id HAVING COUNT(e.line) < 2 OR COALESCE(SUM(e.amount), 0) <> 0 LIMIT ?",
    },
    Invariant {
        name: "points_balances_not_negative",
        promise: "No buyer's balance is below zero.",
        statement: "SELECT CONCAT('user ', HEX(a.user_id), ': balance ', a.balance) FROM points_accounts a \
             WHERE a.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL AND a.balance < 0 LIMIT ?",
    },
    Invariant {
        name: "points_balances_match_entries",
        promise: "Every buyer's balance is the sum of the buyer's entries, and none of them is missing.",
        statement: "SELECT CONCAT('user ', HEX(a.user_id), ': balance ', a.balance, ' by ', a.entries, ' entries, found ', \
             COALESCE(SUM(e.amount), 0), ' in ', COUNT(e.line)) \
             FROM points_accounts a LEFT JOIN ledger_entries e ON e.user_id = a.user_id \
             WHERE a.changed_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL \
             GROUP BY a.user_id, a.balance, a.entries \
             HAVING COALESCE(SUM(e.amount), 0) <> a.balance OR COUNT(e.line) <> a.entries LIMIT ?",
    },
    Invariant {
        name: "ledger_entries_follow_each_other",
        promise: "Every entry of a buyer leads from the balance after the entry before to the balance that it names.",
        statement: "SELECT CONCAT('transaction ', HEX(e.transaction_id), ': entry ', e.user_entry, ' of user ', HEX(e.user_id)) \
             FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id AND e.user_id IS NOT NULL \
             LEFT JOIN ledger_entries b ON b.user_id = e.user_id AND b.user_entry = CAST(e.user_entry AS SIGNED) - 1 \
             LEFT JOIN points_accounts a ON a.user_id = e.user_id \
             WHERE t.created_at >= ? AND UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND IS NOT NULL \
             AND (a.user_id IS NULL OR e.account <> 0 OR e.balance_after IS NULL OR e.user_entry IS NULL \
             OR e.balance_after <> e.amount + COALESCE(b.balance_after, 0) \
             OR (b.user_id IS NULL AND e.user_entry <> 1)) LIMIT ?",
    },
];

/// The buyer's balance; zero where there is no row.
pub(super) async fn find_balance(conn: &mut Conn, user: UserId) -> Result<Balance, Problem> {
    let found = sqlx::query(FIND_BALANCE).bind(user).fetch_optional(conn.sql()).await?;
    found.as_ref().map_or(Ok(Balance::default()), balance_of)
}

/// The buyer's balance, locked; its row is made where it is missing.
pub(super) async fn get_balance_for_update(conn: &mut Conn, user: UserId) -> Result<Balance, Problem> {
    if let Some(row) = sqlx::query(FIND_BALANCE_FOR_UPDATE).bind(user).fetch_optional(conn.sql()).await? {
        return balance_of(&row);
    }
    ensure_account(conn, user).await?;
    balance_of(&sqlx::query(FIND_BALANCE_FOR_UPDATE).bind(user).fetch_one(conn.sql()).await?)
}

/// Makes the buyer's row where it is missing. Locks it in any case.
async fn ensure_account(conn: &mut Conn, user: UserId) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    sqlx::query(ENSURE_ACCOUNT).bind(user).bind(offset).execute(conn.sql()).await?;
    Ok(())
}

/// Sets a balance whose row is locked.
pub(super) async fn set_balance(conn: &mut Conn, user: UserId, balance: Balance) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let query = sqlx::query(SET_BALANCE).bind(balance.amount).bind(balance.entries).bind(offset).bind(user);
    query.execute(conn.sql()).await?;
    Ok(())
}

/// A buyer's balance in a list.
pub(super) type BalanceRow = (UserId, Money, u32);

/// Asks for the balances of these buyers (sorted), as far as they have rows, and locks them.
pub(super) fn ask_balances_for_update(script: &mut Script, users: &[UserId]) -> Slot<BalanceRow> {
    let text = || users.iter().fold(Text::new(in_list(LIST_BALANCES_FOR_UPDATE, users.len())), Text::bind);
    script.add_all((!users.is_empty()).then(text))
}

/// Takes from locked balances what each of these buyers pays, as so many entries: from those that are that high.
pub(super) fn take(script: &mut Script, offset_micros: i64, taken: &[BalanceRow]) -> Slot<()> {
    let texts = parts(taken, |_| TAKE_ROW_LEN).map(|part| {
        let text = part.iter().fold(Text::new(derived(TAKE, part.len())), |text, (user, amount, entries)| {
            text.bind(user).bind(amount).bind(entries)
        });
        text.bind(&offset_micros)
    });
    script.add_all(texts)
}

/// Adds `amount` to the balance of each, making the rows that are missing.
pub(super) async fn give_many(conn: &mut Conn, users: &[UserId], amount: Money) -> Result<(), Problem> {
    if users.is_empty() {
        return Ok(());
    }
    let offset = conn.offset_micros();
    let mut insert = sqlx::query(AssertSqlSafe(rows(INSERT_ACCOUNT, users.len())));
    for user in users {
        insert = insert.bind(user).bind(offset);
    }
    insert.execute(conn.sql()).await?;
    let mut update = sqlx::query(AssertSqlSafe(in_list(GIVE_MANY, users.len()))).bind(amount).bind(offset);
    for user in users {
        update = update.bind(user);
    }
    update.execute(conn.sql()).await?;
    Ok(())
}

/// The balances of these buyers, as far as they have rows.
pub(super) async fn list_balances(conn: &mut Conn, users: &[UserId]) -> Result<Vec<(UserId, Balance)>, Problem> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = sqlx::query(AssertSqlSafe(in_list(LIST_BALANCES, users.len())));
    for user in users {
        query = query.bind(user);
    }
    let found = query.fetch_all(conn.sql()).await?;
    found.iter().map(|row| Ok((row.try_get("user_id")?, balance_of(row)?))).collect()
}

/// Writes movements down: a transaction and two entries each, which sum to zero.
pub(super) async fn insert_movements(conn: &mut Conn, movements: &[Movement]) -> Result<(), Problem> {
    let mut script = Script::default();
    write_movements(&mut script, conn.offset_micros(), movements);
    script.run(conn).await.map(drop)
}

/// The same, by a script.
pub(super) fn write_movements(script: &mut Script, offset_micros: i64, movements: &[Movement]) {
    let texts = parts(movements, |_| TRANSACTION_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT_TRANSACTION, part.len())), |text, movement| {
            let text = text.bind(&movement.id).bind(&movement.kind.number());
            text.bind(&movement.reference).bind(&offset_micros)
        })
    });
    let _: Slot<()> = script.add_all(texts);
    let texts = parts(movements, |_| 2 * ENTRY_LEN).map(|part| {
        part.iter().fold(Text::new(rows(INSERT_ENTRY, 2 * part.len())), |text, movement| {
            let change = movement.kind.change(movement.amount);
            let text = text.bind(&movement.id).bind(&0_u8).bind(&Account::Buyer.number()).bind(&Some(movement.user));
            let text = text.bind(&change).bind(&Some(movement.after.entries)).bind(&Some(movement.after.amount));
            let text = text.bind(&movement.id).bind(&1_u8).bind(&movement.kind.counterpart().number());
            text.bind(&None::<UserId>).bind(&change.negated()).bind(&None::<u32>).bind(&None::<Money>)
        })
    });
    let _: Slot<()> = script.add_all(texts);
}

/// Writes a movement down that no buyer's points take part in. The amounts sum to zero.
pub(super) async fn insert_between(
    conn: &mut Conn,
    id: TransactionId,
    kind: Kind,
    reference: Uuid,
    between: [(Account, Money); 2],
) -> Result<(), Problem> {
    let offset = conn.offset_micros();
    let transaction = sqlx::query(INSERT_TRANSACTION).bind(id).bind(kind.number()).bind(reference).bind(offset);
    transaction.execute(conn.sql()).await?;
    let mut entries = sqlx::query(AssertSqlSafe(rows(INSERT_ENTRY, between.len())));
    for (line, (account, amount)) in (0_u8..).zip(between) {
        entries = entries.bind(id).bind(line).bind(account.number()).bind(None::<UserId>);
        entries = entries.bind(amount).bind(None::<u32>).bind(None::<Money>);
    }
    entries.execute(conn.sql()).await?;
    Ok(())
}

/// How much this charge put on the buyer's account; nothing where it is not the buyer's, or put nothing there.
pub(super) async fn find_charged(conn: &mut Conn, user: UserId, charge: ChargeId) -> Result<Option<Money>, Problem> {
    let query = sqlx::query_scalar(FIND_CHANGE).bind(Kind::Charge.number()).bind(charge).bind(user);
    Ok(query.fetch_optional(conn.sql()).await?)
}

/// The buyer's entries below the number `before`, newest first.
pub(super) async fn list_entries(
    conn: &mut Conn,
    user: UserId,
    before: u32,
    limit: u32,
) -> Result<Vec<Entry>, Problem> {
    let query = sqlx::query(LIST_ENTRIES).bind(user).bind(before).bind(limit);
    query.fetch_all(conn.sql()).await?.iter().map(entry_of).collect()
}

/// What the buyer's entries say of the month.
pub(super) async fn sum_month(conn: &mut Conn, user: UserId, month: &Month) -> Result<Statement, Problem> {
    let (from, until) = (month.from, month.until);
    let query = sqlx::query_as(SUM_MONTH).bind(from).bind(from).bind(from).bind(from).bind(from).bind(user).bind(until);
    let (opening, charged, paid, refunded, granted, closing): (Money, Money, Money, Money, Money, Money) =
        query.fetch_one(conn.sql()).await?;
    Ok(Statement { opening, charged, paid: paid.negated(), refunded, granted, closing })
}

fn balance_of(row: &MySqlRow) -> Result<Balance, Problem> {
    Ok(Balance { amount: row.try_get("balance")?, entries: row.try_get("entries")? })
}

fn entry_of(row: &MySqlRow) -> Result<Entry, Problem> {
    let number: u8 = row.try_get("kind")?;
    let kind = Kind::from_number(number)
        .ok_or_else(|| Problem::internal(anyhow::anyhow!("ledger_transactions.kind {number}")))?;
    Ok(Entry {
        id: row.try_get("id")?,
        number: row.try_get("user_entry")?,
        kind,
        amount: row.try_get("amount")?,
        balance_after: row.try_get("balance_after")?,
        reference: row.try_get("reference")?,
        created_at: row.try_get("created_at")?,
    })
}
