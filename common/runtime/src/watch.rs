//! Follows the objects of the API server, through broken watches and unreadable objects.

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use std::{collections::HashMap, fmt::Debug, future, mem, pin::pin, time::Duration};

/// A watch that was broken begins again after so long at most.
const LONGEST: Duration = Duration::from_secs(5);
/// Objects per page of a list. An object has up to 1.5 MiB (etcd's `--max-request-bytes`), and a page is read whole before it is
/// parsed: kube's default of 500 could exceed the memory limit of the process.
const PAGE_SIZE: u32 = 50;

/// The pauses of a watch after failures: kube's own, which grow from 0.8 s, but not up to 30 s. Clients wait until an API server
/// that is back is heard, and these are a few watches, not one of each node.
#[derive(Default)]
pub struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The configuration with which every watch starts: the memory that a list takes is bounded.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

/// The events of a watch without its errors, which are logged. It begins again by itself, after a pause.
pub fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>>
where
    K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
    K::DynamicType: Default,
{
    watcher(api, config).backoff(Pauses::default()).filter_map(|event| {
        let event = event.inspect_err(|error| {
            let kind = kind::<K>();
            tracing::warn!(kind, %error, "watch failed, retrying");
        });
        future::ready(event.ok())
    })
}

/// A change of the objects that a watch follows.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// The complete list. An object that is not in it is gone.
    All(Vec<T>),
    /// An object is new or was changed.
    Applied(T),
    /// An object is gone.
    Gone(T),
}

/// Follows objects for ever. `understand` returns what is kept of an object, or None when the object does not concern the caller;
/// `changed` takes each change. An object that cannot be read, such as one that a later version wrote, does not stop the others and
/// counts as its last readable version.
///
/// The client should carry nothing but watches: on one HTTP/2 connection with many requests, a watch can starve.
pub async fn follow<O, K, T>(
    api: Api<O>,
    config: watcher::Config,
    understand: impl Fn(K) -> Option<T>,
    mut changed: impl FnMut(Change<T>),
) where
    O: Resource + Into<DeserializeGuard<K>> + Clone + Debug + Send + DeserializeOwned + 'static,
    O::DynamicType: Default,
    T: Clone,
{
    let mut known = Known::default();
    let mut events = pin!(events(api, config));
    while let Some(event) = events.next().await {
        if let Some(change) = known.take_in(event, &understand) {
            changed(change);
        }
    }
}

/// The objects of a watch by UID, each as its last readable version.
struct Known<T> {
    objects: HashMap<String, Shown<T>>,
    /// A list that is being read.
    listed: HashMap<String, Shown<T>>,
}

#[derive(Clone)]
struct Shown<T> {
    /// None: no version of the object could be read, or it does not concern the caller.
    understood: Option<T>,
    /// An error was logged because the object cannot be read.
    reported: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), listed: HashMap::new() }
    }
}

impl<T: Clone> Known<T> {
    fn take_in<O, K>(&mut self, event: Event<O>, understand: impl Fn(K) -> Option<T>) -> Option<Change<T>>
    where
        O: Resource + Into<DeserializeGuard<K>>,
        O::DynamicType: Default,
    {
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(object) => {
                let uid = uid_of(&object);
                let (_, shown) = self.shown(object, understand);
                self.listed.insert(uid, shown);
                None
            }
            Event::InitDone => {
                self.objects = mem::take(&mut self.listed);
                Some(Change::All(self.objects.values().filter_map(|shown| shown.understood.clone()).collect()))
            }
            Event::Apply(object) => {
                let uid = uid_of(&object);
                let (news, shown) = self.shown(object, understand);
                let concerns = shown.understood.is_some();
                let former = self.objects.insert(uid, shown).and_then(|shown| shown.understood);
                // One that concerned the caller and no longer does, such as a runner pod that lost its owner, is gone for the caller.
                news.map(Change::Applied).or_else(|| former.filter(|_| !concerns).map(Change::Gone))
            }
            Event::Delete(object) => {
                let former = self.objects.remove(&uid_of(&object)).and_then(|shown| shown.understood);
                object.into().0.ok().and_then(understand).or(former).map(Change::Gone)
            }
        }
    }

    /// Reads an object. Returns what is new in it, and its entry from now on.
    fn shown<O, K>(&self, object: O, understand: impl Fn(K) -> Option<T>) -> (Option<T>, Shown<T>)
    where
        O: Resource + Into<DeserializeGuard<K>>,
        O::DynamicType: Default,
    {
        match object.into().0 {
            Ok(object) => {
                let understood = understand(object);
                (understood.clone(), Shown { understood, reported: false })
            }
            Err(InvalidObject { error, metadata }) => {
                let uid = metadata.uid.unwrap_or_default();
                let former = self.objects.get(&uid);
                let understood = former.and_then(|shown| shown.understood.clone());
                if !former.is_some_and(|shown| shown.reported) {
                    let kind = kind::<O>();
                    let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                    let treated_as = if understood.is_some() { "its last readable version" } else { "absent" };
                    tracing::error!(
                        kind,
                        namespace,
                        name,
                        error,
                        treated_as,
                        "cannot read object: correct it, delete it, or run the version that knows its fields"
                    );
                }
                (None, Shown { understood, reported: true })
            }
        }
    }
}

