//! What was said, in conversation order, cut to what was heard.

mod entry;
mod slot;

use std::collections::BTreeMap;
use std::time::Duration;

use super::heard_text;
use super::recovery::SEED;
use crate::clock::CallTime;
use crate::ids::{ItemId, ToolCallId};
use crate::wire::model::ItemKind;

pub use entry::{Entry, Evidence, Remembered, Role, Status};
use slot::{Function, Slot, Sound, append};

/// Items of one call; what a model adds beyond that is not recorded. An hour of quick turns has fewer.
const MAX_ITEMS: usize = 2048;

/// The conversation of one call. Items stand in the order the model keeps them in, whenever their text arrives.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    slots: BTreeMap<ItemId, Slot>,
    order: Vec<ItemId>,
    announced: u32,
    dirty: bool,
    /// When the first overdue text is given up. Kept, because it is asked for with every frame.
    text_due: Option<CallTime>,
    /// The agent's item that has begun to sound last. Kept, because it is said again with every frame.
    sounding: Option<ItemId>,
    /// Stands in for the slots of items that are too many.
    spare: Slot,
    /// The last item of the sessions that are gone.
    resumed_after: Option<ItemId>,
    /// Items that tell the session what it has not heard itself, and the turn that each stands behind.
    seeds: BTreeMap<ItemId, Option<ItemId>>,
}

impl Transcript {
    /// An item took its place right after `previous`; first, if there is none. Saying it again changes nothing.
    pub(super) fn place(
        &mut self,
        now: CallTime,
        item: &ItemId,
        kind: Option<ItemKind>,
        previous: Option<ItemId>,
    ) {
        let previous = match previous {
            Some(seed) if is_seed(&seed) => self.seeds.get(&seed).cloned().flatten(),
            other => other,
        };
        let previous = previous.or_else(|| self.resumed_after.clone());
        if is_seed(item) {
            // It is no turn; what comes behind it stands where it would.
            if self.seeds.len() < MAX_ITEMS {
                self.seeds.insert(item.clone(), previous);
            }
            return;
        }
        let slot = self.slot(now, item);
        slot.kind = slot.kind.or(kind);
        if previous.as_ref() != Some(item) && slot.previous != previous {
            slot.previous = previous;
            self.reorder();
        }
    }

    /// The caller's turn is part of the conversation; unless its text is there or awaited, it is due by `text_due`.
    pub(super) fn committed(
        &mut self,
        now: CallTime,
        item: &ItemId,
        previous: Option<ItemId>,
        text_due: CallTime,
    ) {
        self.place(now, item, Some(ItemKind::User), previous);
        let Some(slot) = self.slot_of(now, item, ItemKind::User) else { return };
        if !slot.text_final {
            slot.text_due.get_or_insert(text_due);
        }
        self.plan_texts();
    }

    /// The caller began to speak; `at` is on the stream's clock.
    pub(super) fn speech_started(&mut self, now: CallTime, item: &ItemId, at: CallTime) {
        let Some(slot) = self.slot_of(now, item, ItemKind::User) else { return };
        slot.audio_start = Some(at);
        slot.at = at;
    }

    /// The caller fell silent; the text is due by `text_due`.
    pub(super) fn speech_stopped(&mut self, now: CallTime, item: &ItemId, at: CallTime, text_due: CallTime) {
        let Some(slot) = self.slot_of(now, item, ItemKind::User) else { return };
        slot.audio_end = Some(at);
        if !slot.text_final {
            slot.text_due = Some(text_due);
        }
        self.plan_texts();
    }

    /// Part of the caller's text; the rest is awaited a while longer.
    pub(super) fn user_delta(&mut self, now: CallTime, item: &ItemId, text: &str) {
        let Some(slot) = self.slot_of(now, item, ItemKind::User) else { return };
        if !slot.text_final {
            append(&mut slot.text, text);
        }
    }

