//! What is due, what there is room for, and what that leaves: done after each event and each question.

use crate::core::{
    ACKNOWLEDGE_TIMEOUT, Chart, Effect, FRESH, HUNG, Kind, LAUNCH_TIMEOUT, PING_INTERVAL, Phase, Proof, Session, Stack,
    StackId, StackState,
};
use camofleet_runner_api::{End, EndReason, Hot};
use std::time::Instant;

impl Chart {
    /// Does what is due, then what there is room for: claims first, in order of arrival, then hot browsers.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Effect> {
        self.end_overdue_sessions(now);
        self.end_overdue_stacks(now);
        self.serve_claims(now);
        let ended_proof = self.end_proof_in_the_way();
        if self.end_surplus(now) || ended_proof {
            // What was ended while it was launched leaves its turn to another.
            self.serve_claims(now);
        }
        self.prove(now);
        self.prewarm(now);
        self.ping(now);
        std::mem::take(&mut self.effects)
    }

    fn end_overdue_sessions(&mut self, now: Instant) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let drained = due(self.drain_deadline());
        let mut ends = Vec::new();
        for (uid, session) in &self.sessions {
            let reason = if due(session.lifetime_deadline()) {
                Some((EndReason::LifetimeExceeded, format!("{} s passed", session.request.max_lifetime_seconds)))
            } else if due(session.idle_deadline()) {
                Some((EndReason::IdleTimeout, format!("no activity for {} s", session.request.idle_timeout_seconds)))
            } else if drained {
                let seconds = self.plan.drain_timeout.as_secs();
                Some((EndReason::RunnerDrained, format!("the runner was told to go, and {seconds} s passed")))
            } else {
                None
            };
            ends.extend(reason.map(|(reason, message)| (uid.clone(), End { reason, message })));
        }
        for (uid, end) in ends {
            self.end_session(&uid, end, now);
        }
    }

    fn end_overdue_stacks(&mut self, now: Instant) {
        for id in self.stacks.keys().copied().collect::<Vec<_>>() {
            match self.stacks[&id].state {
                StackState::Launching { since } if since + LAUNCH_TIMEOUT <= now => {
                    let words = format!("the browser was not ready after {} s", LAUNCH_TIMEOUT.as_secs());
                    self.broke(id, &words, now);
                    self.effects.push(Effect::End { stack: id });
                }
                StackState::Running { since, .. } if self.proves(id) && since + LAUNCH_TIMEOUT <= now => {
                    self.page_tried(id, Some(format!("nothing came of it in {} s", LAUNCH_TIMEOUT.as_secs())), now);
                }
                StackState::Running { answered, .. } if answered + HUNG <= now && self.is_unowned(id) => {
                    self.end_stack(id);
                }
                StackState::Launching { .. } | StackState::Running { .. } | StackState::Ending => {}
            }
        }
    }

    fn serve_claims(&mut self, now: Instant) {
        for (uid, kind) in self.claims() {
            let launching = |(id, stack): (&StackId, &Stack)| {
                (stack.kind == kind && stack.is_launching() && self.is_unowned(*id)).then_some(*id)
            };
            // A prewarm that is under way is sooner ready than a launch that begins now.
            let ready_or_soon = self.hot_stack(kind, now).or_else(|| self.stacks.iter().find_map(launching));
            let Some(stack) = ready_or_soon.or_else(|| self.launch_for_claim(kind, now)) else { continue };
            self.give(&uid, stack, now);
        }
    }

    /// Sessions that have no browser yet, in order of arrival.
    pub(super) fn claims(&self) -> Vec<(String, Kind)> {
        let waits = |session: &Session| matches!(session.phase, Phase::Starting { stack: None });
        let waiting = self.sessions.iter().filter(|(_, session)| waits(session));
        waiting.map(|(uid, session)| (uid.clone(), session.request.display.into())).collect()
    }

    /// Ends hot browsers for which there is no free slot: those that do not answer first, then those of the kind that is
    /// furthest above what was asked for. Says whether there were any.
    fn end_surplus(&mut self, now: Instant) -> bool {
        let mut any = false;
        while self.unowned().count() > self.free() as usize {
            let surplus = |kind: Kind| i64::from(self.count(kind)) - i64::from(of(self.plan.prewarm, kind));
            let worst = self.unowned().max_by_key(|(id, stack)| {
                let serves = stack.is_launching() || self.is_fresh(*id, now);
                (!serves, surplus(stack.kind))
            });
            let Some((id, _)) = worst else { break };
            self.end_stack(id);
            any = true;
        }
        any
    }

    /// A session that waits goes before the proof, which is tried again later; and a runner that goes owes none. Says whether
    /// one was ended.
    fn end_proof_in_the_way(&mut self) -> bool {
        let in_the_way = self.told_to_go.is_some() || !self.claims().is_empty();
        let Proof::Tried(kind, stack) = self.proof else { return false };
        if in_the_way {
            self.proof = Proof::Wanted(kind);
            self.end_stack(stack);
        }
        in_the_way
    }

    /// Whether nothing keeps browsers that nobody waits for from being launched.
    fn has_leisure(&self, now: Instant) -> bool {
        self.claims().is_empty() && self.backoff.until().is_none_or(|until| until <= now)
    }

    /// Before hot browsers, one that shows that they are worth something.
    fn prove(&mut self, now: Instant) {
        if let Proof::Wanted(kind) = self.proof
            && self.told_to_go.is_none()
            && self.has_leisure(now)
            && let Some(stack) = self.launch(kind, now)
        {
            self.proof = Proof::Tried(kind, stack);
        }
    }

    fn prewarm(&mut self, now: Instant) {
        if !self.has_leisure(now) {
            return;
        }
        while let Some(kind) = self.wanted() {
            if self.launch(kind, now).is_none() {
                return;
            }
        }
    }

    /// The kind of hot browser that is lacking most.
    pub(super) fn wanted(&self) -> Option<Kind> {
        if self.unowned().count() >= self.free() as usize {
            return None;
        }
        let lacking = |kind: Kind| of(self.plan.prewarm, kind).saturating_sub(self.count(kind));
        [Kind::Headful, Kind::Headless].into_iter().filter(|kind| lacking(*kind) > 0).max_by_key(|kind| lacking(*kind))
    }

    /// Launches for a session. It does not wait behind what is launched for nobody yet: the youngest of those, of the other
    /// kind, leaves it its turn.
    fn launch_for_claim(&mut self, kind: Kind, now: Instant) -> Option<StackId> {
        if self.has_room() && !self.has_turn() {
            let for_nobody = self.unowned().filter(|(_, stack)| stack.is_launching()).map(|(id, _)| id);
            let youngest = for_nobody.max()?;
            self.end_stack(youngest);
        }
        self.launch(kind, now)
    }

    fn has_room(&self) -> bool {
        self.stacks.len() < self.plan.slots as usize
    }

    fn has_turn(&self) -> bool {
        let launching = self.stacks.values().filter(|stack| stack.is_launching()).count();
        launching < self.plan.launches as usize
    }

    fn launch(&mut self, kind: Kind, now: Instant) -> Option<StackId> {
        if !self.has_room() || !self.has_turn() {
            return None;
        }
        let id = StackId(self.next_stack);
        self.next_stack += 1;
        self.stacks.insert(id, Stack { kind, state: StackState::Launching { since: now } });
        self.effects.push(Effect::Launch { stack: id, kind });
        Some(id)
    }

    fn ping(&mut self, now: Instant) {
        for id in self.unowned().map(|(id, _)| id).collect::<Vec<_>>() {
            if let Some(Stack { state: StackState::Running { asked, .. }, .. }) = self.stacks.get_mut(&id)
                && *asked + PING_INTERVAL <= now
            {
                *asked = now;
                self.effects.push(Effect::Ping { stack: id });
            }
        }
    }

    /// How many sessions would be granted now.
    pub(super) fn free(&self) -> u32 {
        if self.told_to_go.is_some() {
            return 0;
        }
        let live = self.sessions.iter().filter(|(_, session)| session.is_live()).count();
        let free = self.plan.slots.saturating_sub(u32::try_from(live).unwrap_or(u32::MAX));
        match self.plan.sessions {
            0 => free,
            total => free.min(total.saturating_sub(self.served)),
        }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.plan.sessions > 0 && self.served >= self.plan.sessions
    }

    pub(super) fn is_warm(&self, now: Instant) -> bool {
        self.proof == Proof::Given && self.wanted().is_none() && self.unowned().all(|(id, _)| self.is_fresh(id, now))
    }

    pub(super) fn hot(&self, now: Instant) -> Hot {
        let count = |kind| {
            let hot = self.unowned().filter(|(id, stack)| stack.kind == kind && self.is_fresh(*id, now)).count();
            u32::try_from(hot).unwrap_or(u32::MAX)
        };
        Hot { headless: count(Kind::Headless), headful: count(Kind::Headful) }
    }

    /// The hot browser of that kind that answered last.
    pub(super) fn hot_stack(&self, kind: Kind, now: Instant) -> Option<StackId> {
        let hot = self.unowned().filter(|(id, stack)| stack.kind == kind && self.is_fresh(*id, now));
        hot.max_by_key(|(_, stack)| match stack.state {
            StackState::Running { answered, .. } => Some(answered),
            StackState::Launching { .. } | StackState::Ending => None,
        })
        .map(|(id, _)| id)
    }

    fn is_fresh(&self, id: StackId, now: Instant) -> bool {
        let state = self.stacks.get(&id).map(|stack| &stack.state);
        matches!(state, Some(StackState::Running { answered, .. }) if now < *answered + FRESH)
    }

    /// Browsers that run and that no session has.
    pub(crate) fn hot_stacks(&self) -> impl Iterator<Item = StackId> {
        let runs = |stack: &Stack| matches!(stack.state, StackState::Running { .. });
        self.unowned().filter(move |(_, stack)| runs(stack)).map(|(id, _)| id)
    }

    /// Stacks that no session has and that are not being ended.
    fn unowned(&self) -> impl Iterator<Item = (StackId, &Stack)> {
        let alive = self.stacks.iter().filter(|(_, stack)| !matches!(stack.state, StackState::Ending));
        alive.map(|(id, stack)| (*id, stack)).filter(|(id, _)| self.is_unowned(*id))
    }

    pub(super) fn is_unowned(&self, id: StackId) -> bool {
        !self.proves(id) && self.sessions.iter().all(|(_, session)| session.stack() != Some(id))
    }

    fn count(&self, kind: Kind) -> u32 {
        u32::try_from(self.unowned().filter(|(_, stack)| stack.kind == kind).count()).unwrap_or(u32::MAX)
    }

    /// When live sessions end because the runner was told to go.
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        self.told_to_go.map(|told| told + self.plan.drain_timeout)
    }

    /// When the runner stops waiting for acknowledgements; only once nothing runs any more.
    pub(super) fn quiet_deadline(&self) -> Option<Instant> {
        let told = self.told_to_go?;
        let ended = self.sessions.iter().map(|(_, session)| match session.phase {
            Phase::Ended { at, .. } => Some(at.max(told) + ACKNOWLEDGE_TIMEOUT),
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Ending { .. } => None,
        });
        ended.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

fn of(hot: Hot, kind: Kind) -> u32 {
    match kind {
        Kind::Headless => hot.headless,
        Kind::Headful => hot.headful,
    }
}
