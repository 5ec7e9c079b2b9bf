//! The API document: generated from the handlers, completed with what all of them share, and browsable.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder,
};

/// The document before any route is added.
pub(super) fn head() -> OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("From POST /v1/sessions")).build();
    let components = ComponentsBuilder::new().security_scheme("bearer", SecurityScheme::Http(bearer)).build();
    let info = InfoBuilder::new()
        .title("frontrow")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Sells concert seats: a waiting line, holds, payment, tickets."))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// Adds the answers that any operation may give, where its handler does not describe them itself.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let shared = [
        ("400", "malformed_json, or an unreadable body"),
        ("413", "payload_too_large"),
        ("415", "unsupported_media_type"),
        ("422", "invalid_body or invalid_parameter, with errors"),
        ("429", "rate_limited, with Retry-After"),
        ("500", "internal"),
        ("503", "overloaded, read_only, unavailable or timed_out, with Retry-After"),
    ];
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            operation.operation_id = Some(operation_id(method, path));
            let signed_in = operation.security.is_some();
            let mut add = |status: &str, text: &str| {
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem(text)));
            };
            for (status, text) in shared {
                add(status, text);
            }
            if signed_in {
                add("401", "unauthenticated");
                add("403", "forbidden");
            }
        }
    }
    document
}

/// `get_concerts_by_id_queue`: handlers of different features may share a name, ids must not.
fn operation_id(method: &str, path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != "v1");
    let words = parts.map(|part| match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => format!("by_{name}"),
        None => part.replace('-', "_"),
    });
    std::iter::once(method.to_owned()).chain(words).collect::<Vec<String>>().join("_")
}

fn problem(text: &str) -> utoipa::openapi::Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody"))).build();
    ResponseBuilder::new().description(text).content("application/problem+json", content).build()
}

/// `/openapi.json` and `/docs`, whose assets are in the binary.
pub(super) fn pages(document: &OpenApi) -> Router {
    let text = document.to_json().unwrap_or_else(|error| {
        tracing::error!(%error, "the API document cannot be written");
        "{}".to_owned()
    });
    let json = HeaderValue::from_static("application/json");
    let show = move || async move { ([(header::CONTENT_TYPE, json)], text).into_response() };
    let docs = utoipa_swagger_ui::SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json"));
    Router::new().route("/openapi.json", get(show)).merge(docs)
}
