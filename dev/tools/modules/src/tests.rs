use crate::{graph::Graph, source::Modules};
use std::{collections::BTreeSet, fs, path::Path};

/// The counts of a library `fleet` with these files, each given as its path in `src` and its text.
struct Counted {
    /// In the form `lib.rs -> a.rs: Name, other`.
    edges: Vec<String>,
    levels: usize,
    cycles: Vec<Vec<String>>,
}

fn count(files: &[(&str, &str)]) -> Counted {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let program = Some(folder.path().join("main.rs")).filter(|program| program.exists());
    let library = folder.path().join("lib.rs");
    let modules = Modules::read(Some(("fleet", &library)), program.iter().map(AsRef::as_ref)).unwrap();
    let short = |file: &Path| file.strip_prefix(folder.path()).unwrap().display().to_string();
    let edges = modules.edges();
    let graph = Graph::new(&modules.files().collect(), &edges);
    Counted {
        edges: edges
            .iter()
            .map(|((from, to), names)| {
                let names: Vec<_> = names.iter().copied().collect();
                format!("{} -> {}: {}", short(from), short(to), names.join(", "))
            })
            .collect(),
        levels: graph.levels(),
        cycles: graph.cycles().iter().map(|cycle| cycle.iter().map(|file| short(file)).collect()).collect(),
    }
}

#[track_caller]
fn assert_edges(files: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(count(files).edges, expected);
}

#[test]
fn imports_are_edges_to_the_file_that_defines_the_item() {
    assert_edges(
        &[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::{One, inner::{self, Two as Second}}; use super::c::three; use std::fmt;"),
            ("b.rs", "pub struct One; pub mod inner;"),
            ("b/inner.rs", "pub struct Two;"),
            ("c.rs", "pub fn three() {}"),
        ],
        &["a.rs -> b/inner.rs: Two", "a.rs -> b.rs: One", "a.rs -> c.rs: three"],
    );
}

#[test]
fn module_declarations_and_re_exports_of_descendants_are_no_edges() {
    let files = [
        ("lib.rs", "mod a; pub mod b; pub use b::inner::Deep; pub(crate) use a::*;"),
        ("a.rs", "pub struct A;"),
        ("b/mod.rs", "pub mod inner; mod other; pub use inner::Deep; pub use super::a::A;"),
        ("b/inner.rs", "pub struct Deep;"),
        ("b/other.rs", ""),
    ];
    // `A` is no descendant of `b`.
    assert_edges(&files, &["b/mod.rs -> a.rs: A"]);
}

#[test]
fn a_module_that_uses_its_own_re_export_has_an_edge() {
    assert_edges(
        &[("lib.rs", "mod a; pub use a::A; pub fn f(_: A) {}"), ("a.rs", "pub struct A;")],
        &["lib.rs -> a.rs: A"],
    );
}

#[test]
fn an_item_that_the_parent_re_exports_is_an_edge_to_its_own_file() {
    assert_edges(
        &[
            ("lib.rs", "mod core; mod io;"),
            ("core/mod.rs", "mod ids; mod names; pub use ids::*; use names::Name; pub struct Core(Name);"),
            ("core/ids.rs", "use super::Name; pub struct Uid(Name);"),
            ("core/names.rs", "pub struct Name;"),
            ("io.rs", "use crate::core::{Core, Uid};"),
        ],
        &[
            "core/ids.rs -> core/names.rs: Name",
            "core/mod.rs -> core/names.rs: Name",
            "io.rs -> core/ids.rs: Uid",
            "io.rs -> core/mod.rs: Core",
        ],
    );
}

#[test]
fn re_exports_of_other_crates_and_items_of_macros_are_edges_to_the_parent() {
    assert_edges(
        &[("lib.rs", "mod a; pub use kube::Client; ids! { pub struct Uid }"), ("a.rs", "use crate::{Client, Uid};")],
        &["a.rs -> lib.rs: Client, Uid"],
    );
}

