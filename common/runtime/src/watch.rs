//! Watches objects of the API server, and recovers from failed watches and unreadable objects.

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

/// Maximum delay before a failed watch is restarted.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Objects per page of a list. An object has up to 1.5 MiB (etcd's `--max-request-bytes`), and a whole page is buffered
/// before it is parsed, so kube's default of 500 could exceed the memory limit of the process.
const PAGE_SIZE: u32 = 50;

/// Backoff of a failed watch: kube's default, which starts at 0.8 s, but capped at 5 s instead of 30 s. Clients wait
/// for the watches to recover when an API server returns, and a process has only a few watches.
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

/// Base configuration of every watch, which bounds the memory of a list.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

/// Events of a watch. Errors are logged, and the watch restarts after a backoff.
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

/// A change of the watched objects.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// The complete list. An object that is not in the list no longer exists.
    Listed(Vec<T>),
    /// An object was created or changed.
    Applied(T),
    /// An object was deleted, or no longer concerns the caller.
    Deleted(T),
}

/// Watches objects forever. `parse` converts an object, and returns None if the object does not concern the caller.
/// `on_change` receives each change. An unreadable object, such as one that a later version wrote, does not affect the
/// others, and counts as its last readable version.
///
/// Use a client that carries only watches, because a watch can starve on an HTTP/2 connection with many requests.
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

/// The watched objects by UID, each in its last readable version.
struct Cache<T> {
    objects: HashMap<String, Entry<T>>,
    /// Objects of a list that is not complete yet.
    listed: HashMap<String, Entry<T>>,
}

#[derive(Clone)]
struct Entry<T> {
    /// None if no version of the object was readable, or if it does not concern the caller.
    parsed: Option<T>,
    /// Whether the log has an error about the unreadable object.
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
                Some(Change::Listed(self.objects.values().filter_map(|entry| entry.parsed.clone()).collect()))
            }
            Event::Apply(object) => {
                let uid = uid_of(&object);
                let (update, entry) = self.read(object, parse);
                let concerns = entry.parsed.is_some();
                let former = self.objects.insert(uid, entry).and_then(|entry| entry.parsed);
                // An object that no longer concerns the caller, such as a runner pod that lost its owner, is gone for
                // the caller.
                update.map(Change::Applied).or_else(|| former.filter(|_| !concerns).map(Change::Deleted))
            }
            Event::Delete(object) => {
                let former = self.objects.remove(&uid_of(&object)).and_then(|entry| entry.parsed);
                object.into().0.ok().and_then(parse).or(former).map(Change::Deleted)
            }
        }
    }

    /// Parses an object. Returns the parsed object if it was readable and concerns the caller, and its new entry.
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
                        "could not parse object: correct it, delete it, or run the version that knows its fields"
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

    /// An object whose data has a value that is not a string.
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

    /// The kind of a change, and the names of its objects.
    fn changed(cache: &mut Cache<String>, event: Event<Guarded>) -> Option<(&'static str, Vec<String>)> {
        let change = cache.handle(event, |object: ConfigMap| Some(object.name_any()))?;
        Some(match change {
            Change::Listed(mut all) => {
                all.sort();
                ("all", all)
            }
            Change::Applied(object) => ("applied", vec![object]),
            Change::Deleted(object) => ("gone", vec![object]),
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
        assert!(cache.objects.values().all(|entry| entry.reported), "each is reported once");
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
        assert_eq!(handle(Event::Apply(readable("a")), false).unwrap(), r#"Deleted("a")"#);
        assert_eq!(handle(Event::Apply(readable("a")), false), None);
        assert_eq!(handle(Event::Delete(readable("a")), false), None);
    }
}
