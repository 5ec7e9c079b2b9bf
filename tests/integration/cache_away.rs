//! The cache while Redis or MySQL is away.
//!
//! `FRONTROW_OUTAGE_SECS` sets how long MySQL is away while seats are looked at (without it: a moment).

use std::time::{Duration, Instant};

use frontrow::booking::seats::filter::{Claimed, Hall};
use frontrow::catalog::{ConcertId, PerformanceId};
use futures::future::join_all;
use serde_json::json;
use sqlx::Executor as _;

use crate::cache::{ALONE, assert_grown, counting, loads, page, plan, rename, title};
use crate::support::arena::Plan;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Buyer, Fault, Instance, Reply, Sale, Servers, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_mysql_old_values_are_served_and_marked() {
    let world = World::with(&[ALONE]).await;
    let (one, proxy) = (world.instance().await, world.mysql_proxy().await);
    let (name, url) = world.mysql_through(&proxy);
    let cut_off = world.instance_with(&[(name, &url)]).await;
    let (healthy, api) = (Api::over(&[&one]), Api::over(&[&cut_off]));
    let sale = Sale::new(&healthy, &one, &plan()).await;
    let map = format!("/v1/performances/{}/seat-map", sale.performances[0]);
    let read = page(&api, &sale).await;
    assert_eq!((read.status, read.header("warning"), read.header("age")), (200, None, None));
    api.get(&map).send().await.expect(200);

    proxy.set(Fault::Refuse);
    let marked = eventually("a mark", || async {
        let read = page(&api, &sale).await;
        assert_eq!(read.status, 200);
        read.header("warning").map(str::to_owned)
    })
    .await;
    assert_eq!(marked, "110 - \"Response is Stale\"");
    rename(&healthy, &sale, "New").await;
    // Past the soft age, and past the hard one.
    for secs in [400, 600] {
        world.advance(Duration::from_secs(secs));
        let read = page(&api, &sale).await;
        assert!(read.header("warning").is_some() && read.header("age").is_some(), "{:?}", read.headers);
        let age: u64 = read.header("age").expect("an age").parse().expect("seconds");
        assert!(age >= secs, "{age}");
        assert_eq!(read.header("cache-control"), Some("no-store"));
        read.expect(200);
    }
    let map_read = api.get(&map).send().await;
    assert_eq!((map_read.status, map_read.header("warning")), (200, None), "what never changes is never out of date");

    proxy.set(Fault::None);
    eventually("the end of the marks", || async {
        let read = page(&api, &sale).await;
        (read.status == 200 && read.header("warning").is_none()).then_some(())
    })
    .await;
    assert_eq!(title(&api, &sale).await, "New");
    world.end(vec![one, cut_off]).await;
}

/// Waits until the sale's filter knows that the first seat is taken.
async fn filtered(instance: &Instance, sale: &Sale) {
    let concert: ConcertId = sale.concert.parse().expect("an id");
    let concert = instance.state.catalog.reader().get_concert(concert).await.expect("the concert");
    let hall = Hall::of(&concert, sale.performances[0].parse().expect("an id")).expect("its hall");
    eventually("the filter", || async {
        matches!(instance.state.filter.claim(hall, &[0]).await, Claimed::Refused { .. }).then_some(())
    })
    .await;
}

