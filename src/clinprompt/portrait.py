"""A prompt file as data to look at: its card, norms and nearest tokens per position, and how its tasks differ."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from clinprompt.adapters.inspect import changes
from clinprompt.backbone.model import Backbone
from clinprompt.prompts.artifact import Metaprompt, TaskPrompt, require_backbone
from clinprompt.prompts.inspect import departures, describe, nearest_tokens, norms, task_similarity
from clinprompt.prompts.multitask import MultitaskAdapter


def portrait(
    path: Path,
    artifact: Metaprompt | TaskPrompt | MultitaskAdapter,
    backbone: Backbone | None,
    neighbours: int,
    source: str | None = None,
) -> dict[str, Any]:
    """JSON-ready. A metaprompt's positions are those of P*, or of the prompt of its task `source`.

    An adapter has no positions: `changes` says what it does to each part of the backbone, one for several tasks what it
    does for task `source` (by default its first). Without a backbone the parts
    that need one (nearest tokens, norms of the vocabulary, changes) are left out.
    """
    found = describe(path)
    if isinstance(artifact, MultitaskAdapter):
        found["shown"] = source or artifact.names[0]
        artifact = artifact.of(found["shown"])
    if isinstance(artifact, Metaprompt):
        names, matrix = task_similarity(artifact)
        found["similarity"] = {"tasks": names, "cosine": matrix}
        found["departures"] = [asdict(d) for d in departures(artifact)]
        prompt = artifact.prompt(source) if source is not None else artifact.shared
        found["shown"] = source or "P* (shared)"
    elif artifact.is_adapter:
        if backbone is not None:
            found["changes"] = changes(backbone, artifact)
        return found
    else:
        prompt, found["shown"] = artifact.prompt, artifact.task.name
    if backbone is not None:
        require_backbone(artifact.card, backbone, path)
        found["norms"] = norms(backbone, prompt)
        found["positions"] = [[asdict(n) for n in near] for near in nearest_tokens(backbone, prompt, neighbours)]
    return found
