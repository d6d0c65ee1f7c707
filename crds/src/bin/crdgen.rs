//! Writes the CRDs to `crds/yaml`, or to the folder in the first argument.

use std::{env, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let folder =
        env::args_os().nth(1).map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("yaml"), PathBuf::from);
    fs::create_dir_all(&folder)?;
    for (name, yaml) in camofleet_crds::manifests() {
        fs::write(folder.join(name), yaml)?;
    }
    Ok(())
}
