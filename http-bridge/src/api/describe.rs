//! The common part of all endpoints' descriptions: headers, and the problems that each may answer
//! with.

use types::Reason;
use utoipa::{
    PartialSchema as _,
    openapi::{
        Components, ContentBuilder, Header, HeaderBuilder, InfoBuilder, License, ObjectBuilder,
        OpenApi as Document, OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Type,
        example::ExampleBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::{
    input::{CORRELATION_LEN_MAX, KEY_LEN_MAX},
    problem::{MEDIA_TYPE, Problem, ProblemBody, ProblemType},
};

const INTRODUCTION: &str = "\
Orders, stock, payment, and a checkout that takes effect as a whole or not at all.

* No endpoint needs a body; amounts are integers of at most 9007199254740991; ids are opaque texts.
* Every POST and DELETE may be repeated. With an `Idempotency-Key` it takes effect at most once: after a \
success the repeated call gets the first answer, while a refusal is not remembered. The key belongs to one \
method and path; another call with it is refused with 422.
* 2xx is done. 4xx is refused, and nothing was changed. 503 has no definite result: with `UNAVAILABLE` nothing was \
done, with `OUTCOME_UNKNOWN` it may have been. Repeat the call with the same key, after the seconds in `Retry-After`.
* Every refusal is an `application/problem+json` (RFC 9457), without ids or amounts.";

/// Name of the security scheme for API keys.
const API_KEY: &str = "api_key";
const NO_SCOPES: [&str; 0] = [];

/// The description without its paths: title, version, license and tags.
pub(super) fn head() -> Document {
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    let tag =
        |name, description| TagBuilder::new().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Till")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(INTRODUCTION))
                .license(Some(license))
                .build(),
        )
        .tags(Some([
            tag("orders", "Orders, and their checkout."),
            tag("stock", "Items, their price and how many are left."),
            tag("payment", "Users and their credit."),
            tag("operations", "Probes, and the explanation of problems."),
        ]))
        .build()
}

/// Adds what all operations share.
pub(super) fn complete(mut document: Document) -> Document {
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert("Problem".to_owned(), ProblemBody::schema());
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("Required only if the bridge has a file of API keys."))
        .build();
    components.add_security_scheme(API_KEY, SecurityScheme::Http(key));
    for (path, item) in &mut document.paths.paths {
        let probe = path == "/healthz" || path == "/readyz";
        let changes = [item.post.as_mut(), item.delete.as_mut()];
        for operation in changes.into_iter().flatten() {
            add_problems(operation, &[400, 401, 403, 413, 421, 422, 429, 431, 500, 503]);
            add_parameter(operation, idempotency_key());
            // Either a key or none, depending on the bridge's settings.
            let either =
                [SecurityRequirement::default(), SecurityRequirement::new(API_KEY, NO_SCOPES)];
            operation.security = Some(either.into());
            finish(operation, path);
        }
        if let Some(operation) = item.get.as_mut() {
            add_problems(operation, &[400, 421, 431]);
            add_problems(operation, if probe { &[413] } else { &[413, 429, 500] });
            add_problems(operation, if path.starts_with("/problems") { &[] } else { &[503] });
            finish(operation, path);
        }
    }
    document
}

fn add_problems(operation: &mut Operation, statuses: &[u16]) {
    for status in statuses {
        let response = ResponseBuilder::new().description(general(*status)).build();
        operation.responses.responses.entry(status.to_string()).or_insert(response.into());
    }
}

fn general(status: u16) -> &'static str {
    match status {
        400 => "A parameter of the path, or a header, is malformed; the member field names it.",
        401 => "The bridge requires an API key, and the request has no valid one.",
        403 => "A browser sent the call for a page of another origin.",
        413 => "The body is longer than 64 KiB.",
        421 => "The bridge listens on a loopback address, and the request names another host.",
        422 => "The Idempotency-Key was used for another method or path.",
        429 => "Overload; nothing was begun.",
        431 => "The head is longer than 64 KiB.",
        503 => {
            "UNAVAILABLE: nothing was done. OUTCOME_UNKNOWN: it may have been, or is still under way."
        }
        _ => "A bug, or damaged data.",
    }
}