    /// The caller's words; `None` when they could not be written down.
    pub(super) fn user_text(&mut self, now: CallTime, item: &ItemId, text: Option<&str>) {
        let Some(slot) = self.slot_of(now, item, ItemKind::User) else { return };
        if slot.text_final && text.is_none() {
            return;
        }
        slot.text.clear();
        append(&mut slot.text, text.unwrap_or_default());
        slot.text_final = true;
        slot.text_due = None;
        self.dirty = true;
        self.plan_texts();
    }

    /// There was no turn after all: the model had nothing to commit.
    pub(super) fn forget(&mut self, item: &ItemId) {
        if self.slots.get(item).is_none_or(|slot| slot.written.is_some()) {
            return;
        }
        let Some(forgotten) = self.slots.remove(item) else { return };
        for slot in self.slots.values_mut().filter(|slot| slot.previous.as_ref() == Some(item)) {
            slot.previous.clone_from(&forgotten.previous);
        }
        self.order.retain(|other| other != item);
        self.dirty = true;
        self.plan_texts();
    }

    /// The caller's turns from there on, as far as they have no text, will be heard and written down by another session.
    pub(super) fn forget_unwritten(&mut self, from: CallTime) {
        let unwritten = |slot: &Slot| {
            let is_turn = slot.kind == Some(ItemKind::User) && !slot.text_final && !slot.former;
            is_turn && slot.audio_start.is_some_and(|start| start >= from)
        };
        let slots = self.slots.iter().filter(|(_, slot)| unwritten(slot));
        let items: Vec<ItemId> = slots.map(|(item, _)| item.clone()).collect();
        for item in items {
            self.forget(&item);
        }
    }

    /// More of the agent's words.
    pub(super) fn agent_delta(&mut self, now: CallTime, item: &str, text: &str) {
        let Some(slot) = self.agent_slot(now, item) else { return };
        if !slot.text_final {
            append(&mut slot.text, text);
        }
    }

    /// All of the agent's words.
    pub(super) fn agent_text(&mut self, now: CallTime, item: &ItemId, text: &str) {
        let Some(slot) = self.slot_of(now, item, ItemKind::Assistant) else { return };
        slot.text.clear();
        append(&mut slot.text, text);
        slot.text_final = true;
        self.dirty = true;
    }

    /// The first sound of an agent's item was sent.
    pub(super) fn agent_started(&mut self, now: CallTime, item: &ItemId, latency: Option<Duration>) {
        if self.sounding.as_ref() == Some(item) {
            return;
        }
        let Some(slot) = self.slot_of(now, item, ItemKind::Assistant) else { return };
        if slot.audio_start.is_none() {
            slot.audio_start = Some(now);
            slot.at = now;
            slot.latency_ms = latency.map(|latency| latency.as_millis() as u64);
        }
        self.sounding = Some(item.clone());
    }

    /// The caller heard an agent's item to its end.
    pub(super) fn agent_heard(&mut self, now: CallTime, item: &ItemId, ms: u64, evidence: Evidence) {
        self.agent_sound(now, item, Sound::Heard { ms, evidence });
    }

    /// The caller heard only part of an agent's item.
    pub(super) fn agent_cut(
        &mut self,
        now: CallTime,
        item: &ItemId,
        heard_ms: u64,
        received_ms: u64,
        evidence: Evidence,
    ) {
        self.agent_sound(now, item, Sound::Cut { heard_ms, received_ms, evidence });
    }

    fn agent_sound(&mut self, now: CallTime, item: &ItemId, sound: Sound) {
        let Some(slot) = self.slot_of(now, item, ItemKind::Assistant) else { return };
        slot.sound = sound;
        slot.audio_end = Some(now);
        self.dirty = true;
    }

    /// No sound will come any more for the agent's items that have none: their words were not heard. `plays` names
    /// the items whose sound is on its way to the caller.
    pub(super) fn agent_unheard(&mut self, plays: impl Fn(&ItemId) -> bool) {
        for (item, slot) in &mut self.slots {
            let silent = slot.kind == Some(ItemKind::Assistant) && slot.sound == Sound::Pending;
            if silent && !slot.text.is_empty() && !plays(item) {
                slot.sound = Sound::Cut { heard_ms: 0, received_ms: 0, evidence: Evidence::Clock };
                self.dirty = true;
            }
        }
    }

