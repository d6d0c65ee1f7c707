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
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Objects per page of a list. An object has up to 1.5 MiB (etcd's `--max-request-bytes`), and a page is read whole before it is
/// parsed: kube's default of 500 could exceed the memory limit of the process.
const PAGE_SIZE: u32 = 50;

/// The pauses of a watch after failures: kube's own, which grow from 0.8 s, but not up to 30 s. Clients wait until an API server
/// that is back is heard, and these are a few watches, not one of each node.
#[derive(Default)]
pub struct WatchBackoff(DefaultBackoff);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(MAX_PAUSE))
    }
}

impl Backoff for WatchBackoff {
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
    watcher(api, config).backoff(WatchBackoff::default()).filter_map(|event| {
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

/// Follows objects for ever. `parse` returns what is kept of an object, or None when the object does not concern the caller;
/// `changed` takes each change. An object that cannot be read, such as one that a later version wrote, does not stop the others and
/// counts as its last readable version.
///
/// The client should carry nothing but watches: on one HTTP/2 connection with many requests, a watch can starve.
pub async fn follow<O, K, T>(
    api: Api<O>,
    config: watcher::Config,
    parse: impl Fn(K) -> Option<T>,
    mut on_change: impl FnMut(Change<T>),
) where
    O: Resource + Into<DeserializeGuard<K>> + Clone + Debug + Send + DeserializeOwned + 'static,
    O::DynamicType: Default,
    T: Clone,
{
    let mut cache = Cache::default();
    let mut events = pin!(events(api, config));
    while let Some(event) = events.next().await {
        if let Some(change) = cache.handle(event, &parse) {
            on_change(change);
        }
    }
}

/// The objects of a watch by UID, each as its last readable version.
struct Cache<T> {
    objects: HashMap<String, Entry<T>>,
    /// A list that is being read.
    listed: HashMap<String, Entry<T>>,
}

#[derive(Clone)]
struct Entry<T> {
    /// None: no version of the object could be read, or it does not concern the caller.
    parsed: Option<T>,
    /// An error was logged because the object cannot be read.
    reported: bool,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), listed: HashMap::new() }
    }
}

impl<T: Clone> Cache<T> {
    fn handle<O, K>(&mut self, event: Event<O>, parse: impl Fn(K) -> Option<T>) -> Option<Change<T>>
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
                let (_, entry) = self.read(object, parse);
                self.listed.insert(uid, entry);
                None
            }
            Event::InitDone => {
                self.objects = mem::take(&mut self.listed);
                Some(Change::All(self.objects.values().filter_map(|entry| entry.parsed.clone()).collect()))
            }
            Event::Apply(object) => {
                let uid = uid_of(&object);
                let (news, entry) = self.read(object, parse);
                let concerns = entry.parsed.is_some();
                let former = self.objects.insert(uid, entry).and_then(|entry| entry.parsed);
                // One that concerned the caller and no longer does, such as a runner pod that lost its owner, is gone for the caller.
                news.map(Change::Applied).or_else(|| former.filter(|_| !concerns).map(Change::Gone))
            }
            Event::Delete(object) => {
                let former = self.objects.remove(&uid_of(&object)).and_then(|entry| entry.parsed);
                object.into().0.ok().and_then(parse).or(former).map(Change::Gone)
            }
        }
    }

    /// Reads an object. Returns what is new in it, and its entry from now on.
    fn read<O, K>(&self, object: O, parse: impl Fn(K) -> Option<T>) -> (Option<T>, Entry<T>)
    where
        O: Resource + Into<DeserializeGuard<K>>,
        O::DynamicType: Default,
    {
        match object.into().0 {
            Ok(object) => {
                let parsed = parse(object);
                (parsed.clone(), Entry { parsed, reported: false })
            }
            Err(InvalidObject { error, metadata }) => {
                let uid = metadata.uid.unwrap_or_default();
                let former = self.objects.get(&uid);
                let parsed = former.and_then(|entry| entry.parsed.clone());
                if !former.is_some_and(|entry| entry.reported) {
                    let kind = kind::<O>();
                    let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                    let treated_as = if parsed.is_some() { "its last readable version" } else { "absent" };
                    tracing::error!(
                        kind,
                        namespace,
                        name,
                        error,
                        treated_as,
                        "cannot read object: correct it, delete it, or run the version that knows its fields"
                    );
                }
                (None, Entry { parsed, reported: true })
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
    fn the_backoff_is_capped() {
        let pauses: Vec<_> = WatchBackoff::default().take(20).collect();
        assert!(pauses[0] < MAX_PAUSE && pauses[19] == MAX_PAUSE, "{pauses:?}");
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
    fn changed(cache: &mut Cache<String>, event: Event<Guarded>) -> Option<(&'static str, Vec<String>)> {
        let change = cache.handle(event, |object: ConfigMap| Some(object.name_any()))?;
        Some(match change {
            Change::All(mut all) => {
                all.sort();
                ("all", all)
            }
            Change::Applied(object) => ("applied", vec![object]),
            Change::Gone(object) => ("gone", vec![object]),
        })
    }

    fn list(cache: &mut Cache<String>, objects: Vec<Guarded>) -> Vec<String> {
        changed(cache, Event::Init);
        for object in objects {
            assert_eq!(changed(cache, Event::InitApply(object)), None);
        }
        changed(cache, Event::InitDone).unwrap().1
    }

    #[test]
    fn an_unreadable_object_stays_until_it_is_deleted() {
        let mut cache = Cache::default();
        assert_eq!(list(&mut cache, vec![readable("a"), readable("b"), unreadable("c")]), ["a", "b"]);
        assert_eq!(changed(&mut cache, Event::Apply(unreadable("a"))), None);
        assert_eq!(list(&mut cache, vec![unreadable("a"), unreadable("b"), unreadable("c")]), ["a", "b"]);
        assert!(cache.objects.values().all(|entry| entry.reported), "each was reported, and is not again");
        assert_eq!(changed(&mut cache, Event::Delete(unreadable("a"))), Some(("gone", vec!["a".into()])));
        assert_eq!(changed(&mut cache, Event::Delete(unreadable("c"))), None);
        assert_eq!(changed(&mut cache, Event::Apply(readable("b"))), Some(("applied", vec!["b".into()])));
        assert_eq!(list(&mut cache, Vec::new()), Vec::<String>::new());
    }

    #[test]
    fn an_unreadable_object_does_not_inherit_a_namesakes_version() {
        let mut cache = Cache::default();
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
        assert_eq!(list(&mut cache, vec![named("a", readable)]), ["same"]);
        assert_eq!(list(&mut cache, vec![named("b", unreadable)]), Vec::<String>::new());
    }

    #[test]
    fn an_object_that_no_longer_concerns_the_caller_is_gone() {
        let mut cache = Cache::default();
        let mut handle = |event: Event<Guarded>, is_ours: bool| {
            let change = cache.handle(event, |object: ConfigMap| is_ours.then(|| object.name_any()));
            change.map(|change| format!("{change:?}"))
        };
        assert_eq!(handle(Event::Apply(readable("a")), true).unwrap(), r#"Applied("a")"#);
        assert_eq!(handle(Event::Apply(readable("a")), false).unwrap(), r#"Gone("a")"#);
        assert_eq!(handle(Event::Apply(readable("a")), false), None);
        assert_eq!(handle(Event::Delete(readable("a")), false), None);
    }
}
