//! The API document: generated from the handlers, completed with what all of them share, and browsable.
//!
//! A handler describes what is its own; whatever follows from the kind of operation (it takes a body, it needs a token,
//! it has parameters) is added here once, so that no answer is forgotten at one of them.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};

use crate::platform::http::{keyed, page};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// Whose members depend on which kind they are: the generator does not see that serde refuses any other.
const TAGGED: [&str; 1] = ["PaymentBody"];
/// What the server answers by itself, with or without a handler's say.
const ALWAYS: [(&str, &str); 6] = [
    ("408", "request_timeout"),
    ("413", "payload_too_large"),
    ("429", "rate_limited"),
    ("431", "head_too_large"),
    ("500", "internal"),
    ("503", "overloaded, read_only, unavailable or timed_out"),
];

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

/// The whole document, with what the operations have in common.
pub(super) fn complete(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_else(|error| {
        tracing::error!(%error, "the API document cannot be written");
        Value::Null
    });
    if let Some(components) = document["components"].as_object_mut() {
        components.insert("headers".to_owned(), headers());
        // The generator has no word for it.
        for name in ["HoldBody", "BlockBody"] {
            components["schemas"][name]["properties"]["seat_ids"]["uniqueItems"] = true.into();
        }
        for name in TAGGED {
            for variant in components["schemas"][name]["oneOf"].as_array_mut().into_iter().flatten() {
                variant["additionalProperties"] = false.into();
            }
        }
    }
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
                operation.insert("operationId".to_owned(), operation_id(method, path).into());
                complete_parameters(operation);
                complete_responses(operation);
            }
        }
    }
    document
}

/// Headers of answers, by the names under which [`complete_responses`] refers to them.
fn headers() -> Value {
    json!({
        "RequestId": {"required": true, "description": "The client's X-Request-Id if it is sane, else a new one.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 64}},
        "RetryAfter": {"required": true, "description": "Seconds to wait before the request is repeated.",
            "schema": {"type": "integer", "minimum": 0}},
        "Challenge": {"required": true, "description": "How to sign in.", "schema": {"type": "string"}},
        "ETag": {"required": true, "description": "For If-None-Match.", "schema": {"type": "string"}},
        "Replayed": {"description": "true where this is the answer to an earlier request with the same key.",
            "schema": {"type": "string", "enum": ["true"]}},
    })
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

/// Parameters of one name mean the same everywhere.
fn complete_parameters(operation: &mut Map<String, Value>) {
    let has_tag = operation["responses"].get("304").is_some();
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    let Some(parameters) = parameters.as_array_mut() else { return };
    if has_tag {
        parameters.push(json!({"name": "If-None-Match", "in": "header", "required": false,
            "description": "ETags that the client has", "schema": {"type": "string"}}));
    }
    for parameter in parameters {
        let schema = match parameter["name"].as_str() {
            Some("Idempotency-Key") => json!({"type": "string", "pattern": keyed::KEY_PATTERN}),
            Some("limit") => {
                json!({"type": "integer", "minimum": 1, "maximum": page::LIMIT_MAX, "default": page::LIMIT})
            }
            Some("cursor") => json!({"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}),
            _ => continue,
        };
        parameter["schema"] = schema;
    }
}

fn complete_responses(operation: &mut Map<String, Value>) {
    let facts = Facts::of(operation);
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, text) in facts.refusals() {
        responses.entry(status).or_insert_with(|| json!({"description": text}));
    }
    let has_tag = responses.contains_key("304");
    for (status, response) in responses {
        let Some(response) = response.as_object_mut() else { continue };
        let is_described = response.get("description").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        if !is_described {
            response.insert("description".to_owned(), usual(status).into());
        }
        if status.as_str() >= "400" {
            let content = response.entry("content").or_insert_with(|| json!({}));
            content["application/problem+json"] = json!({"schema": {"$ref": "#/components/schemas/ProblemBody"}});
        }
        let mut headers = vec![("X-Request-Id", "RequestId")];
        match status.as_str() {
            "401" => headers.push(("WWW-Authenticate", "Challenge")),
            "429" | "503" => headers.push(("Retry-After", "RetryAfter")),
            "200" | "304" if has_tag => headers.push(("ETag", "ETag")),
            "201" | "202" if facts.is_keyed => headers.push(("Idempotency-Replayed", "Replayed")),
            _ => {}
        }
        let named = headers
            .into_iter()
            .map(|(name, reference)| (name.to_owned(), json!({"$ref": format!("#/components/headers/{reference}")})));
        response.insert("headers".to_owned(), Value::Object(named.collect()));
    }
}

/// What a status says where the handler adds nothing.
fn usual(status: &str) -> &'static str {
    match status {
        "200" => "As it is now",
        "201" => "Created",
        "202" => "Not decided yet",
        "204" => "Done",
        "304" => "Unchanged: the ETag in If-None-Match is current",
        "403" => "forbidden",
        "404" => "not_found: there is no such thing, or it is not yours",
        "409" => "The present state does not allow it",
        "422" => "invalid_body or invalid_parameter, with errors",
        _ => "See the problem's code",
    }
}

/// What an operation is, as far as its refusals follow from it.
#[expect(clippy::struct_excessive_bools, reason = "each is a question with two answers")]
struct Facts {
    has_body: bool,
    has_parameters: bool,
    is_keyed: bool,
    is_signed_in: bool,
    is_operators: bool,
}

impl Facts {
    fn of(operation: &Map<String, Value>) -> Self {
        let parameters = operation.get("parameters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let is_keyed = parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key");
        let tags = operation.get("tags").and_then(Value::as_array);
        Self {
            has_body: operation.contains_key("requestBody"),
            has_parameters: is_keyed || parameters.iter().any(|parameter| parameter["in"] != "header"),
            is_keyed,
            is_signed_in: operation.contains_key("security"),
            is_operators: tags.is_some_and(|tags| tags.iter().any(|tag| tag == "operator")),
        }
    }

    /// Each with the codes that it has.
    fn refusals(&self) -> Vec<(&'static str, &'static str)> {
        let mut refusals = ALWAYS.to_vec();
        if self.has_body {
            refusals.push(("400", "malformed_json, idempotency_key_missing or malformed_request"));
            refusals.push(("415", "unsupported_media_type"));
        } else {
            refusals.push(("400", "malformed_request"));
        }
        if self.has_body || self.has_parameters {
            refusals.push(("422", "invalid_body, invalid_parameter or idempotency_key_reused"));
        }
        if self.is_keyed {
            refusals.push(("409", "idempotency_key_in_flight, with Retry-After"));
        }
        if self.is_signed_in {
            refusals.push(("401", "unauthenticated"));
        }
        if self.is_operators {
            refusals.push(("403", "forbidden"));
        }
        refusals
    }
}

/// `/openapi.json` and `/docs`, whose assets are in the binary.
pub(super) fn pages(document: &Value) -> Router {
    let text = document.to_string();
    let json = HeaderValue::from_static("application/json");
    let show = move || async move { ([(header::CONTENT_TYPE, json)], text).into_response() };
    let docs = utoipa_swagger_ui::SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json"));
    Router::new().route("/openapi.json", get(show)).merge(docs)
}
