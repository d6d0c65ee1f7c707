//! Resolves the paths in a module to the files that define the items.

use crate::source::{ModuleId, Modules};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The imported names, by importing file and defining file.
pub type Edges<'a> = BTreeMap<(&'a Path, &'a Path), BTreeSet<&'a str>>;

/// What a path resolves to.
enum Target<'a> {
    Module(ModuleId),
    /// An item that `module` defines or re-exports from another crate.
    Item {
        module: ModuleId,
        name: &'a str,
    },
}

/// The names being resolved, each with the module of the lookup. Detects imports that lead back to themselves.
type Pending<'a> = Vec<(ModuleId, &'a str)>;

impl Modules {
    /// The imports between files. Importing a module is not an edge; using an item through it is.
    pub fn edges(&self) -> Edges<'_> {
        let mut edges = Edges::new();
        for id in self.ids() {
            let from = self.module(id);
            for mention in &from.mentions {
                let Some(Target::Item { module, name }) = self.resolve(id, &mention.path, &mut Vec::new()) else {
                    continue;
                };
                let to = self.module(module);
                if from.file != to.file && !(mention.is_exported && self.is_within(module, id)) {
                    edges.entry((&from.file, &to.file)).or_default().insert(name);
                }
            }
        }
        edges
    }

    fn is_within(&self, module: ModuleId, ancestor: ModuleId) -> bool {
        module == ancestor || self.module(module).parent.is_some_and(|parent| self.is_within(parent, ancestor))
    }

    fn root_of(&self, module: ModuleId) -> ModuleId {
        self.module(module).parent.map_or(module, |parent| self.root_of(parent))
    }

    /// Returns `None` for items of other crates and for variables.
    fn resolve<'a>(&'a self, from: ModuleId, path: &'a [String], pending: &mut Pending<'a>) -> Option<Target<'a>> {
        let (first, rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => self.root_of(from),
            "self" => from,
            "super" => self.module(from).parent?,
            name => match self.look_up(from, name, rest.is_empty(), pending) {
                Some(Target::Module(module)) => module,
                Some(item) => return Some(item),
                None => self.library(name)?,
            },
        };
        for (index, name) in rest.iter().enumerate() {
            if name == "super" {
                at = self.module(at).parent?;
                continue;
            }
            match self.look_up(at, name, index + 1 == rest.len(), pending) {
                Some(Target::Module(module)) => at = module,
                Some(item) => return Some(item),
                None => return Some(Target::Item { module: at, name }),
            }
        }
        Some(Target::Module(at))
    }

    /// Resolves a name in a module. `is_last` means that the name ends the path. If a module and a function share the
    /// name, a last name means the function, and any other name the module.
    fn look_up<'a>(
        &'a self,
        id: ModuleId,
        name: &'a str,
        is_last: bool,
        pending: &mut Pending<'a>,
    ) -> Option<Target<'a>> {
        let module = self.module(id);
        let child = module.children.get(name).map(|&child| Target::Module(child));
        let item = |is_known: bool| is_known.then_some(Target::Item { module: id, name });
        let own = item(module.items.contains(name));
        let own = if is_last { own.or(child) } else { child.or(own) };
        if own.is_some() || pending.contains(&(id, name)) {
            return own;
        }
        pending.push((id, name));
        let imported = module.imports.get(name).and_then(|path| self.resolve(id, path, pending));
        let found = imported.or_else(|| {
            module.globs.iter().find_map(|path| match self.resolve(id, path, pending) {
                Some(Target::Module(other)) => self.look_up(other, name, is_last, pending),
                _ => None,
            })
        });
        pending.pop();
        found.or_else(|| item(module.generated.contains(name)))
    }
}
