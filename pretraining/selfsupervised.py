"""Thousands of small tasks from raw text, announced in ways that make what stands *before* the text decide.

``python -m pretraining.selfsupervised --text runs/pretraining/text.jsonl --classes runs/pretraining/classes.json \\
--tokenizer runs/pretraining/tokenizer --out runs/pretraining/shards``

Three announcements, in the surface format of `clinprompt.tasks` ("Find: X.\\nText: …\\nAnswer: a; b"):

*name*   the type is named by a frequent word of its class ("Find: Cancer.");
*demo*   the type has an arbitrary name, and one to four solved examples come first;
*code*   the example starts with the task's own sixteen input rows, which are learned together with the model and thrown
         away afterwards, and the instruction says nothing (or misleads): soft prompts, met during pretraining.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from pretraining import clusters, corpus
from pretraining.extraction import Definition, Window, definitions, dense, index, windows
from pretraining.guidelines import guideline_definitions
from pretraining.judgement import KINDS, Drawn, Material
from pretraining.packing import EOS_ID, Piece, pack, save_shard

CODE_LENGTH = 16
CODES = 256
SINGLE_CODES, SCHEMA_CODES = 160, 48
ANSWER_WEIGHT = 5
ABSENT = 0.12
"""Share of extraction examples drawn from text without regard to whether it holds a mention (most often none)."""
CURATED = 0.25
"""Share of named and demonstrated examples whose (first) definition is a guideline or a term list."""
CURATED_WINDOWS = 40000
SORTS = {"named": 0.28, "demonstrated": 0.12, "coded": 0.38, "judged": 0.22}
"""Sorts of episodes (methods of `Mixture`) with their shares."""
IDEAS = (*SORTS, "guidelines")
LABELS = (
    "Entity", "Mention", "Term", "Concept", "Item", "Finding", "Target", "Disease", "Chemical", "Gene", "Drug",
    "Symptom", "Procedure", "Species", "Protein", "Event", "Treatment", "Problem", "Test", "Anatomy", "Outcome",
    "Effect", "Reason", "Dose", "Person", "Role", "Class", "Group", "Feature", "Sign", "Condition", "Device",
    "Substance", "Value", "Site", "Cause", "Object", "Field", "Part", "A", "B",
)  # fmt: skip
SOURCE_WEIGHTS = {
    "ncbi-disease": 2.0, "bc5cdr": 2.0, "bc2gm": 1.5, "psytar": 1.5, "chemprot": 2.0, "clinical-case": 1.5,
    "trial-body": 0.35, "medquad": 0.7,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A stretch of an example and how much its tokens count as targets."""

    text: str
    weight: int


@dataclass(frozen=True, slots=True)
class Example:
    """Input rows of a code (or none), then stretches; the answer is the last one and ends the document."""

    code: int | None
    parts: tuple[Text, ...]


def rendered(instruction: str, body: str, answer: str, code: int | None = None) -> Example:
    """One solved example in the agreed surface: the answer starts with a space and ends with the end token."""
    return Example(
        code, (Text(f"{instruction}\n", 0), Text(body, 1), Text("\nAnswer:", 0), Text(f" {answer}", ANSWER_WEIGHT))
    )


def listing(window: Window, typed: list[tuple[str, Definition]], most: int = 12) -> str | None:
    """The answer of an extraction task: mentions in text order, typed if types are several; None if unwritable."""
    found: list[tuple[int, int, str]] = []
    for label, definition in typed:
        mentions = definition.mentions(window)
        if mentions is None:
            return None
        for (start, end), mention in zip(definition.find(window), mentions, strict=True):
            found.append((start, -end, mention if len(typed) == 1 else f"{label}: {mention}"))
    if len(found) > most:
        return None
    return "; ".join(text for _, _, text in sorted(found)) or "none"


def find_line(labels: list[str]) -> str:
    return f"Find: {', '.join(labels)}."


