//! Who may import whom.
//!
//! Between features, `main → app → {pages, queue, booking, shop} → {catalog, payments, points, accounts,
//! notices} → platform`, never upward and never sideways, but for what [`SIDEWAYS`] lists: either the path as written or
//! the place where the thing is declared must be on that list.
//!
//! Inside a feature, `http, admin, jobs → service → store, redis → domain`, never upward, re-exports seen
//! through; `store` and `redis` do not know each other. `mod.rs` only re-exports, and is free to. Other files
//! of a feature stand beside its service: they know nothing of `http` and `admin`. Unit tests obey as well.

use crate::paths::{Modules, Named, module_of};
use crate::source::Source;
use crate::tree::{Complaint, Tree, at, obeys, refuses};

/// The layers, lowest first.
const LAYERS: &[&[&str]] = &[
    &["platform"],
    &["catalog", "payments", "points", "accounts", "notices"],
    &["pages", "queue", "booking", "shop"],
    &["app"],
];

/// What may be imported from a feature of one's own layer: from whom, by whom, what, why.
struct Sideways {
    from: &'static str,
    allows: fn(importer: &[String], path: &[String]) -> bool,
    reason: &'static str,
}

const SIDEWAYS: &[Sideways] = &[
    Sideways {
        from: "queue",
        allows: |importer, path| importer[0] == "booking" && path.get(1).is_some_and(|part| part == "pass"),
        reason: "booking may import queue::pass alone: holding seats needs a live pass",
    },
    Sideways {
        from: "accounts",
        allows: |_, path| item(path) == Some("UserId"),
        reason: "accounts::UserId may be named anywhere above platform: everything belongs to somebody",
    },
    Sideways {
        from: "accounts",
        allows: |importer, path| is_edge(importer) && matches!(item(path), Some("Buyer" | "Operator")),
        reason: "http and admin name accounts::{Buyer, Operator}: who asks is part of a handler's signature",
    },
    Sideways {
        from: "payments",
        allows: |importer, _| importer[0] == "points",
        reason: "points may import payments: a charge by card is a payment, of which payments knows nothing but the trait",
    },
    Sideways {
        from: "catalog",
        allows: |_, path| item(path).is_some_and(|name| name.ends_with("Id")) && is_declared_in_domain(path),
        reason: "ids of catalog's domain may be named anywhere above platform: they are what is sold",
    },
];

fn layer(feature: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&feature))
}

/// The type that a path names, whatever follows it.
fn item(path: &[String]) -> Option<&str> {
    path.iter().map(String::as_str).find(|part| part.starts_with(|char: char| char.is_ascii_uppercase()))
}

fn is_declared_in_domain(path: &[String]) -> bool {
    path.get(1).is_some_and(|part| part == "domain" || Some(part.as_str()) == item(path))
}

fn is_edge(module: &[String]) -> bool {
    matches!(role(module), Some("http" | "admin"))
}

/// `http`, `store` and the like: the part of a feature's path that says what a file is for.
fn role(module: &[String]) -> Option<&str> {
    let known = ["http", "admin", "jobs", "service", "store", "redis", "domain"];
    module.iter().skip(1).map(String::as_str).find(|part| known.contains(part))
}

fn is_root(path: &str) -> bool {
    matches!(path, "src/lib.rs" | "src/main.rs")
}

fn layers(tree: &Tree) -> Vec<Complaint> {
    let modules = Modules::of(tree);
    let mut complaints = Vec::new();
    for source in tree.program().filter(|source| !is_root(&source.path)) {
        let importer = module_of(&source.path);
        let Some(above) = layer(&importer[0]) else {
            complaints.push(at(source, 0, format!("{} has no place in the folder plan", importer[0])));
            continue;
        };
        for named in modules.named_in(source) {
            let Some(below) = named.path.first().and_then(|first| layer(first)) else { continue };
            if let Some(what) = objection(&importer, above, &named, below) {
                complaints.push(at(source, named.at, what));
            }
        }
    }
    complaints
}

fn objection(importer: &[String], above: usize, named: &Named, below: usize) -> Option<String> {
    let path = &named.path;
    if importer[0] == path[0] || below < above {
        return None;
    }
    let shown = format!("{} names {}", importer[0], path.join("::"));
    if below > above {
        return Some(format!("{shown}, which is above it: declare a trait here and let app wire it"));
    }
    if is_meant(importer, path) || is_meant(importer, &named.origin) {
        return None;
    }
    let allowed: Vec<&str> = SIDEWAYS.iter().filter(|rule| rule.from == path[0]).map(|rule| rule.reason).collect();
    let only = if allowed.is_empty() { String::new() } else { format!(" ({})", allowed.join("; ")) };
    Some(format!("{shown}, which is beside it{only}"))
}

