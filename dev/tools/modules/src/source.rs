//! Parses a crate into modules, with the items, imports and paths of each. Ignores code that is compiled only for
//! tests.

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Meta, Token, UseTree, Visibility,
    punctuated::Punctuated,
    visit::{self, Visit},
};

/// The index of a module in [`Modules`].
pub type ModuleId = usize;

/// The modules of a package's library and programs.
#[derive(Default)]
pub struct Modules {
    modules: Vec<Module>,
    library: Option<(String, ModuleId)>,
}

/// A module, in a file of its own or inline.
#[derive(Default)]
pub struct Module {
    pub file: PathBuf,
    /// `None` for the root of a crate.
    pub parent: Option<ModuleId>,
    pub children: HashMap<String, ModuleId>,
    /// The names of the items that the module defines.
    pub items: BTreeSet<String>,
    /// Identifiers in macro calls at item level, some of which name items that the macros define.
    pub generated: BTreeSet<String>,
    /// The path of each import, by its name in the module.
    pub imports: HashMap<String, Vec<String>>,
    /// The paths of glob imports.
    pub globs: Vec<Vec<String>>,
    pub mentions: Vec<Mention>,
}

/// A path, in a `use` or elsewhere in the code.
pub struct Mention {
    pub path: Vec<String>,
    /// Whether the path is in a `pub use`.
    pub is_exported: bool,
}

impl Modules {
    /// Parses the library, given by name and root file, and the programs of a package.
    pub fn read<'a>(library: Option<(&str, &Path)>, programs: impl Iterator<Item = &'a Path>) -> Result<Self> {
        let mut modules = Self::default();
        if let Some((name, root)) = library {
            let id = modules.read_file(root, None, root.parent().unwrap_or(root))?;
            modules.library = Some((name.to_owned(), id));
        }
        for root in programs {
            modules.read_file(root, None, root.parent().unwrap_or(root))?;
        }
        Ok(modules)
    }

    pub fn module(&self, id: ModuleId) -> &Module {
        &self.modules[id]
    }

    pub fn ids(&self) -> std::ops::Range<ModuleId> {
        0..self.modules.len()
    }

    /// The root module of the library, if `name` is the library's name.
    pub fn library(&self, name: &str) -> Option<ModuleId> {
        self.library.as_ref().filter(|(own, _)| own == name).map(|(_, root)| *root)
    }

    /// The files of all modules. A file with inline modules occurs repeatedly.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.modules.iter().map(|module| module.file.as_path())
    }

    /// `folder` contains the files of the module's children.
    fn read_file(&mut self, file: &Path, parent: Option<ModuleId>, folder: &Path) -> Result<ModuleId> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.read_items(&parsed.items, file, parent, folder)
    }

    fn read_items(&mut self, items: &[Item], file: &Path, parent: Option<ModuleId>, folder: &Path) -> Result<ModuleId> {
        let id = self.modules.len();
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        for item in items {
            if is_test_only(attributes(item)) {
                continue;
            }
            if let Item::Mod(child) = item {
                let name = child.ident.to_string();
                let child = self.read_child(child, file, id, folder)?;
                self.modules[id].children.insert(name, child);
            } else {
                let module = &mut self.modules[id];
                module.define(item);
                module.visit_item(item);
            }
        }
        Ok(id)
    }

    fn read_child(&mut self, child: &ItemMod, file: &Path, parent: ModuleId, folder: &Path) -> Result<ModuleId> {
        let name = child.ident.to_string();
        let folder = folder.join(&name);
        if let Some((_, items)) = &child.content {
            return self.read_items(items, file, Some(parent), &folder);
        }
        for candidate in [folder.with_extension("rs"), folder.join("mod.rs")] {
            if candidate.exists() {
                return self.read_file(&candidate, Some(parent), &folder);
            }
        }
        bail!("{}: `mod {name}` has no file", file.display())
    }
}

impl Module {
    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::TraitAlias(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Macro(item) => {
                match &item.ident {
                    Some(name) => drop(self.items.insert(name.to_string())),
                    None => self.generated.extend(words(item.mac.tokens.clone()).into_iter().flatten()),
                }
                return;
            }
            _ => return,
        };
        self.items.insert(name.to_string());
    }

    fn import(&mut self, tree: &UseTree, prefix: &mut Vec<String>, is_exported: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(&path.tree, prefix, is_exported);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, is_exported);
                }
            }
            UseTree::Glob(_) => {
                self.globs.push(prefix.clone());
                self.mentions.push(Mention { path: prefix.clone(), is_exported });
            }
            UseTree::Name(leaf) => self.bind(prefix, &leaf.ident, None, is_exported),
            UseTree::Rename(leaf) => self.bind(prefix, &leaf.ident, Some(&leaf.rename), is_exported),
        }
    }

    fn bind(&mut self, prefix: &[String], leaf: &syn::Ident, rename: Option<&syn::Ident>, is_exported: bool) {
        let mut path = prefix.to_vec();
        if leaf != "self" {
            path.push(leaf.to_string());
        }
        if let Some(name) = rename.map(ToString::to_string).or_else(|| path.last().cloned()) {
            self.imports.insert(name, path.clone());
        }
        self.mentions.push(Mention { path, is_exported });
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &mut Vec::new(), !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.mentions.push(Mention { path: segments, is_exported: false });
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // A single identifier is more often a variable or a field than an import.
        let paths = words(call.tokens.clone()).into_iter().filter(|path| path.len() > 1);
        self.mentions.extend(paths.map(|path| Mention { path, is_exported: false }));
        visit::visit_macro(self, call);
    }

    // Paths in `pub(in crate::core)` and `#[serde(…)]` are no imports.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// The identifiers in the tokens of a macro call. Identifiers joined by `::` form one path.
fn words(tokens: TokenStream) -> Vec<Vec<String>> {
    let mut paths: Vec<Vec<String>> = Vec::new();
    // Consecutive colons before the current token.
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(word) => {
                match paths.last_mut() {
                    Some(path) if colons == 2 => path.push(word.to_string()),
                    _ => paths.push(vec![word.to_string()]),
                }
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                paths.extend(words(group.stream()));
                colons = 0;
            }
            _ => colons = 0,
        }
    }
    paths
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .filter_map(|attribute| attribute.parse_args().ok())
        .any(|predicate| is_true_outside_tests(&predicate) == Some(false))
}

/// Whether a cfg predicate is true when `test` is not set. `None` if that depends on other options.
fn is_true_outside_tests(predicate: &Meta) -> Option<bool> {
    match predicate {
        Meta::Path(path) if path.is_ident("test") => Some(false),
        Meta::List(list) => {
            let inner = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
            let inner: BTreeSet<_> = inner.iter().map(is_true_outside_tests).collect();
            let (one_holds, one_does_not) = (inner.contains(&Some(true)), inner.contains(&Some(false)));
            let is_open = inner.contains(&None);
            if list.path.is_ident("not") {
                inner.first().copied().flatten().map(|holds| !holds)
            } else if list.path.is_ident("all") {
                if one_does_not { Some(false) } else { (!is_open).then_some(true) }
            } else if list.path.is_ident("any") {
                if one_holds { Some(true) } else { (!is_open).then_some(false) }
            } else {
                None
            }
        }
        _ => None,
    }
}
