//! Bounds every string, list and map of a custom resource's spec in its schema. The types of Kubernetes that a `WorkerPool` embeds,
//! such as volumes and affinities, come without bounds, so the bounds are added to the generated schema: no field can be missed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};

/// Fields whose bound differs, by the end of their paths. Everything outside the template has at most 64 KiB together: the template has
/// a bound of its own (`MAX_TEMPLATE_BYTES`).
type ByField = [(&'static str, i64)];

/// Characters of a string: the longest in use are paths and image names.
const LENGTH: i64 = 1024;
const LENGTHS: &ByField = &[
    (".env[].value", 4096),
    // An annotation may hold a configuration.
    (".annotations[]", 8192),
    (".userAnnotations[]", 8192),
    ("spec.allowedNamespaces.selector.matchExpressions[].key", KEY),
    ("spec.allowedNamespaces.selector.matchExpressions[].operator", 16),
    // The values of labels (apimachinery's `LabelValueMaxLength`).
    ("spec.allowedNamespaces.selector.matchLabels[]", 63),
    ("spec.allowedNamespaces.selector.matchExpressions[].values[]", 63),
];
/// Items of a list, and entries of a map.
const ITEMS: i64 = 32;
const MOST_ITEMS: &ByField = &[
    ("spec.allowedNamespaces.selector.matchLabels", 16),
    ("spec.allowedNamespaces.selector.matchExpressions", 4),
    // Namespaces may be listed by their names.
    ("spec.allowedNamespaces.selector.matchExpressions[].values", 64),
];
/// Characters of a map's key: a qualified name, which is a prefix of 253, a slash and a name of 63.
const KEY: i64 = 253 + 1 + 63;
/// A tenant is a namespace, or as long as one.
const KEYS: &ByField = &[("spec.limits.tenantWeights", 63)];

/// Adds bounds to what has none below `spec`, in every version.
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
        schema.max_length.get_or_insert(bound_of(path, LENGTHS, LENGTH));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        schema.max_items.get_or_insert(bound_of(path, MOST_ITEMS, ITEMS));
        bound(&format!("{path}[]"), item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        schema.max_properties.get_or_insert(bound_of(path, MOST_ITEMS, ITEMS));
        bound(&format!("{path}[]"), value);
        let longest = bound_of(path, KEYS, KEY);
        // A structural schema has no other way to bound keys.
        schema.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
            rule: format!("self.all(key, key.size() <= {longest})"),
            message: Some(format!("a key has more than {longest} characters: choose a shorter one")),
            ..ValidationRule::default()
        });
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        bound(&format!("{path}.{name}"), property);
    }
}

fn bound_of(path: &str, by_field: &ByField, other: i64) -> i64 {
    by_field.iter().find(|(field, _)| path.ends_with(field)).map_or(other, |(_, bound)| *bound)
}