/// Tries to hold a seat.
async fn hold(api: &Api, sale: &Sale, (buyer, pass): (&Buyer, &str), seat: &str) -> Reply {
    let call = api.post(&format!("/v1/performances/{}/holds", sale.performances[0])).bearer(&buyer.token).pass(pass);
    call.json(&json!({"seat_ids": [seat]})).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_mysql_seats_are_shown_and_taken_ones_refused() {
    let world = World::with(&[ALONE]).await;
    let (one, proxy) = (world.instance().await, world.mysql_proxy().await);
    let (name, url) = world.mysql_through(&proxy);
    let cut_off = world.instance_with(&[(name, &url)]).await;
    let (healthy, api) = (Api::over(&[&one]), Api::over(&[&cut_off]));
    let sale = Sale::new(&healthy, &one, &Plan::default()).await;
    let (first, second) = (Buyer::new(&healthy).await, Buyer::new(&healthy).await);
    let (pass, other) = (first.enter(&healthy, &sale).await, second.enter(&healthy, &sale).await);
    hold(&healthy, &sale, (&first, &pass), "A-1-1").await.expect(201);
    filtered(&cut_off, &sale).await;
    let (concert, evening) = (&sale.concert, &sale.performances[0]);
    let marked = [
        format!("/v1/concerts/{concert}"),
        format!("/v1/concerts/{concert}/performances"),
        format!("/v1/performances/{evening}"),
        "/v1/concerts".to_owned(),
    ];
    let availability = format!("/v1/performances/{evening}/availability");
    let seats =
        [format!("/v1/performances/{evening}/seat-map"), format!("/v1/performances/{evening}/seats?status=held")];
    for path in marked.iter().chain(&seats) {
        api.get(path).send().await.expect(200);
    }

    proxy.set(Fault::Refuse);
    eventually("a mark", || async { page(&api, &sale).await.header("warning").map(drop) }).await;
    let (started, secs) = (Instant::now(), std::env::var("FRONTROW_OUTAGE_SECS").unwrap_or_default());
    let outage = Duration::from_secs(secs.parse().unwrap_or(1));
    let mut moves = [0, 5, 20, 40, 60].into_iter();
    loop {
        let by = moves.next();
        world.advance(Duration::from_secs(by.unwrap_or(0)));
        for path in &marked {
            let read = api.get(path).send().await;
            assert_eq!((read.status, read.header("warning").is_some()), (200, true), "{path}: {read:?}");
        }
        for path in &seats {
            api.get(path).send().await.expect(200);
        }
        let refused = hold(&api, &sale, (&second, &other), "A-1-1").await.expect_problem(409, "seats_taken");
        assert_eq!(refused["seat_ids"], json!(["A-1-1"]));
        hold(&api, &sale, (&second, &other), "A-2-1").await.expect_problem(503, "read_only");
        // What could not be sold is free again.
        eventually("the seat", || async {
            let shown = api.get(&availability).send().await.expect(200);
            (shown["available"] == 19).then_some(())
        })
        .await;
        if by.is_none() && started.elapsed() >= outage {
            break;
        }
    }
    proxy.set(Fault::None);
    eventually("MySQL", || async {
        let held = hold(&api, &sale, (&second, &other), "A-2-1").await;
        (held.status == 201).then_some(())
    })
    .await;
    world.end(vec![one, cut_off]).await;
}

/// Neither the filter nor MySQL tells the seats left, nor was anything told before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_waits_for_the_first_number_of_seats() {
    let world = World::with(&[ALONE]).await;
    let (one, proxy) = (world.instance().await, world.mysql_proxy().await);
    let (name, url) = world.mysql_through(&proxy);
    let patient = [
        (name, url.as_str()),
        ("FRONTROW__CACHE__WAIT_MS", "60000"),
        ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "60000"),
        ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "200"),
    ];
    let cut_off = world.instance_with(&patient).await;
    let (healthy, api) = (Api::over(&[&one]), Api::over(&[&cut_off]));
    let sale = Sale::new(&healthy, &one, &plan()).await;
    let reader = cut_off.state.catalog.reader();
    let evening: PerformanceId = sale.performances[0].parse().expect("an id");
    reader.get_performance(evening).await.expect("what it is");
    reader.get_seat_map(evening).await.expect("its map");

    proxy.set(Fault::Refuse);
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let (api, sale) = (api.clone(), sale.clone());
            tokio::spawn(async move { page(&api, &sale).await })
        })
        .collect();
    // By now everybody has been told something, or waits.
    eventually("silence", || async { (!cut_off.state.caches.is_current()).then_some(()) }).await;
    proxy.set(Fault::None);
    for read in crowd {
        assert_eq!(read.await.expect("a reader").expect(200)["performances"][0]["seats_available"], 20);
    }
    world.end(vec![one, cut_off]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_instance_loads_once() {
    let (servers, world) = counting(&[]).await;
    let (one, proxy) = (world.instance().await, world.redis_proxy().await);
    let (name, url) = world.redis_through(&proxy);
    let cut_off = world.instance_with(&[(name, &url)]).await;
    let (healthy, api) = (Api::over(&[&one]), Api::over(&[&cut_off]));
    let sale = Sale::new(&healthy, &one, &plan()).await;
    let mut sql = world.sql().await;
    let generation = cut_off.state.caches.generation().expect("news were heard");
    proxy.set(Fault::Refuse);
    let before = loads(&mut sql).await;
    let concert: frontrow::catalog::ConcertId = sale.concert.parse().expect("an id");
    let reader = cut_off.state.catalog.reader();
    let read = join_all((0..200).map(|_| reader.get_concert(concert))).await;
    assert!(read.iter().all(Result::is_ok));
    assert_grown(before, loads(&mut sql).await, 1, "one load for the process");
    // Changes are heard of all the same.
    rename(&healthy, &sale, "New").await;
    assert!(cut_off.state.caches.catch_up().await);
    assert_eq!(reader.get_concert(concert).await.expect("it").title, "New");
    eventually("Redis to be left alone", || async {
        rename(&healthy, &sale, "Newer").await;
        reader.get_concert(concert).await.expect("it");
        cut_off.state.caches.is_far_off().then_some(())
    })
    .await;
    proxy.set(Fault::None);
    eventually("Redis to be used again", || async { (!cut_off.state.caches.is_far_off()).then_some(()) }).await;
    assert!(cut_off.state.caches.generation() > Some(generation), "what it held is void");
    assert_eq!(title(&api, &sale).await, "Newer");
    world.end(vec![one, cut_off]).await;
    servers.end().await;
}

/// Redis comes back with what it had before the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_missed_a_change_is_not_believed() {
    let mut servers = Servers::start().await;
    let world = World::on(&servers.mysql_url(), &servers.redis_url(), &[ALONE]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &plan()).await;
    let generation = one.state.caches.generation().expect("news were heard");
    assert_eq!(title(&api, &sale).await, "A Concert");
    let saved = eventually("the value on disk", || async {
        let saved = servers.save_redis();
        saved.has("A Concert").then_some(saved)
    })
    .await;
    servers.kill_redis().await;
    rename(&api, &sale, "New").await;
    eventually("the loss to be noticed", || async {
        title(&api, &sale).await;
        rename(&api, &sale, "New").await;
        one.state.caches.is_far_off().then_some(())
    })
    .await;
    servers.restart_redis_from(&saved).await;
    eventually("Redis to be used again", || async { (!one.state.caches.is_far_off()).then_some(()) }).await;
    assert!(one.state.caches.generation() > Some(generation));
    let fresh = world.instance().await;
    assert_eq!(title(&Api::over(&[&fresh]), &sale).await, "New");
    assert_eq!(title(&api, &sale).await, "New");
    world.end(vec![one, fresh]).await;
    servers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_around_is_refused_before_who_buys() {
    let patient = ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "60000");
    let world = World::with(&[ALONE, patient, ("FRONTROW__CACHE__LOADS_MAX", "4")]).await;
    let gate = Sabotage::of_sql(
        "c.draw_commitment FROM concerts c",
        "WHERE c.id = ?",
        "WHERE c.id = ? AND GET_LOCK(CONCAT('gate ', DATABASE()), 50) + RELEASE_LOCK(CONCAT('gate ', DATABASE())) = 2",
    );
    let (maker, proxy) = (world.instance().await, world.mysql_sabotaged(&gate).await);
    let (name, url) = world.mysql_through(&proxy);
    let one = world.instance_with(&[(name, &url)]).await;
    let (making, api) = (Api::over(&[&maker]), Api::over(&[&one]));
    let mut sales = Vec::new();
    for _ in 0..4 {
        sales.push(Sale::new(&making, &maker, &plan()).await);
    }
    let mut sql = world.sql().await;
    sql.execute("DO GET_LOCK(CONCAT('gate ', DATABASE()), 10)").await.expect("the gate");
    let looking: Vec<_> = sales[..3]
        .iter()
        .map(|sale| {
            let (api, sale) = (api.clone(), sale.clone());
            tokio::spawn(async move { page(&api, &sale).await })
        })
        .collect();
    eventually("three loads", || async {
        let waiting = world.running().await.iter().filter(|text| text.contains("gate")).count();
        (waiting == 3).then_some(())
    })
    .await;
    let refused = page(&api, &sales[3]).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.expect_problem(503, "overloaded");
    // A sale asks for another thing, which no gate holds up: it has a place.
    let evening = sales[3].performances[0].parse().expect("an id");
    one.state.catalog.reader().get_seat_map(evening).await.expect("who buys has a place");
    sql.execute("DO RELEASE_LOCK(CONCAT('gate ', DATABASE()))").await.expect("the gate opens");
    for read in looking {
        read.await.expect("a reader").expect(200);
    }
    page(&api, &sales[3]).await.expect(200);
    world.end(vec![maker, one]).await;
}
