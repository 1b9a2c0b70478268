"""Few-shot draws: stratified, repeatable, and indifferent to how a corpus is sorted."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinprompt.records import Entity, Record, Relation
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.training.few_shot import draw_shots, stratum

NLI = TaskDefinition(name="infer", type="nli", labels={"yes": "", "no": "", "maybe": ""})


def labelled(counts: dict[str, int]) -> list[Record]:
    return [Record(f"{label}{i}", "text", hypothesis="h", label=label) for label, n in counts.items() for i in range(n)]


def test_rare_labels_take_equal_turns() -> None:
    records = labelled({"yes": 90, "no": 8, "maybe": 2})
    for draw in range(20):
        drawn = Counter(r.label for r in draw_shots(NLI, records, 9, draw=draw))
        assert drawn["maybe"] == 2 and {drawn["yes"], drawn["no"]} == {3, 4}
        assert set(Counter(r.label for r in draw_shots(NLI, records, 3, draw=draw)).values()) == {1}


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["yes", "no", "maybe"]), st.integers(1, 9), min_size=1),
    st.integers(0, 30),
    st.integers(0, 9),
    st.randoms(use_true_random=False),
)
def test_draws_are_subsets_of_the_right_size_in_any_order(
    counts: dict[str, int], shots: int, draw: int, random: object
) -> None:
    records = labelled(counts)
    drawn = draw_shots(NLI, records, shots, draw=draw)
    assert len(drawn) == len({r.id for r in drawn}) == min(shots, len(records))
    assert {r.id for r in drawn} <= {r.id for r in records}
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert draw_shots(NLI, shuffled, shots, draw=draw) == drawn


def test_more_shots_contain_fewer() -> None:
    """The k-shot curve of one draw is one growing set, so its points differ by data added and not exchanged."""
    records = labelled({"yes": 30, "no": 10})
    ids = [[r.id for r in draw_shots(NLI, records, k, draw=4)] for k in (1, 5, 10, 20)]
    for fewer, more in pairwise(ids):
        assert more[: len(fewer)] == fewer


def test_a_draw_holds_something_to_ask_about() -> None:
    """A record of one entity has no pairs: a draw of nothing else would have nothing to train on."""
    task = TaskDefinition(name="pairs", type="relation", labels={"treats": ""}, entities="given")
    two = [Entity(str(i), "Drug", ((3 * i, 3 * i + 2),)) for i in range(2)]
    askable = [Record(f"two{i}", "ab cd", entities=tuple(two)) for i in range(3)]
    records = [*askable, *(Record(f"one{i}", "ab cd", entities=(two[0],)) for i in range(9))]
    for draw in range(20):
        drawn = [{r.id for r in draw_shots(task, records, k, draw=draw)} for k in (1, 2, 5)]
        assert [len(ids) for ids in drawn] == [1, 2, 5] and drawn[0] <= drawn[2]
        assert all(any(name.startswith("two") for name in ids) for ids in drawn)
    assert [r.id for r in draw_shots(task, records[3:4], 1)] == ["one0"]


def test_draws_and_seeds_and_tasks_differ() -> None:
    records = labelled({"yes": 30, "no": 30})
    other = NLI.model_copy(update={"name": "another"})
    sets = [
        tuple(r.id for r in draw_shots(task, records, 8, draw=draw, seed=seed))
        for task, draw, seed in [(NLI, 0, 0), (NLI, 1, 0), (NLI, 0, 1), (other, 0, 0)]
    ]
    assert len(set(sets)) == 4


MENTION = Entity("e", "Drug", ((0, 1),))


@pytest.mark.parametrize(
    ("task", "record", "wanted"),
    [
        ({"type": "nli", "labels": ["a"]}, Record("1", "x", label="a"), "a"),
        ({"type": "qa", "labels": ["yes", "no"]}, Record("1", "x", answer="no"), "no"),
        ({"type": "qa"}, Record("1", "x", answer="B", options=(("A", "x"), ("B", "y"))), ""),
        ({"type": "ner", "labels": ["Drug"]}, Record("1", "x", entities=(MENTION,)), "some"),
        ({"type": "ner", "labels": ["Drug"]}, Record("1", "x"), "none"),
        (
            {"type": "relation", "labels": ["b", "a"]},
            Record("1", "x", relations=(Relation("b", "e", "f"), Relation("a", "e", "g"))),
            "a",
        ),
        ({"type": "relation", "labels": ["a"]}, Record("1", "x"), ""),
        ({"type": "summarization"}, Record("1", "x", summary="y"), ""),
    ],
)
def test_strata(task: dict[str, object], record: Record, wanted: str) -> None:
    assert stratum(TaskDefinition.model_validate({"name": "t", **task}), record) == wanted


def test_option_keys_are_no_strata() -> None:
    """That the right option is B says nothing about the question: options questions are drawn at random."""
    task = TaskDefinition(name="quiz", type="qa")
    records = [Record(str(i), "", question="q", options=(("A", "x"),), answer="A" if i else "B") for i in range(40)]
    first = [draw_shots(task, records, 1, draw=draw)[0].answer for draw in range(30)]
    assert first.count("B") < 10
