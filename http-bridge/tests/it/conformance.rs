//! Checks answers against openapi.json.

use std::collections::BTreeMap;

use http::{HeaderMap, Method, StatusCode, header};
use jsonschema::Validator;
use serde_json::{Value, json};

/// The API's description, as parsed JSON.
#[derive(Debug)]
pub(crate) struct Contract {
    document: Value,
}

impl Contract {
    /// The description of this version.
    pub(crate) fn of_this_version() -> Self {
        Self { document: serde_json::to_value(http_bridge::api::openapi()).unwrap() }
    }

    /// The description as JSON.
    pub(crate) const fn document(&self) -> &Value {
        &self.document
    }

    /// Every documented operation: method and path template.
    pub(crate) fn operations(&self) -> Vec<(Method, String)> {
        let mut operations = Vec::new();
        for (path, item) in self.document["paths"].as_object().into_iter().flatten() {
            for (method, _) in item.as_object().into_iter().flatten() {
                if let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) {
                    operations.push((method, path.clone()));
                }
            }
        }
        operations
    }

    /// The description of one operation; None when it is not documented.
    pub(crate) fn operation(&self, method: &Method, template: &str) -> Option<&Value> {
        self.document["paths"].get(template)?.get(method.as_str().to_ascii_lowercase())
    }

    /// The template that matches a path (without query).
    pub(crate) fn template(&self, path: &str) -> Option<&str> {
        let fits = |template: &str| {
            let (wanted, given) = (template.split('/'), path.split('/'));
            wanted.clone().count() == given.clone().count()
                && wanted.zip(given).all(|(wanted, given)| {
                    wanted == given || (wanted.starts_with('{') && !given.is_empty())
                })
        };
        let paths = self.document["paths"].as_object()?;
        // The template with the fewest parameters is the most exact one.
        let templates = paths.keys().filter(|template| fits(template));
        templates.min_by_key(|template| template.matches('{').count()).map(String::as_str)
    }

    /// Checks one answer: its status is documented for the operation, and its content type, body
    /// and headers are as described.
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), String> {
        let call = format!("{method} {path} answered {status}");
        let template = self.template(path).ok_or_else(|| format!("{call}: no such path"))?;
        let operation =
            self.operation(method, template).ok_or_else(|| format!("{call}: no such method"))?;
        let response = operation["responses"]
            .get(status.as_str())
            .ok_or_else(|| format!("{call}: the status is not documented"))?;
        self.check_headers(response, headers).map_err(|problem| format!("{call}: {problem}"))?;
        let media_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or_default().trim())
            .unwrap_or_default();
        let content = response["content"]
            .get(media_type)
            .ok_or_else(|| format!("{call}: content type {media_type:?} is not documented"))?;
        let value = if media_type.ends_with("json") {
            serde_json::from_slice(body).map_err(|error| format!("{call}: {error}"))?
        } else {
            Value::String(String::from_utf8_lossy(body).into_owned())
        };
        self.check_value(&content["schema"], &value).map_err(|problem| format!("{call}: {problem}"))
    }

    fn check_headers(&self, response: &Value, headers: &HeaderMap) -> Result<(), String> {
        for (name, description) in response["headers"].as_object().into_iter().flatten() {
            let value = headers.get(name).ok_or_else(|| format!("no header {name}"))?;
            let text = value.to_str().map_err(|error| format!("header {name}: {error}"))?;
            let schema = &description["schema"];
            let value = match schema["type"].as_str() {
                Some("integer") => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
                _ => text.into(),
            };
            self.check_value(schema, &value)
                .map_err(|problem| format!("header {name}: {problem}"))?;
        }
        Ok(())
    }

    /// Checks a value against a schema of the document.
    pub(crate) fn check_value(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let mut whole = json!({ "components": self.document["components"], "allOf": [schema] });
        whole["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        let validator: Validator = jsonschema::validator_for(&whole).map_err(|e| e.to_string())?;
        let problems: BTreeMap<String, String> = validator
            .iter_errors(value)
            .map(|error| (error.instance_path().to_string(), error.to_string()))
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(format!("{problems:?} in {value}")) }
    }
}
