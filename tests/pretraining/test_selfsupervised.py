"""Answers of self-supervised tasks must stand in the text, in its order, and follow from the rule alone."""

from __future__ import annotations

import random
import re

import pytest
from pretraining.clusters import tokens, word_classes
from pretraining.corpus import Document, deduplicate, shingles
from pretraining.extraction import Definition, find_class, find_pattern, held_out, window_of
from pretraining.judgement import KINDS, Material, negate
from pretraining.packing import EOS_ID
from pretraining.selfsupervised import ANSWER_WEIGHT, CODE_LENGTH, Example, Mixture, encode, listing
from pretraining.tokenizer import train as train_tokenizer


@pytest.fixture(scope="module")
def mixture(documents: list[Document]) -> Mixture:
    classes = word_classes([tokens(d.text) for d in documents], least=3, dimensions=8)
    return Mixture(documents, classes, seed=0)


def text_and_answer(example: Example) -> tuple[str, str]:
    return "".join(part.text for part in example.parts[:-1]), example.parts[-1].text.removeprefix(" ")


def test_extracted_mentions_occur_in_the_text_in_order(mixture: Mixture) -> None:
    examples = [e for _ in range(400) for draw in (mixture.named, mixture.coded, mixture.demonstrated) for e in draw()]
    assert len(examples) > 400
    answered = 0
    for example in examples:
        source, answer = text_and_answer(example)
        instruction, _, body = source.partition("\n")
        labels = re.fullmatch(r"Find: (.*)\.", instruction)
        assert labels is not None and source.endswith("\nAnswer:")
        body = body.removeprefix("Text: ").removesuffix("\nAnswer:")
        if answer == "none":
            continue
        answered += 1
        position = 0
        for item in answer.split("; "):
            if ", " in labels.group(1):
                label, _, item = item.partition(": ")
                assert label in labels.group(1).split(", ")
            position = body.find(item, position)
            assert position >= 0, "a mention is missing from the text or out of order"
    assert answered > len(examples) // 2


def test_the_mixture_follows_from_its_seed(documents: list[Document]) -> None:
    classes = word_classes([tokens(d.text) for d in documents], least=3, dimensions=8)
    one, two = (Mixture(documents, classes, seed=4) for _ in range(2))
    assert [one.episode() for _ in range(60)] == [two.episode() for _ in range(60)]


def test_development_tasks_are_not_in_the_mixture(mixture: Mixture, documents: list[Document]) -> None:
    classes = word_classes([tokens(d.text) for d in documents], least=3, dimensions=8)
    keys = {definition.key for definition in mixture.defined}
    assert not keys & {definition.key for definition in held_out(classes)}
    assert not any("ibuprofen" in definition.members for definition in mixture.defined)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_judgements_choose_among_the_labels_they_show(kind: str, mixture: Mixture) -> None:
    draw = random.Random(1)
    drawn = [d for _ in range(300) if (d := KINDS[kind][0](mixture.material, draw)) is not None]
    for item in drawn:
        listed = re.fullmatch(r"Choose(?: the relation of << >> and \[\[ \]\])?: (.*)\.", item.instruction)
        if listed:
            assert item.answer in listed.group(1).split(", ")
        elif "\nOptions: " in item.body:
            assert item.answer in item.body.partition("\nOptions: ")[2].split("; ")
        assert item.answer.strip() == item.answer != ""


def test_marks_of_a_relation_can_be_taken_out_again(mixture: Mixture) -> None:
    draw = random.Random(2)
    texts = {window.text for window in mixture.material.windows}
    drawn = [d for _ in range(200) if (d := KINDS["relation"][0](mixture.material, draw)) is not None]
    assert drawn
    for item in drawn:
        plain = re.sub(r"<< | >>|\[\[ | \]\]", "", item.body.removeprefix("Text: "))
        assert plain in texts


def test_negation_goes_both_ways() -> None:
    assert negate("The pain was severe.") == "The pain was not severe."
    assert negate("The pain was not severe.") == "The pain was severe."
    assert negate("No verb here") is None


def test_phrases_take_neighbouring_members_and_modifiers_along() -> None:
    window = window_of("Patients with severe breast cancer, colon cancer or pain.")
    find = find_class(frozenset({"cancer", "breast"}), frozenset({"severe", "colon"}), phrase=True)
    assert [window.text[a:b] for a, b in find(window)] == ["severe breast cancer", "colon cancer"]
    single = find_class(frozenset({"cancer"}), frozenset(), phrase=False)
    assert [window.text[a:b] for a, b in single(window)] == ["cancer", "cancer"]


def test_typed_listing_is_in_text_order_and_refuses_ambiguous_mentions() -> None:
    window = window_of("Aspirin for pain; ibuprofen for fever (a;b).")
    drug = Definition("d", ("drug",), find_pattern(r"[Aa]spirin|ibuprofen"))
    ill = Definition("i", ("ill",), find_pattern(r"pain|fever"))
    assert listing(window, [("Drug", drug), ("Ill", ill)]) == "Drug: Aspirin; Ill: pain; Drug: ibuprofen; Ill: fever"
    assert listing(window, [("X", Definition("n", ("n",), find_pattern("gout")))]) == "none"
    assert listing(window, [("X", Definition("b", ("b",), find_pattern(r"\((.*)\)")))]) is None


def test_codes_stand_before_the_text_and_are_never_targets(mixture: Mixture, documents: list[Document]) -> None:
    tokenizer = train_tokenizer([d.text for d in documents], 400)
    size = tokenizer.get_vocab_size()
    episodes = [e for _ in range(40) if (e := mixture.coded())]
    for episode, piece in zip(episodes, encode(episodes, tokenizer), strict=True):
        code = episode[0].code
        assert code is not None
        assert piece.ids[:CODE_LENGTH] == list(range(size + code * CODE_LENGTH, size + (code + 1) * CODE_LENGTH))
        assert all(w == 0 for i, w in zip(piece.ids, piece.weights, strict=True) if i >= size)
        assert (piece.ids[-1], piece.weights[-1]) == (EOS_ID, ANSWER_WEIGHT)
        answer = tokenizer.encode(episode[0].parts[-1].text).ids
        assert piece.ids[-1 - len(answer) : -1] == answer


def test_words_that_stand_in_the_same_places_fall_into_one_class(documents: list[Document]) -> None:
    classes = word_classes([tokens(d.text) for d in documents], least=3, dimensions=8)
    assert any({"aspirin", "warfarin"} <= c.members for c in classes)
    assert all("the" not in c.members for c in classes)


def test_repeated_and_forbidden_texts_are_dropped(documents: list[Document]) -> None:
    first, second = documents[0], documents[1]
    copied = Document("made-up", first.text + " One more sentence at the end.")
    assert list(deduplicate([first, second, first, copied], set())) == [first, second]
    assert list(deduplicate([first, second], shingles(second.text))) == [first]


def test_material_is_plain_data() -> None:
    assert Material([], [], {}).windows == []


def test_an_idea_can_be_left_out(documents: list[Document]) -> None:
    classes = word_classes([tokens(d.text) for d in documents], least=3, dimensions=8)
    without = Mixture(documents, classes, seed=4, leave_out=frozenset(("coded", "judged", "guidelines")))
    examples = [example for _ in range(200) for example in without.episode()]
    assert examples and all(example.code is None for example in examples)
    assert all(text_and_answer(example)[0].startswith("Find: ") for example in examples)
    assert not any(d.key.startswith(("guideline:", "terms:", "head")) for d in without.defined)
    whole = Mixture(documents, classes, seed=4)
    assert any(example.code is not None for _ in range(200) for example in whole.episode())
