//! Operator processes: their election, the events that they receive, and their calls.

use super::{Delivery, Mutation, Operator, World, api::Kind, runners::Runner};
use crate::support::installation;
use camofleet_crds::v1alpha1::BrowserSession;
use camofleet_operator::core::{
    BindFailure, Change, Coordinator, Effect, Event, ReadFailure, Report, WriteFailure, runner::pod_read::PodPhase,
};
use camofleet_runner_api::RunnerState;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Reasons to delete the pod of a runner that has not reported, because the runner would not keep its sessions anyway.
const MAY_REMOVE_UNREPORTED: [&str; 3] = ["pool is being deleted", "container terminated", "runner is unreachable"];

/// Whether the session's status names a runner other than this one.
fn is_duplicate(sessions: &BTreeMap<String, Arc<BrowserSession>>, session: &str, pod: &str) -> bool {
    let mut same = sessions.values().filter(|object| object.metadata.uid.as_deref() == Some(session));
    let published = same.next().and_then(|object| object.status.as_ref()?.runner.clone());
    published.is_some_and(|runner| runner.uid != pod)
}

impl World {
    pub(super) fn fresh_operator(&self) -> Operator {
        let mut operator = Operator {
            core: Coordinator::new(installation()),
            paused: false,
            epoch: 0,
            delivered: Kind::ALL.map(|kind| self.watch_events[kind as usize].len()),
            lists: Default::default(),
            inbox: Vec::new(),
            calls: Vec::new(),
            streamed: BTreeSet::new(),
            pods: BTreeSet::new(),
            pods_before_term: BTreeSet::new(),
            reported: BTreeSet::new(),
        };
        for kind in Kind::ALL {
            operator.receive(self.list(kind));
        }
        operator.receive(Event::Keys("{}".into()));
        operator
    }

    pub fn elect(&mut self, index: usize) {
        if self.leader != Some(index) && !self.operators[index].paused {
            self.begin_term(index);
        }
    }

    /// The leader loses the Lease briefly, and begins a new term.
    pub fn reacquire_lease(&mut self) {
        if let Some(leader) = self.leader.filter(|leader| !self.operators[*leader].paused) {
            self.begin_term(leader);
        }
    }

    fn begin_term(&mut self, index: usize) {
        if let Some(former) = self.leader {
            // A paused operator receives this event when it wakes.
            self.operators[former].inbox.push(Event::LostLeadership);
        }
        self.epoch = self.next_version();
        self.leader = Some(index);
        let operator = &mut self.operators[index];
        operator.epoch = self.epoch;
        operator.pods_before_term = operator.pods.clone();
        operator.reported.clear();
        operator.inbox.push(Event::BecameLeader);
    }

    pub fn restart(&mut self, index: usize) {
        self.operators[index] = self.fresh_operator();
        if self.leader == Some(index) {
            // It acquires its own Lease again, in a new term.
            self.leader = None;
            self.elect(index);
        }
    }

    /// A watch expires and lists again. The list is delivered with the next events of the watch, and replaces all
    /// undelivered events, deletions included.
    pub fn relist(&mut self, index: usize, kind: usize) {
        let kind = Kind::ALL[kind % Kind::ALL.len()];
        let list = self.list(kind);
        let operator = &mut self.operators[index];
        operator.delivered[kind as usize] = self.watch_events[kind as usize].len();
        operator.lists[kind as usize] = Some(list);
    }

    /// A watch delivers up to `count` events.
    pub fn deliver_watch_events(&mut self, index: usize, kind: usize, count: usize) {
        let kind = Kind::ALL[kind % Kind::ALL.len()];
        let operator = &mut self.operators[index];
        match (operator.lists[kind as usize].take(), self.mutation) {
            (Some(Event::Sessions(Change::Listed(all))), Mutation::RelistsOnlyAdd) => {
                operator.inbox.extend(all.into_iter().map(|session| Event::Sessions(Change::Applied(session))));
            }
            (Some(list), _) => operator.receive(list),
            (None, _) => {}
        }
        let watch_events = &self.watch_events[kind as usize];
        let delivered = &mut operator.delivered[kind as usize];
        let new = &watch_events[*delivered..(*delivered + count).min(watch_events.len())];
        *delivered += new.len();
        for event in new {
            let event = match (self.mutation, event) {
                (Mutation::DeleteByName, Event::Sessions(Change::Deleted(gone))) => {
                    // The deletion applies to the session that has the name now.
                    let now = self.sessions.get(gone.metadata.name.as_ref().unwrap()).unwrap_or(gone);
                    Event::Sessions(Change::Deleted(now.clone()))
                }
                _ => event.clone(),
            };
            operator.receive(event);
        }
    }