    /// No more text will come for the agent's items that stand now.
    pub(super) fn agent_texts_are_final(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| slot.kind == Some(ItemKind::Assistant)) {
            slot.text_final = true;
        }
        self.dirty = true;
    }

    /// A function was asked for.
    pub(super) fn function_asked(
        &mut self,
        now: CallTime,
        item: &ItemId,
        name: &str,
        call: &ToolCallId,
        arguments: &str,
    ) {
        let Some(slot) = self.slot_of(now, item, ItemKind::FunctionCall) else { return };
        let (name, arguments) = (name.to_owned(), arguments.to_owned());
        slot.function = Some(Function { name, call: call.clone(), arguments, output: None });
        self.dirty = true;
    }

    /// It has answered.
    pub(super) fn function_answered(&mut self, item: &ItemId, output: &str) {
        let Some(function) = self.slots.get_mut(item).and_then(|slot| slot.function.as_mut()) else { return };
        append(function.output.insert(String::new()), output);
        self.dirty = true;
    }

    /// The caller pressed keys; we added the item ourselves, at the end.
    pub(super) fn keypad(&mut self, now: CallTime, item: &ItemId, text: &str) {
        let last = self.order.last().cloned();
        self.place(now, item, Some(ItemKind::User), last);
        self.user_text(now, item, Some(text));
    }

    /// We told the agent something; we added the item ourselves, at the end.
    pub(super) fn note(&mut self, now: CallTime, item: &ItemId, text: &str) {
        let last = self.order.last().cloned();
        self.place(now, item, Some(ItemKind::System), last);
        let Some(slot) = self.slot_of(now, item, ItemKind::System) else { return };
        append(&mut slot.text, text);
        self.dirty = true;
    }

    /// When to call [`Self::close_overdue`].
    pub(super) const fn text_due(&self) -> Option<CallTime> {
        self.text_due
    }

    fn plan_texts(&mut self) {
        self.text_due = self.slots.values().filter_map(|slot| slot.text_due).min();
    }

    /// Closes the caller's turns whose text is overdue.
    pub(super) fn close_overdue(&mut self, now: CallTime) {
        let overdue = self.slots.values_mut().filter(|slot| slot.text_due.is_some_and(|due| due <= now));
        for slot in overdue {
            slot.text_due = None;
            slot.text_final = true;
            self.dirty = true;
        }
        self.plan_texts();
    }

    /// True while the text of a caller's turn is awaited, a turn that is being spoken included.
    pub(super) fn awaits_text(&self) -> bool {
        self.slots.values().any(|slot| slot.kind == Some(ItemKind::User) && !slot.text_final)
    }

    /// The session is gone: no more texts come from it, and what is said in the next one stands behind.
    /// `arriving` is the agent's item of which more was to come.
    pub(super) fn session_lost(&mut self, arriving: Option<&ItemId>) {
        if let Some(slot) = arriving.and_then(|item| self.slots.get_mut(item)) {
            slot.broken = true;
        }
        for slot in self.slots.values_mut() {
            slot.former = true;
            if matches!(slot.kind, Some(ItemKind::User | ItemKind::Assistant)) {
                slot.text_final = true;
                slot.text_due = None;
            }
        }
        self.resumed_after = self.order.last().cloned();
        self.seeds.clear();
        self.dirty = true;
        self.plan_texts();
    }

    /// The session of this item is gone; the one there is now knows it only by its words.
    pub(super) fn is_of_former_session(&self, item: &ItemId) -> bool {
        self.slots.get(item).is_some_and(|slot| slot.former)
    }

    /// The words of an agent's item up to there.
    pub(super) fn words_until(&self, item: &ItemId, heard_ms: u64, received_ms: u64) -> &str {
        self.slots.get(item).map_or("", |slot| heard_text::cut(slot.text.trim(), heard_ms, received_ms))
    }

    /// The conversation so far, as it was heard. `received_ms` tells how much audio there is of an item that is still
    /// being played: all of it will be heard.
    pub(super) fn remembered(&self, received_ms: impl Fn(&ItemId) -> u64) -> Vec<Remembered> {
        let remember = |item: &ItemId| self.slots.get(item)?.remembered(|| received_ms(item));
        self.order.iter().filter_map(remember).collect()
    }

    /// Closes everything; whatever was not final is final now.
    pub(super) fn close(&mut self) {
        self.agent_unheard(|_| false);
        for slot in self.slots.values_mut() {
            slot.text_final = true;
            slot.text_due = None;
        }
        self.dirty = true;
        self.plan_texts();
    }

    /// Entries that are finished and differ from what was handed out before, in conversation order.
    pub(super) fn take_changes(&mut self) -> Vec<Entry> {
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (index, item) in self.order.iter().enumerate() {
            let Some(slot) = self.slots.get_mut(item) else { continue };
            let Some(mut entry) = slot.entry(item, index as u32 + 1) else { continue };
            if let Some(written) = &slot.written {
                entry.revision = written.revision;
                if entry == *written {
                    continue;
                }
                entry.revision += 1;
            }
            slot.written = Some(entry.clone());
            changes.push(entry);
        }
        changes
    }

    fn agent_slot(&mut self, now: CallTime, item: &str) -> Option<&mut Slot> {
        if !self.slots.contains_key(item) {
            return self.slot_of(now, &ItemId::parse(item).ok()?, ItemKind::Assistant);
        }
        let slot = self.slots.get_mut(item)?;
        (*slot.kind.get_or_insert(ItemKind::Assistant) == ItemKind::Assistant).then_some(slot)
    }

    /// The item's slot, if it is of this kind or of none yet: an item does not change sides.
    fn slot_of(&mut self, now: CallTime, item: &ItemId, kind: ItemKind) -> Option<&mut Slot> {
        let slot = self.slot(now, item);
        (*slot.kind.get_or_insert(kind) == kind).then_some(slot)
    }

    /// The item's slot; a new one stands at the end until it is placed.
    fn slot(&mut self, now: CallTime, item: &ItemId) -> &mut Slot {
        if !self.slots.contains_key(item) {
            if self.slots.len() == MAX_ITEMS {
                self.spare = Slot::default();
                return &mut self.spare;
            }
            self.announced += 1;
            let slot = Slot {
                announced: self.announced,
                previous: self.order.last().cloned(),
                at: now,
                ..Slot::default()
            };
            self.slots.insert(item.clone(), slot);
            self.order.push(item.clone());
        }
        self.slots.get_mut(item).expect("it was just made")
    }

    /// Rebuilds the order: every item right after the one it names, the latest announced first where several name the
    /// same; items whose predecessor is not known stand at the end.
    fn reorder(&mut self) {
        let mut after: BTreeMap<Option<&ItemId>, Vec<&ItemId>> = BTreeMap::new();
        let mut by_announcement: Vec<_> = self.slots.iter().collect();
        by_announcement.sort_by_key(|(_, slot)| slot.announced);
        for (item, slot) in &by_announcement {
            after.entry(slot.previous.as_ref()).or_default().push(item);
        }
        let mut order = Vec::with_capacity(self.slots.len());
        let known = |item: &ItemId| self.slots.contains_key(item);
        let mut roots: Vec<&ItemId> = after.get(&None).cloned().unwrap_or_default();
        roots.reverse();
        for (item, slot) in &by_announcement {
            if slot.previous.as_ref().is_some_and(|previous| !known(previous)) {
                roots.push(item);
            }
        }
        for root in roots {
            let mut stack = vec![root];
            while let Some(item) = stack.pop() {
                order.push(item.clone());
                stack.extend(after.get(&Some(item)).into_iter().flatten());
            }
        }
        // Items that name each other in a circle have no place of their own: they keep the order they came in.
        for (item, _) in by_announcement {
            if order.len() < self.slots.len() && !order.contains(item) {
                order.push(item.clone());
            }
        }
        self.dirty |= order != self.order;
        self.order = order;
    }
}

fn is_seed(item: &ItemId) -> bool {
    item.as_str().starts_with(SEED)
}
