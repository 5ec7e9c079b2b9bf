//! The line goes from Redis to MySQL while Redis is away for everyone, and back; nobody loses a place. An instance that alone does not
//! reach Redis says so, and the others go on.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use fred::interfaces::{ClientLike as _, KeysInterface as _};
use frontrow::accounts::UserId;
use frontrow::catalog::ConcertId;
use frontrow::queue::domain::{InCharge, Standing};
use frontrow::queue::draw::{Permutation, commitment};
use frontrow::queue::line::{At, Remembered};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::proxy::sabotage::Sabotage;
use crate::support::world::{address_of, server};
use crate::support::{Api, Buyer, Fault, Instance, Proxy, Sale, World, eventually};

/// Redis is given up soon, so that a test waits for the line and not for time limits.
const LIMITS: [(&str, &str); 3] = [
    ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "200"),
    ("FRONTROW__REDIS__CONNECT_TIMEOUT_MS", "400"),
    ("FRONTROW__QUEUE__STANDBY_ADMIT_PER_SECOND", "50"),
];
/// What the design allows for noticing, moving the line and telling everybody; a busy machine may add to it.
const MOVED_MAX: Duration = Duration::from_secs(30);

/// Two instances, each before Redis through a proxy of its own.
struct House {
    world: World,
    instances: Vec<Instance>,
    proxies: Vec<Proxy>,
    api: Api,
}

impl House {
    async fn new() -> Self {
        let world = World::with(&LIMITS).await;
        let (mut instances, mut proxies) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let proxy = world.redis_proxy().await;
            let (name, value) = world.redis_through(&proxy);
            instances.push(world.instance_with(&[(name, &value)]).await);
            proxies.push(proxy);
        }
        let api = Api::over(&instances.iter().collect::<Vec<_>>());
        Self { world, instances, proxies, api }
    }

    fn set(&self, fault: Fault) {
        self.proxies.iter().for_each(|proxy| proxy.set(fault));
    }

    /// Waits until this store keeps the line, and prints how long that took.
    async fn wait_for_charge(&self, sale: &Sale, in_charge: u8, what: &str) {
        let started = Instant::now();
        let concert: uuid::Uuid = sale.concert.parse().expect("an id");
        eventually(what, || async {
            let sql = "SELECT in_charge FROM queue_sales WHERE concert_id = ?";
            let found: u8 =
                sqlx::query_scalar(sql).bind(concert).fetch_one(&mut self.world.sql().await).await.expect("a sale");
            (found == in_charge).then_some(())
        })
        .await;
        println!("{what} after {:?}", started.elapsed());
        assert!(started.elapsed() < MOVED_MAX, "{what} took {:?}", started.elapsed());
    }

    async fn end(self) {
        self.world.assert_clean(&self.instances[0]).await;
        self.world.end(self.instances).await;
    }
}

fn line(sale: &Sale) -> String {
    format!("/v1/concerts/{}/queue", sale.concert)
}

/// Each making of a line begins at the ceiling of the one before. That is no news of anybody's joining: else each loss would
/// reserve twice as many numbers as the one before, until a lobby is made of nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_of_a_line_that_nobody_joins_reserve_few_numbers() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    joined(&api, &sale, &Buyer::new(&api).await, None).await;
    let line = async || {
        let path = format!("/v1/admin/concerts/{}/queue", sale.concert);
        let line = api.get(&path).bearer(&sale.operator).send().await.expect(200);
        ["epoch", "issued", "ceiling"].map(|name| line[name].as_u64().expect("a number"))
    };
    let [mut epoch, _, first] = line().await;
    for losses in 1..=5 {
        world.wipe_redis().await;
        // Made anew, and with room for others again.
        let (made, ceiling) = eventually("the line to be made anew", || async {
            let [now, issued, ceiling] = line().await;
            (now > epoch && issued > 1 && ceiling > issued).then_some((now, ceiling))
        })
        .await;
        epoch = made;
        assert!(ceiling <= first + losses * 300, "{ceiling} after {losses} losses");
    }
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