fn add_parameter(operation: &mut Operation, parameter: Parameter) {
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}

fn text(least: usize, most: usize, pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(least))
        .max_length(Some(most))
        .pattern(Some(pattern))
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Makes the call take effect at most once, however often it is repeated: new for each call, \
             the same for its repetitions. Visible ASCII, not beginning with '~'.",
        ))
        // No example and no pattern, because tools make an example value from either. If all calls
        // of a collection carry the same key, they are refused or get an earlier answer.
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(KEY_LEN_MAX)),
        ))
        .build()
}

fn correlation_id() -> Parameter {
    ParameterBuilder::new()
        .name("X-Request-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Finds this request in logs and traces; echoed. Visible ASCII of at most 128 bytes; another \
             one is replaced.",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// Adds X-Request-Id, Retry-After and the bodies of problems.
fn finish(operation: &mut Operation, path: &str) {
    add_parameter(operation, correlation_id());
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let echoed = HeaderBuilder::new()
            .description(Some("The request's own id, or a new one."))
            .schema(Some(text(1, CORRELATION_LEN_MAX, "^[!-~]+$")))
            .build();
        response.headers.insert("X-Request-Id".to_owned(), echoed.into());
        if status.starts_with('2') {
            continue;
        }
        if status == "429" || status == "503" {
            response.headers.insert("Retry-After".to_owned(), retry_after().into());
        }
        add_body(status, response, path);
    }
}

fn retry_after() -> Header {
    HeaderBuilder::new()
        .description(Some("Seconds to wait before the call is repeated."))
        .schema(Some(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1))))
        .build()
}

fn add_body(status: &str, response: &mut Response, path: &str) {
    let examples = examples(status, &response.description, path).into_iter().map(|problem| {
        let body = serde_json::to_value(problem.body()).unwrap_or_default();
        (problem.reason().to_owned(), ExampleBuilder::new().value(Some(body)).build())
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples)
        .build();
    response.content.insert(MEDIA_TYPE.to_owned(), content.into());
}

/// Examples of the body, where they are known beforehand.
fn examples(status: &str, description: &str, path: &str) -> Vec<Problem> {
    match status {
        "400" => vec![Problem::invalid("Idempotency-Key", &"must occur once")],
        "401" => vec![Problem::no_api_key()],
        "403" => vec![Problem::cross_origin()],
        "404" => {
            let of = [
                ("{order_id}", Reason::OrderNotFound),
                ("{item_id}", Reason::ItemNotFound),
                ("{user_id}", Reason::UserNotFound),
            ];
            let named = of.into_iter().filter(|(parameter, _)| path.contains(parameter));
            let mut problems: Vec<_> = named.map(|(_, reason)| Problem::of(reason)).collect();
            if problems.is_empty() {
                problems.push(Problem::no_such_path());
            }
            // A payment looks up no order, and the removal of a line looks up no item.
            if path.starts_with("/payment") {
                problems.retain(|problem| problem.reason() == Reason::UserNotFound.as_str());
            } else if path.starts_with("/orders/removeItem") {
                problems.retain(|problem| problem.reason() == Reason::OrderNotFound.as_str());
            }
            problems
        }
        "413" => vec![Problem::body_too_large()],
        "421" => vec![Problem::unknown_host()],
        "431" => vec![Problem::head_too_large()],
        _ => Reason::ALL
            .iter()
            .filter(|reason| {
                let same_status = ProblemType::of(**reason).status.as_str() == status;
                same_status && (status != "409" || description.contains(reason.as_str()))
            })
            .filter(|reason| **reason != Reason::OrderChanged)
            .map(|reason| Problem::of(*reason))
            .collect(),
    }
}
