//! Every state, every event: the exploration is exhaustive, the machine is small.

use std::collections::{BTreeMap, BTreeSet};

use ringway_topology::model::Phase;

use super::*;

type Node = (State, History);

/// Everything that can be reached from the start, with its successors.
fn explore() -> BTreeMap<Node, Vec<(Event, Node)>> {
    let mut graph = BTreeMap::new();
    let mut open = vec![(State::Planned, History::default())];
    while let Some(node) = open.pop() {
        if graph.contains_key(&node) {
            continue;
        }
        let (state, history) = node;
        let successors: Vec<(Event, Node)> = Event::ALL
            .into_iter()
            // TakeFingerprint answers "unchanged" only to a verified move.
            .filter(|event| *event != Event::Unchanged || history.verified)
            .filter_map(|event| step(state, event).ok().map(|(next, _)| (event, (next, history.after(state, event)))))
            .collect();
        open.extend(successors.iter().map(|(_, next)| *next));
        graph.insert(node, successors);
    }
    graph
}

#[test]
fn every_state_is_reachable_and_listed() {
    let reached: BTreeSet<State> = explore().keys().map(|(state, _)| *state).collect();
    let listed: BTreeSet<State> = State::all().into_iter().collect();
    assert_eq!(reached, listed);
}

#[test]
fn invariants_hold_everywhere() {
    for (state, history) in explore().into_keys() {
        assert!(switched_means_verified(state, history), "{state:?} {history:?}");
        assert!(void_is_never_switched(state, history), "{state:?} {history:?}");
        assert!(state_agrees_with_owner(state, history), "{state:?} {history:?}");
    }
}

#[test]
fn past_the_point_of_no_return_only_a_rollback_leads_back() {
    // Without RollBack, nothing that stands on the target is followed by anything that does not.
    for ((state, history), successors) in explore() {
        for (event, (next, after)) in successors {
            if history.on_target && !after.on_target {
                assert_eq!((state, event), (State::Fence(Reverse), Event::EffectDone), "-> {next:?}");
            }
        }
    }
    // And the reverse fence is reached only through the command.
    let mut open = vec![State::Switched];
    let mut seen = BTreeSet::new();
    while let Some(state) = open.pop() {
        if seen.insert(state) {
            open.extend(
                Event::ALL
                    .into_iter()
                    .filter(|e| *e != Event::RollBack)
                    .filter_map(|e| step(state, e).ok())
                    .map(|(s, _)| s),
            );
        }
    }
    assert!(!seen.contains(&State::Fence(Reverse)));
    assert!(seen.iter().all(|state| matches!(state.phase(), Phase::Switched | Phase::Completing | Phase::Done)));
}

#[test]
fn cancelling_is_for_before_the_switch() {
    for ((state, history), successors) in explore() {
        let cancels = successors.iter().any(|(event, _)| *event == Event::Cancel);
        assert!(!cancels || !history.on_target, "{state:?}");
        assert!(!cancels || state.routing().is_none_or(|routing| !routing.hold), "{state:?} holds writes");
    }
    for state in State::all() {
        assert_eq!(step(state, Event::Cancel).is_ok(), may_cancel(state));
    }
}

#[test]
fn every_state_leads_to_an_end() {
    let graph = explore();
    let mut ends: BTreeSet<Node> = graph.keys().filter(|(state, _)| state.is_final()).copied().collect();
    loop {
        let more: Vec<Node> = graph
            .iter()
            .filter(|(node, next)| !ends.contains(node) && next.iter().any(|(_, n)| ends.contains(n)))
            .map(|(node, _)| *node)
            .collect();
        if more.is_empty() {
            break;
        }
        ends.extend(more);
    }
    assert_eq!(ends.len(), graph.len());
}

#[test]
fn final_states_stay() {
    for event in Event::ALL {
        assert!(step(State::Done, event).is_err());
        assert!(step(State::Cancelled, event).is_err());
    }
}

#[test]
fn writes_are_held_only_where_a_move_may_not_pause() {
    for state in State::all() {
        if state.routing().is_some_and(|routing| routing.hold) {
            assert!(!state.may_pause(), "{state:?}");
        }
    }
}

#[test]
fn effects_are_those_of_the_states_with_one_name_each() {
    let of_states: BTreeSet<Effect> = State::all().into_iter().filter_map(effect_of).collect();
    assert_eq!(of_states, Effect::ALL.into_iter().collect());
    let names: BTreeSet<&str> = Effect::ALL.iter().map(|effect| effect.name()).collect();
    assert_eq!(names.len(), Effect::ALL.len());
}

#[test]
fn a_cutover_that_takes_too_long_undoes_itself_before_the_fence_commits_and_never_after() {
    for direction in Direction::ALL {
        for state in [State::PublishHold(direction), State::Fence(direction)] {
            for event in [Event::BoundExceeded, Event::EffectFailed(Failure::Undo)] {
                assert_eq!(step(state, event).map(|s| s.0), Ok(State::UndoHold { direction, void: false }));
            }
        }
        for state in [State::Switch(direction), State::PublishRelease(direction)] {
            assert_eq!(step(state, Event::BoundExceeded).map(|s| s.0), Ok(state));
        }
    }
}

#[test]
fn a_whole_move_and_its_rollback() {
    let mut state = State::Planned;
    let mut names = Vec::new();
    let mut go = |event| {
        let (next, effect) = step(state, event).unwrap();
        state = next;
        names.extend(effect.map(Effect::name));
        next
    };
    go(Event::Start);
    for _ in 0..10 {
        go(Event::EffectDone);
    }
    assert_eq!(go(Event::CutOver), State::PublishHold(Forward));
    for _ in 0..4 {
        go(Event::EffectDone);
    }
    assert_eq!(go(Event::RollBack), State::TakeFingerprint(Reverse));
    go(Event::Unchanged);
    for _ in 0..4 {
        go(Event::EffectDone);
    }
    assert_eq!(go(Event::CutOver), State::PublishHold(Forward));
    for _ in 0..4 {
        go(Event::EffectDone);
    }
    go(Event::WindowOver);
    for _ in 0..4 {
        go(Event::EffectDone);
    }
    assert_eq!(state, State::Done);
    assert_eq!(names.iter().filter(|name| **name == "Fence").count(), 2);
    assert_eq!(names.iter().filter(|name| **name == "ReverseFence").count(), 1);
}
