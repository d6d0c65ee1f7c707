//! The checked-in YAML matches the types.

use std::{fs, path::Path};

#[test]
fn the_generated_yaml_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    for (name, yaml) in camofleet_crds::manifests() {
        let checked_in = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(checked_in == yaml, "crds/yaml/{name} has drifted: run `cargo run -p camofleet-crds --bin crdgen`");
    }
}
