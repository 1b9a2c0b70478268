"""An engine whose answers are known: what the page does with them can then be checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import TaskPrompt, save_task
from clinprompt.serving.engine import Generated, Piece, Question
from clinprompt.serving.transformers_engine import TransformersEngine
from tests.models import tiny
from tests.serving.taskfiles import task_file

# A character outside the basic plane stands before everything: offsets are code points, JavaScript counts otherwise.
NOTE = (
    "🩺 A 61-year-old woman with severe left and right knee pain takes aspirin 100 mg daily because of chronic heart "
    "failure.\nShe denies fever. Ibuprofen was stopped: it caused gastric bleeding."
)
ANSWERS = {
    "problems": "Problem: severe left ... knee pain; Problem: right knee pain; Severity: severe; Drug: aspirin; Dose: "
    "100 mg; Problem: chronic heart failure; Organ: heart; Drug: Ibuprofen; Problem: gastric bleeding; Organ: gastric; "
    "Problem: stroke",
    "problems-2": "Problem: severe left ... knee pain; Drug: aspirin; Dose: 100 mg daily; Drug: heart failure; Drug: "
    "Ibuprofen; Problem: gastric bleeding; Problem: fever",
    "reasons": "Drug: aspirin | given for | Problem: chronic heart failure; Drug: Ibuprofen | causes | "
    "Problem: gastric bleeding",
    "summary": "A woman with heart failure takes aspirin; ibuprofen was stopped after gastric bleeding.",
    "summary-2": "A woman takes aspirin for heart failure and had gastric bleeding.",
}
SCORES = {"smokes": (-0.4, -1.6, -2.4), "smokes-2": (-1.2, -0.7, -2.9)}
ENTITIES = ["Problem", "Drug", "Dose", "Severity", "Organ"]


class ScriptedEngine(TransformersEngine):
    """Answers by the name of the task."""

    async def answer(self, question: Question) -> Generated:
        assert question.task is not None
        text = ANSWERS.get(question.task.name, "none")
        pieces = [Piece(text[at : at + 4], -0.05) for at in range(0, len(text), 4)]
        return Generated(text, (*pieces, Piece("", -0.01, "stop")))

    async def score(self, question: Question) -> tuple[float, ...]:
        assert question.task is not None
        return SCORES.get(question.task.name, tuple(-1.0 - 0.3 * n for n in range(len(question.choices))))


def scripted_folder(place: Path, backbone: Backbone | None = None) -> Path:
    """Task files of every kind, named as the answers are."""
    backbone = backbone or tiny("llama", bos=True)
    triples: Mapping[str, str] = {"given for": "", "causes": "a side effect"}
    files = {
        "problems": task_file(backbone, "problems", "ner", seed=1, labels=ENTITIES),
        "problems-2": task_file(backbone, "problems", "ner", seed=2, labels=ENTITIES),
        "reasons": task_file(backbone, "reasons", "relation", seed=3, labels=triples, entities="predicted"),
        "summary": task_file(backbone, "summary", "summarization", seed=4),
        "summary-2": task_file(backbone, "summary", "summarization", seed=5),
        "smokes": task_file(
            backbone, "smokes", "qa", seed=6, answers="labels", labels=["no", "yes", "not said"],
            description="Does the patient smoke?",
        ),
        "smokes-2": task_file(
            backbone, "smokes", "qa", seed=7, answers="labels", labels=["no", "yes", "not said"],
            description="Does the patient smoke?",
        ),
    }  # fmt: skip
    folder = place / "tasks"
    folder.mkdir(exist_ok=True)
    for name, file in files.items():
        # One window a note, so that each task is asked once.
        card = file.card.model_copy(update={"settings": {"target_reserve": 64, "window": 1000}})
        save_task(TaskPrompt(file.tensors, card), folder / f"{name}.safetensors")
    return folder
