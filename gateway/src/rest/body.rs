//! Validates request bodies against their schemas in the OpenAPI document. Reports all invalid fields at once.

use crate::error::{ApiError, InvalidField};
use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
};
use http::StatusCode;
use jsonschema::{Validator, error::ValidationErrorKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{sync::OnceLock, time::Duration};
use tokio::time::timeout;
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

/// Timeout of reading a body, for authenticated clients too.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A type of request bodies.
pub trait RequestBody: DeserializeOwned + ToSchema {
    /// The cached validator of this type.
    fn validator() -> &'static OnceLock<Validator>;
}

/// Implements [`RequestBody`] with a static validator for each type.
macro_rules! request_bodies {
    ($($document:ty),*) => {
        $(impl RequestBody for $document {
            fn validator() -> &'static OnceLock<Validator> {
                static VALIDATOR: OnceLock<Validator> = OnceLock::new();
                &VALIDATOR
            }
        })*
    };
}

request_bodies!(
    crate::rest::documents::CreateSession,
    crate::rest::documents::TokenRequest,
    crate::rest::documents::Login
);

/// A request body that matches its schema.
pub struct ValidatedJson<T>(pub T);

impl<T: RequestBody, S: Send + Sync> FromRequest<S> for ValidatedJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let read = timeout(BODY_TIMEOUT, Json::<Value>::from_request(request, state)).await;
        let Json(body) =
            read.map_err(|_| ApiError::BadBody(StatusCode::REQUEST_TIMEOUT, timeout_message()))?.map_err(rejected)?;
        check::<T>(&body)?;
        serde_json::from_value(body).map(Self).map_err(|error| invalid_body(error.to_string(), "value_error"))
    }
}

fn check<T: RequestBody>(body: &Value) -> Result<(), ApiError> {
    let validator = T::validator().get_or_init(validator::<T>);
    let errors: Vec<_> = validator.iter_errors(body).flat_map(|error| invalid_fields(&error)).collect();
    if errors.is_empty() { Ok(()) } else { Err(ApiError::Invalid(errors)) }
}

fn validator<T: RequestBody>() -> Validator {
    let mut referenced: Vec<(String, RefOr<Schema>)> = Vec::new();
    T::schemas(&mut referenced);
    let mut schema = serde_json::to_value(T::schema()).expect("a schema serializes");
    let components: serde_json::Map<_, _> =
        referenced.into_iter().map(|(name, schema)| (name, json!(schema))).collect();
    schema["components"] = json!({ "schemas": components });
    jsonschema::validator_for(&schema).expect("a test compiles every schema")
}

/// Translates a validation error to the fields that it is about.
fn invalid_fields(error: &jsonschema::ValidationError<'_>) -> Vec<InvalidField> {
    let at = |name: Option<&str>| {
        let path = error.instance_path().segments().map(|segment| segment.to_string());
        ["body".to_owned()].into_iter().chain(path).chain(name.map(str::to_owned)).collect()
    };
    let type_ = error.kind().keyword().to_owned();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| InvalidField { loc: at(Some(name)), msg: "unknown field".to_owned(), type_: type_.clone() })
            .collect(),
        ValidationErrorKind::Required { property } => {
            vec![InvalidField { loc: at(property.as_str()), msg: "the field is required".to_owned(), type_ }]
        }
        // The schema of a nullable field has an alternative of type null. Report the errors of the other alternative.
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            let is_null = |errors: &[jsonschema::ValidationError<'_>]| {
                errors.iter().any(|error| matches!(error.kind(), ValidationErrorKind::Type { .. }))
            };
            context.iter().filter(|errors| !is_null(errors)).flatten().flat_map(invalid_fields).collect()
        }
        _ => vec![InvalidField { loc: at(None), msg: error.to_string(), type_ }],
    }
}

fn rejected(rejection: JsonRejection) -> ApiError {
    match rejection {
        JsonRejection::JsonSyntaxError(error) => invalid_body(error.body_text(), "json_invalid"),
        other => ApiError::BadBody(other.status(), other.body_text()),
    }
}

fn timeout_message() -> String {
    format!("the request body did not arrive within {} s", BODY_TIMEOUT.as_secs())
}

fn invalid_body(msg: String, type_: &str) -> ApiError {
    ApiError::Invalid(vec![InvalidField { loc: vec!["body".to_owned()], msg, type_: type_.to_owned() }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::documents::{CreateSession, Login, TokenRequest};

    fn errors_of<T: RequestBody>(body: Value) -> Vec<String> {
        match check::<T>(&body) {
            Ok(()) => vec![],
            Err(ApiError::Invalid(fields)) => {
                let messages = fields.into_iter().map(|field| format!("{}: {}", field.loc.join("."), field.type_));
                messages.collect()
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn reports_every_invalid_field() {
        assert_eq!(errors_of::<CreateSession>(json!({})), [""; 0]);
        let all_null = json!({ "worker": null, "headless": null, "idle_ttl_seconds": null, "labels": null });
        assert_eq!(errors_of::<CreateSession>(all_null), [""; 0]);
        let body = json!({
            "worker": 7, "idle_ttl_seconds": 29, "max_lifetime_seconds": 604_801, "labels": { "a/b": 1 },
            "start_url_wait": "never", "colour": "red",
        });
        let mut errors = errors_of::<CreateSession>(body);
        errors.sort();
        assert_eq!(
            errors,
            [
                "body.colour: additionalProperties",
                "body.idle_ttl_seconds: minimum",
                "body.labels.a/b: type",
                "body.max_lifetime_seconds: maximum",
                "body.start_url_wait: enum",
                "body.worker: type",
            ]
        );
        assert_eq!(errors_of::<CreateSession>(json!([])), ["body: type"]);
    }

    #[test]
    fn validates_every_request_body_against_its_schema() {
        assert_eq!(errors_of::<TokenRequest>(json!({ "scope": "view" })), [""; 0]);
        assert_eq!(errors_of::<TokenRequest>(json!({ "ttl_seconds": 0 })).len(), 2);
        assert_eq!(errors_of::<TokenRequest>(json!({ "scope": "root" })), ["body.scope: enum"]);
        assert_eq!(errors_of::<Login>(json!({ "token": "" })), ["body.token: minLength"]);
    }
}
