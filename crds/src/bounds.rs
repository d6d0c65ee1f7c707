//! Adds bounds to every string, list and map in the schemas of the specs. The Kubernetes types that a `WorkerPool`
//! embeds, such as volumes and affinities, have no bounds, so they are added to the generated schema, where no field
//! can be missed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};

/// Exceptions to a default bound, by the suffix of the field's path. All fields outside the template add up to at most
/// 64 KiB. The template as a whole is bounded by `MAX_TEMPLATE_BYTES`.
type BoundsBySuffix = [(&'static str, i64)];

/// In characters. The longest strings in use are paths and image names.
const DEFAULT_MAX_LENGTH: i64 = 1024;
const MAX_LENGTHS: &BoundsBySuffix = &[
    (".env[].value", 4096),
    // Annotations can hold configuration.
    (".annotations[]", 8192),
    (".userAnnotations[]", 8192),
    ("spec.allowedNamespaces.selector.matchExpressions[].key", DEFAULT_MAX_KEY_LENGTH),
    ("spec.allowedNamespaces.selector.matchExpressions[].operator", 16),
    // Label values: apimachinery's `LabelValueMaxLength`.
    ("spec.allowedNamespaces.selector.matchLabels[]", 63),
    ("spec.allowedNamespaces.selector.matchExpressions[].values[]", 63),
];
/// Applies to the items of a list and to the entries of a map.
const DEFAULT_MAX_ITEMS: i64 = 32;
const MAX_ITEMS: &BoundsBySuffix = &[
    ("spec.allowedNamespaces.selector.matchLabels", 16),
    ("spec.allowedNamespaces.selector.matchExpressions", 4),
    // A selector can list namespaces by name.
    ("spec.allowedNamespaces.selector.matchExpressions[].values", 64),
];
/// In characters. A qualified name has a prefix of 253, a slash, and a name of 63.
const DEFAULT_MAX_KEY_LENGTH: i64 = 253 + 1 + 63;
/// Tenant names have the length of namespace names.
const MAX_KEY_LENGTHS: &BoundsBySuffix = &[("spec.limits.tenantWeights", 63)];

/// Adds the missing bounds to the `spec` of every version.
pub(crate) fn bound_spec(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(spec) = properties.and_then(|properties| properties.get_mut("spec")) {
            bound("spec", spec);
        }
    }
    definition
}

fn bound(path: &str, schema: &mut JSONSchemaProps) {
    let is_string = schema.type_.as_deref() == Some("string") || schema.x_kubernetes_int_or_string == Some(true);
    if is_string && schema.enum_.is_none() {
        schema.max_length.get_or_insert(bound_of(path, MAX_LENGTHS, DEFAULT_MAX_LENGTH));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        schema.max_items.get_or_insert(bound_of(path, MAX_ITEMS, DEFAULT_MAX_ITEMS));
        bound(&format!("{path}[]"), item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        schema.max_properties.get_or_insert(bound_of(path, MAX_ITEMS, DEFAULT_MAX_ITEMS));
        bound(&format!("{path}[]"), value);
        let longest = bound_of(path, MAX_KEY_LENGTHS, DEFAULT_MAX_KEY_LENGTH);
        // Structural schemas have no `propertyNames`, so a CEL rule bounds the keys.
        schema.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
            rule: format!("self.all(key, key.size() <= {longest})"),
            message: Some(format!("keys can have at most {longest} characters: choose a shorter key")),
            ..ValidationRule::default()
        });
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        bound(&format!("{path}.{name}"), property);
    }
}

fn bound_of(path: &str, exceptions: &BoundsBySuffix, default: i64) -> i64 {
    exceptions.iter().find(|(suffix, _)| path.ends_with(suffix)).map_or(default, |(_, bound)| *bound)
}