class Mixture:
    """Draws examples. Everything follows from the seed and the material."""

    def __init__(
        self,
        documents: list[corpus.Document],
        classes: list[clusters.Class],
        seed: int,
        leave_out: frozenset[str] = frozenset(),
    ) -> None:
        self.draw = random.Random(seed)
        self.leave_out = leave_out
        made: list[Window] = []
        by_document: dict[int, list[int]] = {}
        for number, document in enumerate(documents):
            keep = SOURCE_WEIGHTS.get(document.source, 1.0)
            for window in windows(document.text, number, self.draw):
                if self.draw.random() < keep:
                    by_document.setdefault(number, []).append(len(made))
                    made.append(window)
        self.material = Material(documents, made, by_document)
        defined = definitions(classes, self.draw)
        if "guidelines" not in leave_out:
            defined += guideline_definitions(documents, made, self.draw)
        self.places = index(made, defined)
        self.defined = [d for d in defined if len(self.places[d.key]) >= 20]
        self.curated = [d for d in self.defined if d.key.startswith(("guideline:", "terms:"))]
        for d in self.curated:  # they are drawn often, so from more places
            self.places[d.key] = [n for n, window in enumerate(made[:CURATED_WINDOWS]) if d.find(window)]
        self.by_key = {d.key: d for d in self.defined}
        self.singles = self.draw.sample(self.defined, min(SINGLE_CODES - len(self.curated), len(self.defined)))
        self.singles += self.curated  # each guideline has a code; drawn apart too, so that none is rare
        self.single_labels = [self.draw.choice(LABELS) for _ in self.singles]
        self.schemas = [self._schema() for _ in range(SCHEMA_CODES)]

    def _schema(self) -> list[tuple[str, Definition]]:
        count = self.draw.randint(2, 4)
        return list(zip(self.draw.sample(LABELS, count), self.draw.sample(self.defined, count), strict=True))

    def code_names(self) -> list[str]:
        """What each code announces, by number."""
        schemas = ["; ".join(f"{label}={d.key}" for label, d in schema) for schema in self.schemas]
        singles = [f"{label}={d.key}" for label, d in zip(self.single_labels, self.singles, strict=True)]
        return [*singles, *[""] * (SINGLE_CODES - len(singles)), *schemas, *KINDS]

    def window(self, definition: Definition) -> Window:
        if self.draw.random() < ABSENT:
            return self.draw.choice(self.material.windows)
        return self.material.windows[self.draw.choice(self.places[definition.key])]

    def name(self, definition: Definition) -> str:
        name = self.draw.choice(definition.names)
        return name[:1].upper() + name[1:] if self.draw.random() < 0.5 else name

    def _solve(self, typed: list[tuple[str, Definition]], line: str, code: int | None = None) -> Example | None:
        window = self.window(self.draw.choice(typed)[1])
        answer = listing(window, typed)
        return None if answer is None else rendered(line, f"Text: {window.text}", answer, code)

    def some(self, count: int) -> list[Definition]:
        """Different definitions; one in four is a curated one, which are few."""
        drawn = self.draw.sample(self.defined, count)
        if self.curated and self.draw.random() < CURATED:
            drawn[0] = self.draw.choice(self.curated)
        return drawn

    def named(self) -> list[Example]:
        """One to three types, each named by a word of its class."""
        count = self.draw.choice((1, 1, 1, 2, 3))
        typed = {self.name(d): d for d in self.some(count)}
        example = self._solve(list(typed.items()), find_line(list(typed)))
        return [example] if example else []

    def demonstrated(self) -> list[Example]:
        """Arbitrary labels; the examples of one document explain each other."""
        count = self.draw.choice((1, 1, 1, 2))
        labels = self.draw.sample(LABELS, count)
        typed = list(zip(labels, self.some(count), strict=True))
        shots = self.draw.choice((2, 2, 3, 3, 4, 6, 8))
        drawn = [self._solve(typed, find_line(labels)) for _ in range(shots)]
        kept = [example for example in drawn if example is not None]
        return kept if len(kept) >= 2 else []

    def coded(self) -> list[Example]:
        """A code decides: a single type under a label that means nothing, or a schema of several types."""
        number = self.draw.randrange(len(self.singles) + 2 * len(self.schemas))
        if number < len(self.singles):
            label = self.single_labels[number] if self.draw.random() < 0.7 else self.draw.choice(LABELS)
            example = self._solve([(label, self.singles[number])], find_line([label]), number)
        else:
            schema = (number - len(self.singles)) // 2
            typed = self.schemas[schema]
            example = self._solve(typed, find_line([label for label, _ in typed]), SINGLE_CODES + schema)
        return [example] if example else []

    def judged(self) -> list[Example]:
        """A choice or a short text; one in three announced by the code of its kind under an empty instruction."""
        kind = self.draw.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
        drawn: Drawn | None = KINDS[kind][0](self.material, self.draw)
        if drawn is None:
            return []
        code = SINGLE_CODES + SCHEMA_CODES + list(KINDS).index(kind) if self.draw.random() < 0.35 else None
        line = drawn.instruction if code is None or drawn.instruction.startswith("Choose") else "Answer."
        return [rendered(line, drawn.body, drawn.answer, code)]

    def walked(self) -> list[Example]:
        """Copying at length: the text itself, its words in disorder, or every word of a simple kind."""
        window = self.draw.choice(self.material.windows)
        kind = self.draw.random()
        if kind < 0.2:
            return [rendered(self.draw.choice(("Repeat the text.", "Copy.")), f"Text: {window.text}", window.text)]
        if kind < 0.45:
            other = self.draw.choice(self.material.windows)
            words = [word for word in (other.text + " " + window.text).split() if word.isalpha()]
            self.draw.shuffle(words)
            text = " ".join(words[: self.draw.randint(8, 45)])
            return [rendered(self.draw.choice(("Repeat the text.", "Copy.")), f"Text: {text}", text)] if text else []
        definition = dense(self.draw)
        answer = listing(window, [("", definition)], most=40)
        if answer is None or (answer == "none" and self.draw.random() < 0.8):
            return []
        return [rendered(find_line([definition.names[0]]), f"Text: {window.text}", answer)]

    def episode(self) -> list[Example]:
        """One document of the mixture: examples that see each other."""
        sorts = {name: share for name, share in SORTS.items() if name not in self.leave_out}
        chosen: Callable[[], list[Example]] = getattr(self, self.draw.choices(list(sorts), list(sorts.values()))[0])
        return chosen()


