//! The schemas bound the size of every object.

use serde_json::Value;

/// The operator and the gateway cache specs, whose content users choose.
#[test]
fn bounds_every_string_list_and_map_of_a_spec() {
    for definition in camofleet_crds::definitions() {
        let crd = serde_json::to_value(definition).expect("a CRD is plain data");
        let spec =
            crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("every kind has a spec");
        let mut unbounded = Vec::new();
        find_unbounded(crd["spec"]["names"]["kind"].as_str().unwrap(), spec, &mut unbounded);
        assert_eq!(unbounded, Vec::<String>::new());
    }
}

/// The template is excluded because its total size has a bound of its own, below the sum of its fields' bounds.
#[test]
fn a_spec_without_its_template_stays_below_64_kib() {
    for definition in camofleet_crds::definitions() {
        let mut crd = serde_json::to_value(definition).expect("a CRD is plain data");
        let spec = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        spec["properties"].as_object_mut().unwrap().remove("template");
        let most = max_characters(spec);
        assert!(most < 64 * 1024, "{most} characters");
    }
}

/// Length of the longest value as JSON without escapes, in characters.
fn max_characters(schema: &Value) -> u64 {
    let number = |bound: &str| schema[bound].as_u64().expect("every field has a bound");
    match schema["type"].as_str() {
        Some("object") if schema["additionalProperties"].is_object() => {
            number("maxProperties") * (longest_key(schema) + 4 + max_characters(&schema["additionalProperties"]))
        }
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(|(name, field)| name.len() as u64 + 4 + max_characters(field)).sum()
        }
        Some("array") => number("maxItems") * (1 + max_characters(&schema["items"])),
        Some("string") if schema["enum"].is_array() => 32,
        Some("string") | None => 2 + number("maxLength"),
        // A boolean, or a 32-bit integer.
        Some(_) => 11,
    }
}

fn longest_key(map: &Value) -> u64 {
    let rules = map["x-kubernetes-validations"].as_array().into_iter().flatten();
    let bounds = rules.filter_map(|rule| rule["rule"].as_str()?.rsplit_once("key.size() <= ")?.1.strip_suffix(')'));
    bounds.filter_map(|bound| bound.parse().ok()).min().expect("every map bounds its keys")
}

/// `kubectl apply` without `--server-side` stores the object in an annotation, and an object can have 256 KiB of
/// annotations (apimachinery's `TotalAnnotationSizeLimitB`).
#[test]
fn a_definition_fits_into_an_annotation() {
    for definition in camofleet_crds::definitions() {
        let size = serde_json::to_string(&definition).expect("a CRD is plain data").len();
        assert!(size < 240 * 1024, "{:?} has {size} bytes", definition.metadata.name);
    }
}

fn find_unbounded(path: &str, schema: &Value, unbounded: &mut Vec<String>) {
    let bound = match schema["type"].as_str() {
        Some("string") if schema["enum"].is_array() => None,
        Some("string") => Some("maxLength"),
        None if schema["x-kubernetes-int-or-string"] == true => Some("maxLength"),
        Some("array") => Some("maxItems"),
        Some("object") if schema["additionalProperties"].is_object() => Some("maxProperties"),
        _ => None,
    };
    if bound.is_some_and(|bound| !schema[bound].is_number()) {
        unbounded.push(path.to_owned());
    }
    if bound == Some("maxProperties") {
        assert!(longest_key(schema) <= 317, "keys of {path}");
    }
    assert!(schema["x-kubernetes-preserve-unknown-fields"].is_null(), "{path} accepts unknown fields");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        find_unbounded(&format!("{path}.{name}"), property, unbounded);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            find_unbounded(&format!("{path}[]"), &schema[inner], unbounded);
        }
    }
}