fn is_meant(importer: &[String], path: &[String]) -> bool {
    let is_from = |rule: &&Sideways| path.first().is_some_and(|first| first == rule.from);
    SIDEWAYS.iter().filter(is_from).any(|rule| (rule.allows)(importer, path))
}

fn roles(tree: &Tree) -> Vec<Complaint> {
    let modules = Modules::of(tree);
    let mut complaints = Vec::new();
    for source in tree.program().filter(|source| !source.path.ends_with("/mod.rs")) {
        let importer = module_of(&source.path);
        let is_feature = importer.first().and_then(|first| layer(first)).is_some_and(|layer| (1..=2).contains(&layer));
        if is_feature && importer.len() > 1 {
            complaints.extend(upward_inside(source, &importer, &modules));
        }
    }
    complaints
}

fn upward_inside(source: &Source, importer: &[String], modules: &Modules) -> Vec<Complaint> {
    let own = role(importer);
    let forbidden: &[&str] = match own {
        Some("domain") => &["store", "redis", "service", "jobs", "http", "admin"],
        Some("store") => &["redis", "service", "jobs", "http", "admin"],
        Some("redis") => &["store", "service", "jobs", "http", "admin"],
        Some("service") => &["jobs", "http", "admin"],
        Some(_) => &[],
        None => &["http", "admin"],
    };
    let own = own.map_or_else(|| importer[1..].join("::"), str::to_owned);
    let mut complaints = Vec::new();
    for named in modules.named_in(source) {
        let paths = [&named.origin, &named.path].into_iter().filter(|path| path.first() == importer.first());
        let upward = paths.filter_map(|path| Some((path, role(path).filter(|target| forbidden.contains(target))?)));
        if let Some((path, target)) = upward.into_iter().next() {
            complaints.push(at(
                source,
                named.at,
                format!("{own} names {}: it knows nothing of {target}", path.join("::")),
            ));
        }
    }
    complaints
}

#[test]
fn imports_go_down() {
    obeys(layers);
}

#[test]
fn imports_go_down_or_are_refused() {
    refuses(
        layers,
        &[
            ("src/platform/db.rs", "use crate::{catalog::ConcertId, platform::clock};"),
            ("src/points/service.rs", "use crate::queue::ConcertId;"),
            ("src/shop/http.rs", "fn a() { crate::booking::hold() }"),
            ("src/queue/mod.rs", "pub use pass::Passes;\npub use crate::catalog::ConcertId;"),
            ("src/queue/pass.rs", "pub use super::domain::CLOSED;"),
            ("src/booking/service.rs", "use crate::queue::{Passes, pass::CLOSED};\nuse crate::queue::Sale;"),
            ("src/payments/service.rs", "use crate::catalog::{ConcertId, Concert};\nuse crate::accounts::Buyer;"),
            ("src/payments/http.rs", "use crate::accounts::{Buyer, UserId};\nuse crate::accounts::service;"),
            ("src/misc.rs", ""),
        ],
        &[
            "src/platform/db.rs:1 platform names catalog::ConcertId, which is above it",
            "src/points/service.rs:1 points names queue::ConcertId, which is above it",
            "src/shop/http.rs:1 shop names booking::hold, which is beside it",
            "src/booking/service.rs:2 booking names queue::Sale, which is beside it (booking may import queue::pass",
            "src/payments/service.rs:1 payments names catalog::Concert, which is beside it (ids",
            "src/payments/service.rs:2 payments names accounts::Buyer, which is beside it (accounts::UserId",
            "src/payments/http.rs:2 payments names accounts::service, which is beside it",
            "src/misc.rs:1 misc has no place",
        ],
    );
}

#[test]
fn imports_go_down_inside_a_feature() {
    obeys(roles);
}

#[test]
fn imports_go_down_inside_a_feature_or_are_refused() {
    refuses(
        roles,
        &[
            ("src/queue/mod.rs", "pub use service::Queue;"),
            ("src/queue/service.rs", "use super::http::Body;\nuse super::store;"),
            ("src/queue/domain.rs", "use super::store::Row;"),
            ("src/queue/store.rs", "use super::{Queue, domain::Rank};"),
            ("src/queue/redis.rs", "fn a() { crate::queue::store::find() }"),
            ("src/queue/draw.rs", "use super::admin;\nuse super::store;"),
            ("src/queue/http.rs", "use super::service::Queue;"),
        ],
        &[
            "src/queue/service.rs:1 service names queue::http::Body",
            "src/queue/domain.rs:1 domain names queue::store::Row",
            "src/queue/store.rs:1 store names queue::service::Queue",
            "src/queue/redis.rs:1 redis names queue::store::find",
            "src/queue/draw.rs:1 draw names queue::admin",
        ],
    );
}
