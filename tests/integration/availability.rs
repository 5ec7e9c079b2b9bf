//! Who polls the seats left gets them once, until they change.

use std::time::Duration;

use crate::support::{Api, Buyer, Sale, World, arena::Plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_picture_is_not_sent_again_however_often_it_is_read() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let buyer = Buyer::new(&api).await;
    let pass = buyer.enter(&api, &sale).await;
    let path = format!("/v1/performances/{}/availability", sale.performances[0]);
    let first = api.get(&path).send().await;
    let tag = first.header("etag").expect("a tag").to_owned();
    for _ in 0..3 {
        // Older than a picture may be, so that it is read anew.
        world.advance(Duration::from_secs(2));
        assert_eq!(api.get(&path).header("if-none-match", &tag).send().await.status, 304);
        assert_eq!(api.get(&path).send().await.bytes, first.bytes);
    }
    buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    world.advance(Duration::from_secs(2));
    let changed = api.get(&path).header("if-none-match", &tag).send().await.expect(200);
    assert!(changed["version"].as_u64() > first.body["version"].as_u64());
    assert_eq!(changed["available"], 19);
    assert_ne!(changed["as_of"], first.body["as_of"]);
    world.end(vec![one]).await;
}

/// Each instance has versions and times of its own, but whoever has read a picture from one of them has that of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_is_known_to_every_instance_by_the_same_tag() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let apis = [Api::over(&[&one]), Api::over(&[&two])];
    let sale = Sale::new(&apis[0], &one, &Plan::default()).await;
    let buyer = Buyer::new(&apis[0]).await;
    let pass = buyer.enter(&apis[0], &sale).await;
    let path = format!("/v1/performances/{}/availability", sale.performances[0]);
    let mut tags = Vec::new();
    for seat in ["A-1-1", "A-1-2"] {
        // Older than a picture may be, so that it is read anew.
        world.advance(Duration::from_secs(2));
        let shown = [apis[0].get(&path).send().await, apis[1].get(&path).send().await];
        let [tag, other] = shown.each_ref().map(|reply| reply.header("etag").expect("a tag").to_owned());
        assert_eq!(tag, other, "{shown:?}");
        for api in &apis {
            assert_eq!(api.get(&path).header("if-none-match", &tag).send().await.status, 304);
        }
        tags.push(tag);
        buyer.hold(&apis[0], &sale.performances[0], &pass, &[seat]).await;
    }
    assert_ne!(tags[0], tags[1]);
    world.end(vec![one, two]).await;
}