def encode(episodes: list[list[Example]], tokenizer: Tokenizer) -> list[Piece]:
    """Each episode as one piece; code rows are numbered after the vocabulary and never targets."""
    texts = [part.text for episode in episodes for example in episode for part in example.parts]
    encodings = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    size = tokenizer.get_vocab_size()
    pieces = []
    for episode in episodes:
        ids: list[int] = []
        weights: list[int] = []
        for example in episode:
            if example.code is not None:
                first = size + example.code * CODE_LENGTH
                ids += range(first, first + CODE_LENGTH)
                weights += [0] * CODE_LENGTH
            # Source and target are tokenised apart, as the backbone does it; so the parts of the source must join.
            for part in example.parts:
                tokens = next(encodings).ids
                ids += tokens
                weights += [part.weight] * len(tokens)
            ids.append(EOS_ID)
            weights.append(ANSWER_WEIGHT)
        pieces.append(Piece(ids, weights))
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=120000)
    parser.add_argument("--walks", type=int, default=36000, help="copying tasks, a shard of their own")
    parser.add_argument("--documents", type=int, default=25000, help="sample of the text that tasks are made of")
    parser.add_argument("--leave-out", nargs="+", default=[], choices=IDEAS, help="ideas to do without, for ablations")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    documents = corpus.load(args.text)
    documents = random.Random(args.seed).sample(documents, min(args.documents, len(documents)))
    mixture = Mixture(documents, clusters.load(args.classes), args.seed, frozenset(args.leave_out))
    print(f"{len(mixture.material.windows)} windows, {len(mixture.defined)} extraction definitions", flush=True)
    (args.out / "codes.json").write_text(json.dumps(mixture.code_names(), indent=1) + "\n", encoding="utf-8")
    walks = [episode for _ in range(args.walks) if (episode := mixture.walked())]
    write(args.out / "walks-256.safetensors", [p for p in encode(walks, tokenizer) if len(p.ids) <= 256], 256)
    short: list[Piece] = []
    long: list[Piece] = []
    for _ in range(0, args.episodes, 1000):
        episodes = [episode for _ in range(1000) if (episode := mixture.episode())]
        for piece in encode(episodes, tokenizer):
            if len(piece.ids) <= 256:
                short.append(piece)
            elif len(piece.ids) <= 1024:
                long.append(piece)
    write(args.out / "tasks-256.safetensors", short, 256)
    write(args.out / "tasks-1024.safetensors", long, 1024)


def write(path: Path, pieces: list[Piece], length: int) -> None:
    """Pack and save a shard, and say what is in it."""
    shard = pack(pieces, length)
    save_shard(shard, path)
    answers = int((shard.weights == ANSWER_WEIGHT).sum())
    filled = int((shard.segments > 0).sum())
    print(f"{path.stem}: {len(pieces)} episodes, {len(shard)} rows, {filled / 1e6:.2f} M tokens,", end=" ")
    print(f"{answers / filled:.1%} of them answers", flush=True)


if __name__ == "__main__":
    main()