    pub fn deliver_all_watch_events(&mut self, index: usize, count: usize) {
        for kind in Kind::ALL {
            self.deliver_watch_events(index, kind as usize, count);
        }
    }

    pub fn step(&mut self, index: usize) {
        let now = self.now();
        let mutation = self.mutation;
        let runners: Vec<_> = self.runners.iter().map(Runner::empty_report).collect();
        let operator = &mut self.operators[index];
        if operator.paused {
            return;
        }
        let mut events = std::mem::take(&mut operator.inbox);
        if events.iter().any(|event| matches!(event, Event::BecameLeader)) {
            let unreported = runners.into_iter().filter(|(pod, _)| !operator.reported.contains(pod));
            match mutation {
                Mutation::ScheduleBeforeReports => {
                    events.extend(unreported.map(|(pod, _)| Event::RunnerUnreachable { pod }));
                }
                Mutation::OfferUnreportedSlots | Mutation::RemoveUnreportedRunners => {
                    events.extend(unreported.map(|(pod, state)| {
                        let spent = mutation == Mutation::RemoveUnreportedRunners;
                        let state = RunnerState { spent, free: if spent { 0 } else { state.slots }, ..state };
                        let report = Report::new(state, u32::MAX).unwrap();
                        Event::RunnerReported { pod, report }
                    }));
                }
                _ => {}
            }
        }
        let mut violations = Vec::new();
        for effect in operator.core.step(events, now) {
            if operator.epoch == self.epoch {
                let has_reported = |pod: &String| {
                    let in_term = |runner: &&Runner| runner.pod.uid == *pod && runner.created_in == operator.epoch;
                    operator.reported.contains(pod) || self.runners.iter().find(in_term).is_some()
                };
                match &effect {
                    Effect::Bind { session, pod, is_new: true, .. } if !has_reported(pod) => {
                        violations.push(format!("{session} was bound to {pod}, which had not reported"));
                    }
                    Effect::DeletePod { pod, reason, .. }
                        if !has_reported(pod) && !MAY_REMOVE_UNREPORTED.contains(reason) =>
                    {
                        let there = self
                            .runners
                            .iter()
                            .any(|runner| runner.pod.uid == *pod && runner.pod.phase == PodPhase::Running);
                        if there && operator.pods.contains(pod) {
                            violations.push(format!("{pod} was removed and had not reported: {reason}"));
                        }
                    }
                    _ => {}
                }
            }
            match effect {
                Effect::EndSession { session, pod, .. }
                    if mutation == Mutation::KeepDuplicates && is_duplicate(&self.sessions, &session, &pod) => {}
                Effect::StreamReports { pod, .. } => {
                    operator.streamed.insert(pod);
                }
                Effect::StopStreaming { pod } => {
                    operator.streamed.remove(&pod);
                }
                Effect::PublishEvent { .. } | Effect::Observe(_) | Effect::DeletePoolMetrics { .. } => {}
                effect => operator.calls.push((effect, operator.epoch)),
            }
        }
        self.violations.extend(violations);
        let operator = &self.operators[index];
        if let Some(at) = operator.core.next_timer().filter(|at| *at <= now.monotonic) {
            self.violations.push(format!("the core requests a timer at {at:?}, but it is already {:?}", now.monotonic));
        }
    }

    /// Completes one of the pending calls of an operator.
    pub fn complete_call(&mut self, index: usize, which: usize, delivery: Delivery) {
        let calls = &mut self.operators[index].calls;
        if calls.is_empty() {
            return;
        }
        let (effect, epoch) = calls.remove(which % calls.len());
        let mut answer = match delivery {
            Delivery::RequestLost => Self::lost(&effect),
            Delivery::ResponseLost => {
                self.execute(effect.clone(), epoch);
                Self::lost(&effect)
            }
            Delivery::Complete => self.execute(effect, epoch),
        };
        if let (Mutation::LostResponseMeansNoFreeSlot, Event::BindAnswered { answer, .. }) =
            (self.mutation, &mut answer)
            && matches!(answer, Err(BindFailure::Unknown(_)))
        {
            *answer = Err(BindFailure::NoFreeSlot);
        }
        self.operators[index].inbox.push(answer);
    }