fn kind<K: Resource>() -> String
where
    K::DynamicType: Default,
{
    K::kind(&K::DynamicType::default()).into_owned()
}

fn uid_of(object: &impl Resource) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use serde_json::json;

    type Guarded = DeserializeGuard<ConfigMap>;

    #[test]
    fn pauses_grow_but_not_far() {
        let pauses: Vec<_> = Pauses::default().take(20).collect();
        assert!(pauses[0] < LONGEST && pauses[19] == LONGEST, "{pauses:?}");
    }

    fn readable(uid: &str) -> Guarded {
        object(uid, json!({ "key": "text" }))
    }

    /// Its data have a value that is no text.
    fn unreadable(uid: &str) -> Guarded {
        object(uid, json!({ "key": 1 }))
    }

    fn object(uid: &str, data: serde_json::Value) -> Guarded {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": { "namespace": "ns", "name": uid, "uid": uid },
        });
        serde_json::from_value(object).unwrap()
    }

    /// A change as a word and the names of the objects.
    fn changed(known: &mut Known<String>, event: Event<Guarded>) -> Option<(&'static str, Vec<String>)> {
        let change = known.take_in(event, |object: ConfigMap| Some(object.name_any()))?;
        Some(match change {
            Change::All(mut all) => {
                all.sort();
                ("all", all)
            }
            Change::Applied(object) => ("applied", vec![object]),
            Change::Gone(object) => ("gone", vec![object]),
        })
    }

    fn list(known: &mut Known<String>, objects: Vec<Guarded>) -> Vec<String> {
        changed(known, Event::Init);
        for object in objects {
            assert_eq!(changed(known, Event::InitApply(object)), None);
        }
        changed(known, Event::InitDone).unwrap().1
    }

    #[test]
    fn what_cannot_be_understood_is_not_gone_until_it_is_deleted() {
        let mut known = Known::default();
        assert_eq!(list(&mut known, vec![readable("a"), readable("b"), unreadable("c")]), ["a", "b"]);
        assert_eq!(changed(&mut known, Event::Apply(unreadable("a"))), None);
        assert_eq!(list(&mut known, vec![unreadable("a"), unreadable("b"), unreadable("c")]), ["a", "b"]);
        assert!(known.objects.values().all(|shown| shown.reported), "each was reported, and is not again");
        assert_eq!(changed(&mut known, Event::Delete(unreadable("a"))), Some(("gone", vec!["a".into()])));
        assert_eq!(changed(&mut known, Event::Delete(unreadable("c"))), None);
        assert_eq!(changed(&mut known, Event::Apply(readable("b"))), Some(("applied", vec!["b".into()])));
        assert_eq!(list(&mut known, Vec::new()), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_understood_is_not_what_had_its_name_before() {
        let mut known = Known::default();
        let named = |uid: &str, data| {
            let mut object = object(uid, data);
            let metadata = match &mut object.0 {
                Ok(object) => &mut object.metadata,
                Err(error) => &mut error.metadata,
            };
            metadata.name = Some("same".into());
            object
        };
        let (readable, unreadable) = (json!({ "key": "text" }), json!({ "key": 1 }));
        assert_eq!(list(&mut known, vec![named("a", readable)]), ["same"]);
        assert_eq!(list(&mut known, vec![named("b", unreadable)]), Vec::<String>::new());
    }

    #[test]
    fn an_object_that_stops_being_ours_is_gone() {
        let mut known = Known::default();
        let mut take_in = |event: Event<Guarded>, is_ours: bool| {
            let change = known.take_in(event, |object: ConfigMap| is_ours.then(|| object.name_any()));
            change.map(|change| format!("{change:?}"))
        };
        assert_eq!(take_in(Event::Apply(readable("a")), true).unwrap(), r#"Applied("a")"#);
        assert_eq!(take_in(Event::Apply(readable("a")), false).unwrap(), r#"Gone("a")"#);
        assert_eq!(take_in(Event::Apply(readable("a")), false), None);
        assert_eq!(take_in(Event::Delete(readable("a")), false), None);
    }
}
