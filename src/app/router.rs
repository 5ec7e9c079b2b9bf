//! Every route group on one page, and the layers around them.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::{Extension, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use tower_http::limit::RequestBodyLimitLayer;
use utoipa_axum::router::OpenApiRouter;

use super::state::State;
use super::{audit, openapi, operations};
use crate::accounts::{AccountRoutes, LetterLimits};
use crate::booking::holds::http::HoldRoutes;
use crate::booking::statistics::Statistics;
use crate::platform::http::edge::{self, Edge};
use crate::platform::http::{TrustedProxies, etag};
use crate::platform::shutdown::Shutdown;
use crate::queue::http::QueueRoutes;
use crate::queue::{JoinLimits, Listeners};
use crate::{accounts, booking, catalog, notices, payments, points, queue};

/// The routes that the API document describes.
pub fn routes(state: &State, shutdown: &Shutdown) -> OpenApiRouter {
    let holds = HoldRoutes { holds: state.holds.clone(), seats_max: state.config.booking.hold_seats_max };
    let lines = QueueRoutes::new(
        state.queue.clone(),
        JoinLimits::new(&state.config.limits, &state.clock),
        state.accounts.clone(),
        Listeners::new(&state.config.queue, shutdown.clone()),
    );
    let letters = LetterLimits::new(&state.config.limits, &state.clock);
    let people = AccountRoutes { accounts: state.accounts.clone(), letters };
    let statistics = Statistics { db: state.db.clone(), queue: state.queue.clone(), seats: state.seats.clone() };
    OpenApiRouter::with_openapi(openapi::head())
        .merge(accounts::http::router(people))
        .merge(catalog::http::router(state.catalog.clone()))
        .merge(queue::http::router(lines))
        .merge(booking::seats::http::router(state.seats.clone()))
        .merge(booking::holds::http::router(holds))
        .merge(booking::reservations::http::router(state.checkout.clone()))
        .merge(booking::tickets::http::router(state.gate.clone()))
        .merge(points::http::router(state.points.clone()))
        .merge(payments::http::router(state.provider_events.clone()))
        .merge(accounts::admin::router(state.accounts.clone()))
        .merge(catalog::admin::router(state.catalog.clone()))
        .merge(catalog::warming::admin::router(state.warmer.clone()))
        .merge(queue::admin::router(state.queue.clone()))
        .merge(booking::seats::admin::router(state.blocks.clone()))
        .merge(booking::reservations::admin::router(state.checkout.clone()))
        .merge(booking::tickets::admin::router(state.gate.clone()))
        .merge(booking::aftermath::admin::router(state.aftermath.clone()))
        .merge(booking::statistics::admin::router(statistics))
        .merge(notices::webhooks::admin::router(state.webhooks.clone()))
        .merge(audit::router(state.db.clone(), state.config.jobs.clone()))
        .merge(operations::router())
}

/// The whole server.
pub fn router(state: &State, shutdown: &Shutdown) -> Router {
    router_with(state, shutdown, Router::new())
}

/// The whole server with `others` beside its own routes and behind the same layers: what a benchmark compares them with.
pub fn router_with(state: &State, shutdown: &Shutdown, others: Router) -> Router {
    let probes = operations::probes(Arc::new(state.clone()), shutdown.clone());
    let (router, document) = routes(state, shutdown).merge(probes).split_for_parts();
    let document = openapi::complete(&document);
    let http = &state.config.http;
    // A compressor would hold events back until it has enough of them.
    let worth_compressing = SizeAbove::new(etag::PACK_ABOVE as u64)
        .and(NotForContentType::SSE)
        .and(|_, _, headers: &HeaderMap, _: &_| etag::is_left_to_the_layer(headers));
    let proxies = TrustedProxies(Arc::new(state.config.limits.trusted_proxies.clone()));
    router
        .merge(openapi::pages(&document))
        .merge(others)
        .method_not_allowed_fallback(edge::no_method)
        .fallback(edge::no_route)
        .layer(CompressionLayer::new().compress_when(worth_compressing))
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(http.body_bytes_max))
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(Extension(state.accounts.clone()))
        .layer(Extension(proxies))
        .layer(middleware::from_fn_with_state(Edge::new(http, shutdown.clone()), edge::pass))
}