    /// The operator's event for a call whose request or response was lost.
    fn lost(effect: &Effect) -> Event {
        let transient = || WriteFailure::Transient("lost".into());
        match effect.clone() {
            Effect::Bind { session, pod, .. } => {
                Event::BindAnswered { session, pod, answer: Err(BindFailure::Unknown("lost".into())) }
            }
            Effect::EndSession { session, pod, .. } => Event::EndAnswered { session, pod },
            Effect::PatchSession { session, .. } => Event::SessionPatched { session, answer: Err(transient()) },
            Effect::DeleteSession { session, .. } => Event::SessionDeleted { session, answer: Err(transient()) },
            Effect::CreatePod { pool, pod } => {
                Event::PodCreated { pool, name: pod.metadata.name.unwrap(), answer: Err(transient()) }
            }
            Effect::DeletePod { pod, .. } => Event::PodDeleted { pod, answer: Err(transient()) },
            Effect::AnnotatePod { pod, keys, .. } => Event::PodAnnotated { pod, keys, answer: Err(transient()) },
            Effect::PatchPool { pool, .. } | Effect::SetFinalizers { pool, .. } => {
                Event::PoolPatched { pool, answer: Err(transient()) }
            }
            Effect::ApplyDisruptionBudget { pool } => Event::DisruptionBudgetApplied { pool, answer: Err(transient()) },
            Effect::ReadSession { key, session } => {
                Event::SessionRead { key, session, answer: Err(ReadFailure::Transient) }
            }
            Effect::ReadPod { session, pod, .. } => {
                Event::PodRead { session, pod, answer: Err(ReadFailure::Transient) }
            }
            Effect::StreamReports { .. }
            | Effect::StopStreaming { .. }
            | Effect::PublishEvent { .. }
            | Effect::Observe(_)
            | Effect::DeletePoolMetrics { .. } => unreachable!("not a call"),
        }
    }

    fn execute(&mut self, effect: Effect, epoch: u64) -> Event {
        match effect {
            Effect::Bind { session, pod, request, .. } => {
                let answer = self.bind(&session, &pod, &request, epoch);
                Event::BindAnswered { session, pod, answer }
            }
            Effect::EndSession { session, pod, .. } => {
                self.end(&session, &pod, epoch);
                Event::EndAnswered { session, pod }
            }
            Effect::PatchSession { session, status, .. } => {
                Event::SessionPatched { answer: self.patch_session(&session, *status), session }
            }
            Effect::ReadSession { key, session } => {
                Event::SessionRead { answer: Ok(self.sessions.get(&key.name).cloned()), key, session }
            }
            Effect::ReadPod { pod, session, .. } => {
                let found = self.runners.iter().any(|runner| runner.pod.uid == pod);
                Event::PodRead { session, pod, answer: Ok(found) }
            }
            Effect::DeleteSession { key, session } => {
                Event::SessionDeleted { answer: self.delete_by_uid(&key.name, &session), session }
            }
            Effect::CreatePod { pool, pod } => {
                let name = pod.metadata.name.clone().unwrap();
                self.create_pod(*pod);
                Event::PodCreated { pool, name, answer: Ok(()) }
            }
            Effect::DeletePod { pod, .. } => Event::PodDeleted { answer: self.delete_pod(&pod), pod },
            Effect::AnnotatePod { pod, keys, .. } => Event::PodAnnotated { pod, keys, answer: Ok(()) },
            Effect::ApplyDisruptionBudget { pool } => Event::DisruptionBudgetApplied { pool, answer: Ok(()) },
            Effect::PatchPool { pool, status } => {
                Event::PoolPatched { answer: self.patch_pool(&pool, |pool| pool.status = Some(*status)), pool }
            }
            Effect::SetFinalizers { pool, finalizers } => Event::PoolPatched {
                answer: self.patch_pool(&pool, |pool| pool.metadata.finalizers = Some(finalizers)),
                pool,
            },
            Effect::StreamReports { .. }
            | Effect::StopStreaming { .. }
            | Effect::PublishEvent { .. }
            | Effect::Observe(_)
            | Effect::DeletePoolMetrics { .. } => unreachable!("not a call"),
        }
    }
}

impl Operator {
    /// Receives an event, and records the pods whose address the operator has observed.
    fn receive(&mut self, event: Event) {
        let pods = match &event {
            Event::Pods(Change::Listed(pods)) => pods.as_slice(),
            Event::Pods(Change::Applied(pod)) => std::slice::from_ref(pod),
            _ => &[],
        };
        self.pods.extend(pods.iter().filter(|pod| pod.address.is_some()).map(|pod| pod.uid.clone()));
        self.inbox.push(event);
    }
}