#[test]
fn paths_in_code_and_in_macro_calls_are_edges() {
    assert_edges(
        &[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            (
                "a.rs",
                "use crate::b; fn f() -> b::B { matches!(x, super::c::C::Variant { y: 1 }); loop { crate::d::run() } }",
            ),
            ("b.rs", "pub struct B;"),
            ("c.rs", "pub enum C { Variant }"),
            ("d.rs", "pub fn run() {} fn f() { use crate::e::E; }"),
            ("e.rs", "pub struct E;"),
        ],
        &["a.rs -> b.rs: B", "a.rs -> c.rs: C", "a.rs -> d.rs: run", "d.rs -> e.rs: E"],
    );
}

#[test]
fn glob_imports_are_edges_to_the_defining_file() {
    assert_edges(
        &[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::*; fn f(_: Own, _: Made, _: Option<Own>) {} struct Own;"),
            ("b/mod.rs", "mod c; pub use c::Made;"),
            ("b/c.rs", "pub struct Made; pub struct Own;"),
        ],
        &["a.rs -> b/c.rs: Made"],
    );
}

#[test]
fn tests_are_left_out() {
    assert_edges(
        &[
            (
                "lib.rs",
                "mod a; #[cfg(test)] mod tests; #[cfg(all(test, unix))] mod no_file; #[cfg(any(test, feature = \"x\"))] use a::A; \
                 #[cfg(not(test))] use a::B;",
            ),
            ("a.rs", "pub struct A; pub struct B; #[cfg(test)] mod tests { use crate::C; }"),
        ],
        &["lib.rs -> a.rs: A, B"],
    );
}

#[test]
fn inline_modules_belong_to_their_file() {
    assert_edges(
        &[
            ("lib.rs", "mod a; mod inline { pub mod deep; use super::a::A; pub struct I; }"),
            ("a.rs", "pub struct A;"),
            ("inline/deep.rs", "use super::I; use super::super::a::A;"),
        ],
        &["inline/deep.rs -> a.rs: A", "inline/deep.rs -> lib.rs: I", "lib.rs -> a.rs: A"],
    );
}

#[test]
fn programs_import_from_their_library_by_its_name() {
    assert_edges(
        &[("lib.rs", "pub mod a;"), ("a.rs", "pub fn run() {}"), ("main.rs", "fn main() { fleet::a::run() }")],
        &["main.rs -> a.rs: run"],
    );
}

#[test]
fn circular_imports_terminate() {
    assert_edges(
        &[
            ("lib.rs", "mod a; use kube::kube; pub use a::*; fn f(_: kube::Client, _: Missing) {}"),
            ("a.rs", "pub use super::*;"),
        ],
        &[],
    );
}

#[test]
fn cycles_are_named_and_count_as_one_level() {
    let counted = count(&[
        ("lib.rs", "mod a; mod b; mod c; mod d; mod e; use a::A;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::{a::A, c::C}; pub struct B;"),
        ("c.rs", "use crate::d::D; pub struct C;"),
        ("d.rs", "use crate::e::E; pub struct D;"),
        ("e.rs", "use crate::c::C; pub struct E;"),
    ]);
    assert_eq!(counted.cycles, [vec!["c.rs", "d.rs", "e.rs"], vec!["a.rs", "b.rs"]]);
    assert_eq!(counted.levels, 3);
}

#[test]
fn files_outside_the_selected_folder_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lib.rs"), "mod a; use a::A; pub struct L;").unwrap();
    fs::write(folder.path().join("a.rs"), "use crate::L; pub struct A;").unwrap();
    let library = folder.path().join("lib.rs");
    let modules = Modules::read(Some(("fleet", &library)), std::iter::empty()).unwrap();
    let part: BTreeSet<_> = modules.files().filter(|file| file.ends_with("a.rs")).collect();
    let graph = Graph::new(&part, &modules.edges());
    assert_eq!((graph.edges(), graph.levels(), graph.cycles().len()), (0, 1, 0));
}
