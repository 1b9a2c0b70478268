"""Imports point one way: a module knows what stands before it in this list, and nothing behind it."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "clinprompt"
ORDER = [
    *("errors", "version", "records", "corpora", "tasks", "suites", "task_lookup", "checking"),
    *(
        "backbone",
        "prompts",
        "architecture",
        "adapters",
        "methods",
        "training",
        "evaluation",
        "planning",
        "portrait",
        "api",
        "doors",
        "experiments",
        "upkeep",
        "serving",
        "commands",
        "cli",
    ),
]
# A catalog entry says which task its corpus is, so the catalog knows what a task definition looks like.
ALLOWED = {("corpora/catalog.py", "tasks.definition")}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clinprompt"):
            inside = (node.module or "").removeprefix("clinprompt").removeprefix(".")
            found |= {inside} if inside else {alias.name for alias in node.names}
    return found


def test_nothing_imports_upward() -> None:
    rank = {name: place for place, name in enumerate(ORDER)}
    upward = set()
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE)
        own = place.parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        for module in imported(path):
            if rank[module.split(".")[0]] > rank[own]:
                upward.add((place.as_posix(), module))
    assert upward == ALLOWED
