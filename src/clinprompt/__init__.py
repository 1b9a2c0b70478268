"""clinprompt: one frozen language model for every clinical NLP task, at kilobytes per task.

The verbs of the command line are functions here; they are imported when they are first used, so that
``import clinprompt`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clinprompt.version import __version__ as __version__

if TYPE_CHECKING:
    from clinprompt.api import adapt as adapt
    from clinprompt.api import adapt_all as adapt_all
    from clinprompt.api import evaluate as evaluate
    from clinprompt.api import inspect as inspect
    from clinprompt.api import learn as learn
    from clinprompt.api import load_artifact as load_artifact
    from clinprompt.api import predict as predict
    from clinprompt.backbone.model import Backbone as Backbone
    from clinprompt.backbone.model import load_backbone as load_backbone
    from clinprompt.errors import ClinpromptError as ClinpromptError
    from clinprompt.evaluation.evaluate import Evaluation as Evaluation
    from clinprompt.prompts.artifact import Metaprompt as Metaprompt
    from clinprompt.prompts.artifact import TaskPrompt as TaskPrompt
    from clinprompt.records import Entity as Entity
    from clinprompt.records import Record as Record
    from clinprompt.records import Relation as Relation
    from clinprompt.suites import TaskData as TaskData
    from clinprompt.task_lookup import load_suite as load_suite
    from clinprompt.task_lookup import load_task as load_task
    from clinprompt.tasks.codec import Prediction as Prediction
    from clinprompt.tasks.definition import TaskDefinition as TaskDefinition
    from clinprompt.training.settings import AdaptSettings as AdaptSettings
    from clinprompt.training.settings import LearnSettings as LearnSettings
    from clinprompt.training.settings import LoopSettings as LoopSettings

_HOMES = {
    "clinprompt.api": ("adapt", "adapt_all", "evaluate", "inspect", "learn", "load_artifact", "predict"),
    "clinprompt.backbone.model": ("Backbone", "load_backbone"),
    "clinprompt.errors": ("ClinpromptError",),
    "clinprompt.evaluation.evaluate": ("Evaluation",),
    "clinprompt.prompts.artifact": ("Metaprompt", "TaskPrompt"),
    "clinprompt.records": ("Entity", "Record", "Relation"),
    "clinprompt.suites": ("TaskData",),
    "clinprompt.task_lookup": ("load_suite", "load_task"),
    "clinprompt.tasks.codec": ("Prediction",),
    "clinprompt.tasks.definition": ("TaskDefinition",),
    "clinprompt.training.settings": ("AdaptSettings", "LearnSettings", "LoopSettings"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'clinprompt' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
