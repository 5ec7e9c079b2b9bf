//! The server's own database account: it can do everything that it is for, and cannot change what was booked.

use frontrow::app::schema;
use frontrow::points;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, SqlSafeStr as _};

use crate::support::arena::{Plan, text};
use crate::support::statements::{constants, invariants};
use crate::support::world::server;
use crate::support::{Api, Buyer, Sale, World};

/// Statements of those who own the schema.
const OWNERS: [&str; 2] = ["platform/db/migrate.rs", "platform/db/grants.rs"];

/// The settings by which an instance serves as the server's account, and the owner migrates.
fn settings(world: &World) -> [(&'static str, String); 2] {
    let (own, server) = (world.mysql_url(), server("FRONTROW_SERVER_URL"));
    let database = own.rsplit_once('/').expect("a database in the URL").1;
    let served = format!("{}/{database}", server.rsplit_once('/').expect("a database in the URL").0);
    [("FRONTROW__DATABASE__URL", served), ("FRONTROW__DATABASE__MIGRATION_URL", own.to_owned())]
}

/// The number of the error with which the server refuses this.
async fn refusal(sql: &mut MySqlConnection, statement: &str) -> Option<u16> {
    let error = sql.execute(AssertSqlSafe(statement.to_owned())).await.err()?;
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sells_tickets_cannot_change_what_was_booked() {
    let world = World::new().await;
    let settings = settings(&world);
    let pairs = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let one = world.instance_with(&pairs).await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan { price: 1_000, ..Plan::default() }).await;
    let buyer = Buyer::new(&api).await;
    buyer.charge(&api, 5_000).await;
    let pass = buyer.enter(&api, &sale).await;
    let held = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    let paid = buyer.try_pay(&api, &held, "pay").await.expect(201);
    let cancel = api.post(&format!("/v1/reservations/{}/cancellation", text(&paid["id"]))).key("cancel");
    cancel.bearer(&buyer.token).send().await.expect(200);

    let mut sql = MySqlConnection::connect(&settings[0].1).await.expect("the server's account");
    let booked: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM ledger_entries").fetch_one(&mut sql).await.expect("rows");
    assert_eq!(booked, 6, "a charge, a payment and a refund");
    for table in points::APPEND_ONLY {
        let key = if *table == "ledger_entries" { "transaction_id" } else { "id" };
        for statement in [
            format!("UPDATE {table} SET {key} = {key}"),
            format!("DELETE FROM {table}"),
            format!("DELETE FROM {table} WHERE FALSE"),
            format!("TRUNCATE TABLE {table}"),
            format!("DROP TABLE {table}"),
            format!("ALTER TABLE {table} ADD COLUMN more INT"),
        ] {
            assert_eq!(refusal(&mut sql, &statement).await, Some(1142), "{statement}");
        }
        let replace = format!("REPLACE INTO {table} SELECT * FROM {table}");
        assert_eq!(refusal(&mut sql, &replace).await, Some(1142), "{replace}");
        assert!(!one.state.db.may_change(table).await.expect("an answer"), "{table}");
    }
    // Whatever else the program says to the server, the account may say.
    let mut refused = Vec::new();
    for statement in constants().iter().chain(&invariants()) {
        if OWNERS.iter().any(|owner| statement.name.starts_with(owner)) {
            continue;
        }
        if let Err(error) = (&mut sql).prepare(AssertSqlSafe(statement.sql.clone()).into_sql_str()).await {
            refused.push(format!("{}: {error}", statement.name));
        }
    }
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_follow_the_schema() {
    let world = World::new().await;
    let settings = settings(&world);
    let pairs = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let config = world.config(&pairs);
    schema::prepare(&config.database).await.expect("the schema");
    let owner = world.state(&[]);
    assert!(owner.db.may_change("ledger_entries").await.expect("an answer"), "the owner may");

    // What the next version brings, and what somebody gave by mistake.
    let (mut sql, database) = (
        world.sql().await,
        world.mysql_url().rsplit_once('/').expect("a database").1.split('?').next().expect("a name").to_owned(),
    );
    for statement in [
        "CREATE TABLE next_version (id INT PRIMARY KEY)".to_owned(),
        format!("GRANT UPDATE, DELETE ON `{database}`.ledger_entries TO 'frontrow_server'@'127.0.0.1'"),
    ] {
        sql.execute(AssertSqlSafe(statement)).await.expect("the owner's rights");
    }
    let server = world.state(&pairs);
    assert!(server.db.may_change("ledger_entries").await.expect("an answer"), "it was given");
    server.db.may_change("next_version").await.map(|may| assert!(!may, "nobody gave it")).expect("an answer");
    schema::prepare(&config.database).await.expect("the rights");
    assert!(!server.db.may_change("ledger_entries").await.expect("an answer"), "it was taken back");
    assert!(server.db.may_change("next_version").await.expect("an answer"), "it is the server's");

    let same = world.config(&[("FRONTROW__DATABASE__MIGRATION_URL", world.mysql_url())]);
    let error = schema::prepare(&same.database).await.expect_err("one account for both").to_string();
    assert!(error.contains("same account"), "{error}");
    owner.db.close().await;
    server.db.close().await;
    world.end(Vec::new()).await;
}