/// The place of somebody who insists.
async fn joined(api: &Api, sale: &Sale, buyer: &Buyer, ticket: Option<&str>) -> (u16, Value) {
    eventually("a place", || async {
        let call = api.post(&format!("{}/tickets", line(sale))).bearer(&buyer.token);
        let reply = if let Some(ticket) = ticket { call.ticket(ticket) } else { call }.send().await;
        match reply.status {
            503 => None,
            200 | 201 => Some((reply.status, reply.body)),
            _ => panic!("{reply:?}"),
        }
    })
    .await
}

async fn poll(api: &Api, sale: &Sale, ticket: &str) -> Value {
    eventually("the place to be told", || async {
        let reply = api.get(&format!("{}/tickets/me", line(sale))).ticket(ticket).send().await;
        match reply.status {
            503 => None,
            200 => Some(reply.body),
            _ => panic!("{reply:?}"),
        }
    })
    .await
}

/// Waits until every instance says so: each shows what its own last tick told.
async fn stands(api: &Api, sale: &Sale, ticket: &str, status: &str) {
    eventually(status, || async {
        let places = [poll(api, sale, ticket).await, poll(api, sale, ticket).await];
        places.iter().all(|place| place["status"] == status).then_some(())
    })
    .await;
}

/// Claims, buys a seat and is out again.
async fn buy(api: &Api, sale: &Sale, buyer: &Buyer, ticket: &str, seat: &str) {
    let pass = buyer.claim(api, sale, ticket).await;
    let hold = buyer.hold(api, &sale.performances[0], &pass, &[seat]).await;
    let key = uuid::Uuid::new_v4().to_string();
    eventually("the payment", || async {
        let reply = buyer.try_pay(api, &hold, &key).await;
        (reply.status != 503).then(|| reply.expect(201))
    })
    .await;
}

