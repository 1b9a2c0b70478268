"""What existing tools get wrong (measured on PEFT 0.21 with Transformers 5.23), one test or more per defect.

Further rows are tested where their code is: cached prompts and prefetching in `tests/evaluation/test_decoding.py`,
damaged and foreign files in `tests/prompts/test_artifact.py`, checkpoints that do not fit in
`tests/prompts/test_peft_format.py`, PEFT's start near zero in `tests/prompts/test_bank.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from clinprompt.adapters.prefix import prefix_bank
from clinprompt.backbone.encoding import encode
from clinprompt.backbone.injection import collate, label_states, token_losses
from clinprompt.backbone.model import Backbone
from clinprompt.errors import ArtifactError
from clinprompt.evaluation.decoding import Decoder
from clinprompt.evaluation.predict import predict, predict_task
from clinprompt.prompts.artifact import load_metaprompt, load_task, save_metaprompt, save_task
from clinprompt.records import Entity, Record
from clinprompt.tasks.codec import Output
from clinprompt.tasks.definition import TaskDefinition
from clinprompt.tasks.metrics import score
from clinprompt.tasks.registry import codec_for
from clinprompt.training.adapt import Plan, adapt
from clinprompt.training.learn import SourceTask
from clinprompt.training.settings import AdaptSettings, LoopSettings
from tests.models import tiny
from tests.prompts.cards import metaprompt_for
from tests.training.synthetic import ner_task, nli_task

SOURCES = ["Text: fever\nAnswer:", "x", "a much longer note about aspirin, warfarin and a rash\nAnswer:", "ab"]
TARGETS = ["fever", "none", "aspirin; warfarin", "x"]
CHOICES = [["yes", "no"], ["entailment", "neutral"], ["none", "x", "yes please"], ["a", "b"]]
ROWS = [0, 1, 1, 0]
KINDS = ["llama", "gpt_oss", "qwen3", "gemma2", "gpt2", "t5"]


def prompts_for(backbone: Backbone) -> torch.Tensor:
    return torch.randn(2, 5, backbone.width, generator=torch.Generator().manual_seed(4))


# -- an answer depends on the question, not on its company -----------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", ["start", "end", "front"])
def test_one_equals_many_equals_any_padding_side(kind: str, position: Any) -> None:
    """Losses, likelihoods and generated answers of a mixed-task batch, against each example alone."""
    backbone = tiny(kind)
    prompts = prompts_for(backbone)
    examples = encode(backbone, SOURCES, TARGETS, position)
    questions = encode(backbone, SOURCES, None, position)
    seen = []
    for side in ("left", "right"):
        backbone.tokenizer.padding_side = side  # what a user of the tokenizer may have set
        try:
            decoder = Decoder(backbone, prompts, position)
            with torch.no_grad():
                batch = collate(backbone, examples)
                losses = token_losses(backbone, label_states(backbone, batch, prompts[ROWS]))
                by_example = [losses[batch.owner == i] for i in range(4)]
            seen.append((by_example, decoder.score(questions, ROWS, CHOICES), decoder.generate(questions, ROWS, 8)))
            for i, row in enumerate(ROWS):
                with torch.no_grad():
                    own = label_states(backbone, collate(backbone, [examples[i]]), prompts[row][None])
                    torch.testing.assert_close(by_example[i], token_losses(backbone, own), atol=1e-5, rtol=1e-5)
                alone = decoder.score([questions[i]], [row], [CHOICES[i]])[0]
                torch.testing.assert_close(torch.tensor(seen[-1][1][i]), torch.tensor(alone), atol=1e-5, rtol=1e-5)
                assert decoder.generate([questions[i]], [row], 8) == [seen[-1][2][i]]
        finally:
            backbone.tokenizer.padding_side = "right"
    assert seen[0][1:] == seen[1][1:]


def test_peft_answers_differently_under_left_padding() -> None:
    """The defect itself: PEFT's prompt stands before the padding, torn from its text; the base model is not moved."""
    peft = pytest.importorskip("peft")
    backbone = tiny()
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    ids = torch.from_numpy(encode(backbone, SOURCES[:1], None, "start")[0].ids).long()[None]
    padded = torch.cat([torch.zeros(1, 40, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(padded.shape[1]) >= 40).long()[None]
    changes = {}
    with torch.no_grad():
        for name in ("base", "prompt"):
            model = backbone.model if name == "base" else peft.get_peft_model(backbone.model, config).eval()
            if name == "prompt":
                model.prompt_encoder.default.embedding.weight.copy_(prompts_for(backbone)[0])
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            changes[name] = float((model(input_ids=padded, attention_mask=mask).logits[0, -1] - alone).abs().max())
    assert changes["base"] < 1e-3 < 0.1 < changes["prompt"]


@pytest.mark.parametrize("kind", ["llama", "gpt_oss", "t5"])
def test_predictions_do_not_depend_on_the_other_records(kind: str) -> None:
    backbone = tiny(kind)
    for task in (ner_task(), nli_task()):
        prompt = prompts_for(backbone)[0]
        together = predict(backbone, task.task, task.train, prompt, limit=6)
        alone = [predict(backbone, task.task, [record], prompt, limit=6)[0] for record in task.train]
        for one, other in zip(together, alone, strict=True):
            assert one.record == other.record and one.malformed == other.malformed
            assert dict(one.probabilities) == pytest.approx(dict(other.probabilities), abs=1e-5)


# -- all that is trained is used -------------------------------------------------------------------------


def test_in_t5_half_of_pefts_prefix_is_never_used_and_all_of_ours_is() -> None:
    """The defect: of four layers PEFT's decoder sees the numbers of two, each twice, and trains no others."""
    peft = pytest.importorskip("peft")
    backbone, twin = tiny("t5", num_layers=4), tiny("t5", num_layers=4)
    model = peft.get_peft_model(twin.model, peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3))
    examples = encode(backbone, SOURCES[:1], TARGETS[:1], "front")
    ids = torch.from_numpy(examples[0].ids).long()[None]
    split = examples[0].context
    model(input_ids=ids[:, :split], labels=ids[:, split:]).loss.backward()
    theirs = model.prompt_encoder.default.embedding.weight.grad.view(3, 4, 2, 32)  # (m, layers, keys and values, d)
    assert theirs.ne(0).any(-1).any(-1).any(0).tolist() == [True, False, True, False]
    bank = prefix_bank(backbone, torch.randn(1, 3, 32))
    with bank.applied(backbone, [0]) as prompts:
        token_losses(backbone, label_states(backbone, collate(backbone, examples), prompts)).mean().backward()
    for values in bank.parameters.values():
        assert values.grad is not None and values.grad.ne(0).flatten(2).any(-1).all() and values.shape[1] == 12


# -- tasks are named -------------------------------------------------------------------------------------


def test_unknown_tasks_are_refused_and_the_known_listed() -> None:
    backbone = tiny()
    metaprompt = metaprompt_for(backbone, position="start")
    with pytest.raises(ArtifactError, match=r"Did you mean 'task1'\? Known: task0, task1, task2\."):
        metaprompt.prompt("tsk1")
    plan = Plan(nli_task(), AdaptSettings(start="nowhere", target_reserve=32, loop=LoopSettings(steps=1)))
    with pytest.raises(ArtifactError, match=r"unknown source task 'nowhere'\. Known: task0, task1, task2\."):
        adapt(backbone, metaprompt, [plan])


def test_a_file_whose_numbers_do_not_fit_says_what_it_holds(tmp_path: Path) -> None:
    """Rank and task count: no raw `state_dict` error."""
    metaprompt = metaprompt_for(tiny(), tasks=3, rank=2)
    fewer = metaprompt.card.model_copy(update={"tasks": metaprompt.card.tasks[:2]})
    save_metaprompt(type(metaprompt)(metaprompt.shared, metaprompt.u, metaprompt.v, fewer), tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match=r"vectors for 3 and 3 tasks of rank 2 and 2, but its card names 2 tasks"):
        load_metaprompt(tmp_path / "a.safetensors")
    uneven = type(metaprompt)(metaprompt.shared, metaprompt.u, metaprompt.v[..., :1], metaprompt.card)
    save_metaprompt(uneven, tmp_path / "b.safetensors")
    with pytest.raises(ArtifactError, match="of rank 2 and 1"):
        load_metaprompt(tmp_path / "b.safetensors")


# -- a task file says what it is -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "vectors"])
def test_a_task_file_describes_itself(mode: Any, tmp_path: Path) -> None:
    """Read with nothing but safetensors and JSON, as any other program could."""
    backbone = tiny()
    metaprompt = save_metaprompt(metaprompt_for(backbone, position="start"), tmp_path / "m.metaprompt.safetensors")
    loop = LoopSettings(steps=2, batch_size=2)
    made = adapt(backbone, metaprompt, [Plan(nli_task(), AdaptSettings(mode=mode, target_reserve=32, loop=loop))])
    save_task(made.tasks[0], tmp_path / "task.safetensors")
    with safe_open(tmp_path / "task.safetensors", "pt") as file:
        card, names = json.loads(file.metadata()["clinprompt"]), set(file.keys())
    (task,) = card["tasks"]
    assert (task["name"], task["type"], task["labels"]) == ("infer", "nli", {"yes": "follows", "no": "does not"})
    assert card["backbone"] == {"name": "tiny-llama", "fingerprint": backbone.fingerprint, "width": 32}
    assert card["metaprompt"] == metaprompt.digest and card["position"] == "start" and card.get("mode") == mode
    assert card["data"][0]["licence"] == "CC0" and card["data"][0]["records"] == 12
    assert card["settings"]["loop"]["steps"] == 2
    assert names == ({"u", "v"} if mode == "vectors" else {"prompt"})
    # What is loaded is this task's prompt, not the shared one, and it predicts as before it was saved.
    read = load_task(tmp_path / "task.safetensors")
    assert not torch.allclose(read.prompt, metaprompt.shared)
    records = nli_task().train[:4]
    assert predict_task(backbone, read, records) == predict_task(backbone, made.tasks[0], records)


def test_the_loaded_file_asks_what_was_trained(tmp_path: Path) -> None:
    """Labels in an order that sorting would change: the instruction must not change with the file."""
    task = TaskDefinition(name="t", type="ner", labels={"Zoster": "z", "Asthma": "a"})
    source = SourceTask(task, [Record(f"r{i}", "He has asthma.") for i in range(2)])
    made = adapt(tiny(), None, [Plan(source, AdaptSettings(target_reserve=32, loop=LoopSettings(steps=1)))])
    save_task(made.tasks[0], tmp_path / "t.safetensors")
    asked = [codec_for(t, len, 500).render(source.train[0]) for t in (task, load_task(tmp_path / "t.safetensors").task)]
    assert asked[0] == asked[1] and "Zoster, Asthma" in asked[1][0].source


# -- entities are places, not strings --------------------------------------------------------------------

NOTE = "Fever on Monday. No fever on Tuesday; fever came back."
SPANS = [(0, 5), (20, 25), (38, 43)]
FIND = TaskDefinition(name="find", type="ner", labels={"Problem": "a problem"})


def with_entities(*spans: tuple[tuple[int, int], ...]) -> Record:
    return Record("r", NOTE, tuple(Entity(f"T{i}", "Problem", parts) for i, parts in enumerate(spans)))


def f1(gold: Record, answer: str) -> float:
    codec = codec_for(FIND, len, 500)
    prediction = codec.parse(gold, codec.render(gold.without_gold()), [Output(answer)])
    return score(FIND, [gold], [prediction], resamples=2)["strict_f1"].value


def test_repeated_mentions_are_different_entities() -> None:
    gold = with_entities(*((span,) for span in SPANS))
    (example,) = codec_for(FIND, len, 500).render(gold)
    prediction = codec_for(FIND, len, 500).parse(gold, [example], [Output(example.target)])
    assert [e.spans for e in prediction.record.entities] == [(span,) for span in SPANS]
    assert f1(gold, example.target) == 100
    # Three mentions, one of them found: a string comparison would call this perfect.
    (only,) = codec_for(FIND, len, 500).render(with_entities((SPANS[0],)))
    assert f1(gold, only.target) == pytest.approx(50)


def test_the_right_words_in_the_wrong_place_are_wrong() -> None:
    gold = with_entities((SPANS[2],))
    (first,) = codec_for(FIND, len, 500).render(with_entities((SPANS[0],)))
    assert f1(gold, first.target) == 0


def test_words_that_are_not_there_count_as_errors() -> None:
    gold = with_entities((SPANS[0],))
    (example,) = codec_for(FIND, len, 500).render(gold)
    assert f1(gold, example.target + "; measles") == pytest.approx(200 / 3)


# -- sliding windows -------------------------------------------------------------------------------------


def test_behind_a_long_note_a_prompt_keeps_its_say_over_local_layers() -> None:
    """A model of local layers only: from the start of a note longer than its reach, a prompt says nothing at all."""
    backbone = tiny("gpt_oss", layer_types=["sliding_attention"] * 2)
    assert backbone.sliding_window == 16
    long = "word " * 30 + "\nAnswer:"
    changes = {}
    for position in ("start", "end"):
        question = encode(backbone, [long], None, position)  # type: ignore[arg-type]
        scores = Decoder(backbone, prompts_for(backbone), position).score(question * 2, [0, 1], [["yes", "no"]] * 2)  # type: ignore[arg-type]
        changes[position] = max(abs(a - b) for a, b in zip(*scores, strict=True))
    assert changes["start"] < 1e-5 < 1e-2 < changes["end"]
