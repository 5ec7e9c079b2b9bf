//! What is started over a schema that is not exactly its own.

use frontrow::platform::db;
use sqlx::Executor as _;

use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_starts_over_a_newer_schema_but_not_over_a_changed_one() {
    let world = World::new().await;
    let known = db::migrate(&world.config(&[]).database).await.expect("the migrations");
    let mut sql = world.sql().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of a newer version', TRUE, X'00', 1)";
    sql.execute(newer).await.expect("a row");
    // An instance of this version that is started again while a newer one is rolled out, or was taken back.
    assert_eq!(db::migrate(&world.config(&[]).database).await.expect("nothing to do"), known);
    world.instance().await.stop().await;
    sql.execute("UPDATE _sqlx_migrations SET checksum = X'00' WHERE version = 1").await.expect("a row");
    let refused = db::migrate(&world.config(&[]).database).await.expect_err("not the schema that it knows");
    assert!(format!("{refused:#}").contains("modified"), "{refused:#}");
    world.end(Vec::new()).await;
}