/// From the fault to the end: a sale with one slot, through which everybody must pass in order.
async fn goes_on_without_redis(fault: Fault) {
    let house = House::new().await;
    let api = &house.api;
    let queue = json!({"admit_per_second": 1000, "max_active": 1, "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(api, &house.instances[0], &Plan { queue, ..Plan::default() }).await;
    let buyers = Buyer::many(&house.instances[0].state, 9).await;
    Buyer::endow(&house.instances[0].state, &buyers, 10_000).await;
    let (mut tickets, mut arrivals) = (Vec::new(), Vec::new());
    for buyer in &buyers[..6] {
        let (_, place) = joined(api, &sale, buyer, None).await;
        tickets.push(text(&place["ticket"]));
        arrivals.push(place["arrival"].as_u64().expect("a number"));
    }
    assert_eq!(arrivals, [0, 1, 2, 3, 4, 5]);
    buy(api, &sale, &buyers[0], &tickets[0], "A-1-1").await;

    house.set(fault);
    house.wait_for_charge(&sale, 1, "MySQL keeps the line").await;
    for instance in &house.instances {
        let api = Api::over(&[instance]);
        eventually("the instance to be degraded, and ready", || async {
            let reply = api.get("/readyz").send().await;
            (reply.status == 200 && reply.body["status"] == "degraded" && reply.body["checks"]["queue"] == "ok")
                .then_some(())
        })
        .await;
    }
    let started = Instant::now();
    buy(api, &sale, &buyers[1], &tickets[1], "A-1-2").await;
    println!("the next one was through after {:?}", started.elapsed());
    // With a ticket or without: the same place. Newcomers stand behind everybody.
    for (index, buyer) in buyers[2..6].iter().enumerate() {
        let ticket = (index % 2 == 0).then_some(tickets[index + 2].as_str());
        let (status, place) = joined(api, &sale, buyer, ticket).await;
        assert_eq!((status, place["arrival"].as_u64()), (200, Some(index as u64 + 2)));
    }
    for buyer in &buyers[6..8] {
        let (status, place) = joined(api, &sale, buyer, None).await;
        assert_eq!(status, 201);
        tickets.push(text(&place["ticket"]));
        arrivals.push(place["arrival"].as_u64().expect("a number"));
    }
    buy(api, &sale, &buyers[2], &tickets[2], "A-1-3").await;
    stands(api, &sale, &tickets[2], "finished").await;
    stands(api, &sale, &tickets[7], "waiting").await;
    // Who gives a place up has given it up when Redis is back, too.
    let leave = api.delete(&format!("{}/tickets/me", line(&sale))).bearer(&buyers[4].token).ticket(&tickets[4]);
    assert_eq!(leave.send().await.status, 204);

    house.set(Fault::None);
    house.wait_for_charge(&sale, 0, "Redis keeps the line again").await;
    let (status, place) = joined(api, &sale, &buyers[8], None).await;
    assert_eq!(status, 201);
    tickets.push(text(&place["ticket"]));
    arrivals.push(place["arrival"].as_u64().expect("a number"));
    let different: HashSet<u64> = arrivals.iter().copied().collect();
    assert_eq!(different.len(), arrivals.len(), "{arrivals:?}");
    assert!(arrivals.is_sorted(), "{arrivals:?}");
    stands(api, &sale, &tickets[4], "left").await;
    for index in [3, 5, 6, 7, 8] {
        let (_, again) = joined(api, &sale, &buyers[index], None).await;
        assert_eq!(again["arrival"].as_u64(), Some(arrivals[index]), "buyer {index}");
        // Nobody further behind is inside before.
        for later in &tickets[index + 1..] {
            assert_ne!(poll(api, &sale, later).await["status"], "admitted");
        }
        buy(api, &sale, &buyers[index], &tickets[index], &format!("A-2-{}", index + 1)).await;
    }
    for instance in &house.instances {
        let ready = Api::over(&[instance]).get("/readyz").send().await.expect(200);
        assert_eq!(ready["status"], "ready");
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_goes_on_while_redis_refuses_everybody() {
    goes_on_without_redis(Fault::Refuse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_goes_on_while_redis_is_silent_to_everybody() {
    goes_on_without_redis(Fault::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_alone_does_not_reach_redis_says_so() {
    let house = House::new().await;
    let sale = Sale::new(&house.api, &house.instances[0], &Plan::default()).await;
    let buyers = Buyer::many(&house.instances[0].state, 3).await;
    let (alone, other) = (Api::over(&[&house.instances[0]]), Api::over(&[&house.instances[1]]));
    let ticket = buyers[0].join(&house.api, &sale).await;

    house.proxies[0].set(Fault::BlackHole);
    let started = Instant::now();
    eventually("the instance to be unready", || async {
        let reply = alone.get("/readyz").send().await;
        (reply.status == 503 && reply.body["checks"]["queue"] == "cut_off").then_some(())
    })
    .await;
    println!("cut off after {:?}", started.elapsed());
    assert_eq!(other.get("/readyz").send().await.expect(200)["status"], "ready");
    buyers[0].claim(&other, &sale, &ticket).await;
    let (status, place) = joined(&other, &sale, &buyers[1], None).await;
    assert_eq!((status, place["arrival"].as_u64()), (201, Some(1)));
    house.wait_for_charge(&sale, 0, "Redis keeps the line still").await;
    assert_eq!(alone.get("/readyz").send().await.status, 503);

    house.proxies[0].set(Fault::None);
    let started = Instant::now();
    eventually("the instance to be ready", || async {
        (alone.get("/readyz").send().await.status == 200).then_some(())
    })
    .await;
    println!("ready again after {:?}", started.elapsed());
    let (status, place) = joined(&alone, &sale, &buyers[2], None).await;
    assert_eq!((status, place["arrival"].as_u64()), (201, Some(2)));
    house.end().await;
}

/// The ranks of a draw, from what everybody may read.
async fn draw_of(api: &Api, sale: &Sale) -> Option<(u64, Permutation)> {
    let reply = api.get(&line(sale)).send().await;
    let draw = &reply.body["draw"];
    let (size, seed) = (draw["lobby_size"].as_u64()?, draw["seed"].as_str()?);
    let seed: [u8; 32] = hex_bytes(seed).try_into().expect("32 bytes");
    assert_eq!(draw["commitment"], commitment(&seed), "{}", reply.body);
    Some((size, Permutation::new(&seed, sale.concert.parse().expect("an id"), size)))
}

fn hex_bytes(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lobby_closes_once_though_redis_is_away() {
    let house = House::new().await;
    let api = &house.api;
    let lobby = house.instances[0].state.clock.now().minus(Duration::from_secs(10));
    let queue = json!({"order": "draw", "lobby_opens_at": lobby, "admit_per_second": 1000, "max_active": 50,
        "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(api, &house.instances[0], &Plan { queue, opens_in_secs: 600, ..Plan::default() }).await;
    let buyers = Buyer::many(&house.instances[0].state, 24).await;
    let join = async |buyer: &Buyer| {
        let (_, place) = joined(api, &sale, buyer, None).await;
        (text(&place["ticket"]), place["arrival"].as_u64().expect("a number"))
    };
    let mut places = join_all(buyers[..16].iter().map(join)).await;
    assert_eq!(poll(api, &sale, &places[0].0).await["status"], "lobby");
    assert!(draw_of(api, &sale).await.is_none());

    house.set(Fault::Refuse);
    house.wait_for_charge(&sale, 1, "MySQL keeps the lobby").await;
    places.extend(join_all(buyers[16..20].iter().map(join)).await);
    house.world.advance(Duration::from_secs(601));
    let started = Instant::now();
    let (size, ranks) = eventually("the draw", || draw_of(api, &sale)).await;
    println!("drawn after {:?}: {size} in the lobby", started.elapsed());
    places.extend(join_all(buyers[20..].iter().map(join)).await);
    let expected = |arrival: u64| ranks.rank_of(arrival).unwrap_or(arrival);
    let check = async || {
        let mut seen = HashSet::new();
        for (index, (ticket, arrival)) in places.iter().enumerate() {
            assert_eq!(*arrival < size, index < 20, "arrival {arrival} of buyer {index}, and {size} in the lobby");
            let place = eventually("the rank", || async {
                let place = poll(api, &sale, ticket).await;
                (!place["rank"].is_null()).then_some(place)
            })
            .await;
            assert_eq!(place["rank"].as_u64(), Some(expected(*arrival)), "{place}");
            assert!(seen.insert(expected(*arrival)), "a rank twice");
        }
    };
    check().await;

    house.set(Fault::None);
    house.wait_for_charge(&sale, 0, "Redis keeps the drawn line").await;
    let again = draw_of(api, &sale).await.expect("it stays").0;
    assert_eq!(again, size, "a lobby closes once");
    check().await;
    let claim = async |(index, (ticket, _)): (usize, &(String, u64))| buyers[index].claim(api, &sale, ticket).await;
    let passes: HashSet<String> = join_all(places.iter().enumerate().map(claim)).await.into_iter().collect();
    assert_eq!(passes.len(), places.len());
    house.end().await;
}

/// How often a script that was made to count in `head` ran.
async fn runs(world: &World, head: &str) -> u64 {
    let client = world.redis().await;
    let runs: Option<u64> = client.get(format!("{head}:runs")).await.expect("a count");
    client.quit().await.expect("closing");
    runs.unwrap_or(0)
}

/// A cold answer that is still on its way while another instance makes the line says nothing of that line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_older_than_the_line_does_not_make_it_anew() {
    let world = World::with(&[("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "60000")]).await;
    let instance = world.instance().await;
    let api = Api::over(&[&instance]);
    let sale = Sale::new(&api, &instance, &Plan::default()).await;
    let concert: ConcertId = sale.concert.parse().expect("an id");
    Buyer::new(&api).await.join(&api, &sale).await;
    instance.stop().await;

    // Another instance has raised the epoch, and has not made the line yet.
    world.wipe_redis().await;
    let raise = "UPDATE queue_sales SET epoch = epoch + 1 WHERE concert_id = ?";
    sqlx::query(raise).bind(concert).execute(&mut world.sql().await).await.expect("a new epoch");
    let find = "SELECT epoch, issued_ceiling FROM queue_sales WHERE concert_id = ?";
    let row = async || -> (u32, u64) {
        sqlx::query_as(find).bind(concert).fetch_one(&mut world.sql().await).await.expect("a sale")
    };
    let (epoch, ceiling) = row().await;

    let cold = "if is_cold(made) then return {'cold'} end";
    let counted = format!("redis.call('INCR', KEYS[1] .. ':runs') {cold}");
    let counting = Sabotage::of_lua("Gives a user a place", cold, &counted);
    let proxy = Proxy::sabotaging(address_of(&server("FRONTROW__REDIS__URL")), counting).await;
    proxy.set(Fault::Delay(Duration::from_millis(100)));
    let (name, url) = world.redis_through(&proxy);
    let (state, maker) = (world.state(&[(name, &url)]), world.state(&[]));
    let head = maker.redis.key(&format!("{{sale:{concert}}}:head"));
    let queue = state.queue.clone();
    let join = tokio::spawn(async move { queue.join(concert, UserId::new(), None).await });
    eventually("the line to be asked", || async { (runs(&world, &head).await > 0).then_some(()) }).await;
    proxy.set(Fault::BlackHole);
    let line = Remembered {
        ceiling,
        serving: 0,
        gaps: String::new(),
        ghosts: Vec::new(),
        lobby_size: None,
        claim_secs: 60,
        closes_at: maker.clock.now().plus(Duration::from_hours(1)),
        slots: Vec::new(),
    };
    maker.queue.store(InCharge::Usual).rebuild(At { concert, epoch }, &line).await.expect("a line");
    proxy.set(Fault::None);
    let (_, place, is_new) = join.await.expect("an end").expect("a place");
    assert_eq!((place.arrival, is_new), (ceiling, true));
    assert_eq!(row().await.0, epoch, "the line was made anew");
    for state in [state, maker] {
        state.redis.close().await;
        state.db.close().await;
    }
    world.end(Vec::new()).await;
}

/// An instance that makes the line anew looks up who had left, and the lobby is drawn before the line hears of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_given_up_are_told_though_the_draw_comes_between() {
    let world = World::new().await;
    let instance = world.instance().await;
    let api = Api::over(&[&instance]);
    let lobby = instance.state.clock.now().minus(Duration::from_secs(10));
    let queue = json!({"order": "draw", "lobby_opens_at": lobby, "admit_per_second": 1000, "max_active": 50,
        "claim_secs": 60, "session_secs": 600});
    let sale = Sale::new(&api, &instance, &Plan { queue, opens_in_secs: 600, ..Plan::default() }).await;
    let concert: ConcertId = sale.concert.parse().expect("an id");
    let buyers = Buyer::many(&instance.state, 3).await;
    let mut tickets = Vec::new();
    for buyer in &buyers {
        tickets.push(buyer.join(&api, &sale).await);
    }
    let leave = api.delete(&format!("{}/tickets/me", line(&sale))).bearer(&buyers[1].token).ticket(&tickets[1]);
    assert_eq!(leave.send().await.status, 204);
    world.advance(Duration::from_secs(601));
    eventually("the draw", || draw_of(&api, &sale)).await;
    instance.stop().await;
    world.wipe_redis().await;

    // The line says so more often than it is told at once.
    let cold = "if is_cold() then return {'cold'} end";
    let drawn = format!("{cold} if redis.call('INCR', KEYS[1] .. ':runs') <= 5 then return {{'drawn'}} end");
    let broken = Sabotage::of_lua("Tells a line that was made anew", cold, &drawn);
    let proxy = Proxy::sabotaging(address_of(&server("FRONTROW__REDIS__URL")), broken).await;
    let (name, url) = world.redis_through(&proxy);
    let state = world.state(&[(name, &url)]);
    let head = state.redis.key(&format!("{{sale:{concert}}}:head"));
    let kept = state.queue.get_sale(concert).await.expect("a sale");
    eventually("the line to be there", || async {
        state.queue.tick(&kept).await.expect("the line moves");
        kept.view(|now| now.snapshot.at).map(drop)
    })
    .await;
    assert_eq!(runs(&world, &head).await, 4, "it is not asked for ever");
    state.queue.keep_up(&kept, true).await.expect("the rest is told");
    assert_eq!(runs(&world, &head).await, 6);
    state.queue.tick(&kept).await.expect("the line moves");
    let standing =
        async |ticket: &String| state.queue.find_place(concert, Some(ticket)).await.expect("a place").standing;
    assert_eq!(standing(&tickets[1]).await, Standing::Left);
    assert_ne!(standing(&tickets[0]).await, Standing::Left);
    state.queue.keep_up(&kept, true).await.expect("nothing is left to be told");
    assert_eq!(runs(&world, &head).await, 6);
    state.redis.close().await;
    state.db.close().await;
    world.end(Vec::new()).await;
}
