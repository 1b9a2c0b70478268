"""The sample suite: 12 source tasks and 5 target tasks of synthetic clinical text, made anew from a seed.

The text is invented by rule. It describes no real patient, and no result on it says anything about real notes: it
exists so that the software can be shown and tested at once, without a corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from clinprompt.corpora.sample import ner, nli, qa, relation, summarization
from clinprompt.corpora.sample.task import Recipe
from clinprompt.corpora.sample.words import Split
from clinprompt.corpora.sample.writer import Writer
from clinprompt.records import Record

RECIPES: tuple[Recipe, ...] = tuple(
    sorted(
        (*ner.RECIPES, *relation.RECIPES, *qa.RECIPES, *nli.RECIPES, *summarization.RECIPES),
        key=lambda recipe: recipe.role,  # sources first; the sort is stable
    )
)


_ATTEMPTS = 1000


@dataclass(frozen=True)
class SampleTask:
    """A generated task: `definition` is what its task YAML would hold, `splits` its records."""

    name: str
    role: Literal["source", "target"]
    definition: dict[str, Any]
    splits: Mapping[str, list[Record]]


def sample_suite(*, seed: int = 0, train: int = 200, validation: int = 40, test: int = 80) -> list[SampleTask]:
    """The 17 sample tasks with these numbers of records per split, the same for the same seed on any machine.

    No text occurs twice within a task. About two in five words drawn from a lexicon in validation and test are kept
    for that split, so that no training record of any task draws them.
    The test split does not change with the size of the others. Raises ValueError when a size is negative or more
    records are asked of a task than it has different texts.
    """
    if min(train, validation, test) < 0:
        raise ValueError("the number of records per split may not be negative")
    sizes: dict[Split, int] = {"test": test, "validation": validation, "train": train}
    return [_generate(recipe, seed, sizes) for recipe in RECIPES]


def _generate(recipe: Recipe, seed: int, sizes: Mapping[Split, int]) -> SampleTask:
    texts: set[str] = set()
    made = {split: _split(recipe, seed, split, count, texts) for split, count in sizes.items()}
    ordered = {split: made[split] for split in ("train", "validation", "test")}
    return SampleTask(recipe.name, recipe.role, recipe.definition, ordered)


def _split(recipe: Recipe, seed: int, split: Split, count: int, texts: set[str]) -> list[Record]:
    """`count` records with texts that are not in `texts` yet, which grows by theirs."""
    records: list[Record] = []
    attempt = 0
    while len(records) < count:
        number = len(records)
        stratum = _stratum(recipe, seed, split, number)
        record = recipe.write(Writer(Random(f"{seed}/{recipe.name}/{split}/{number}/{attempt}"), split), stratum)
        attempt += 1
        if record.text in texts:
            if attempt > _ATTEMPTS:
                raise ValueError(
                    f"{recipe.name}: no more than about {len(texts)} different texts. Ask for fewer records."
                )
            continue
        attempt = 0
        texts.add(record.text)
        name = f"{recipe.name}-{split}-{number}"
        records.append(replace(record, id=name, group=name, meta={"synthetic": True, "stratum": stratum}))
    return records


def _stratum(recipe: Recipe, seed: int, split: Split, number: int) -> str:
    """Every stratum once in each round of as many records, in an order that changes from round to round."""
    deal, place = divmod(number, len(recipe.strata))
    order = list(recipe.strata)
    Random(f"{seed}/{recipe.name}/{split}/deal {deal}").shuffle(order)
    return order[place]
