"""Small files in the exact schema of the general benchmarks, written by us: columns, types, label numbers, nesting and
file names as the data sets' cards on the Hugging Face hub give them. No text is of the data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clinprompt.corpora.catalog import CatalogEntry, catalog_entry

Row = dict[str, Any]
STRING, INT, LABEL, FLOAT, BOOL, STRINGS = "string", "int32", "int64", "float32", "bool", "strings"  # LABEL: ClassLabel
CHOICES = {"text": STRINGS, "label": STRINGS}

# Columns in the order of the cards; a mapping is a structure.
SCHEMAS: dict[str, dict[str, Any]] = {
    "glue_sentence": {"sentence": STRING, "label": LABEL, "idx": INT},
    "glue_pair": {"sentence1": STRING, "sentence2": STRING, "label": LABEL, "idx": INT},
    "glue_stsb": {"sentence1": STRING, "sentence2": STRING, "label": FLOAT, "idx": INT},
    "glue_qqp": {"question1": STRING, "question2": STRING, "label": LABEL, "idx": INT},
    "glue_mnli": {"premise": STRING, "hypothesis": STRING, "label": LABEL, "idx": INT},
    "glue_qnli": {"question": STRING, "sentence": STRING, "label": LABEL, "idx": INT},
    "superglue_boolq": {"question": STRING, "passage": STRING, "idx": INT, "label": LABEL},
    "superglue_pair": {"premise": STRING, "hypothesis": STRING, "idx": INT, "label": LABEL},
    "superglue_copa": {
        **{"premise": STRING, "choice1": STRING, "choice2": STRING},
        **{"question": STRING, "idx": INT, "label": LABEL},
    },
    "superglue_multirc": {
        **{"paragraph": STRING, "question": STRING, "answer": STRING},
        **{"idx": {"paragraph": INT, "question": INT, "answer": INT}, "label": LABEL},
    },
    "superglue_record": {
        **{"passage": STRING, "query": STRING, "entities": STRINGS},
        "entity_spans": {"text": STRINGS, "start": "ints", "end": "ints"},
        **{"answers": STRINGS, "idx": {"passage": INT, "query": INT}},
    },
    "superglue_wic": {
        **{"word": STRING, "sentence1": STRING, "sentence2": STRING},
        **{"start1": INT, "start2": INT, "end1": INT, "end2": INT, "idx": INT, "label": LABEL},
    },
    "superglue_wsc": {
        **{"text": STRING, "span1_index": INT, "span2_index": INT},
        **{"span1_text": STRING, "span2_text": STRING, "idx": INT, "label": LABEL},
    },
    "mmlu": {"question": STRING, "subject": STRING, "choices": STRINGS, "answer": LABEL},
    "boolq": {"question": STRING, "answer": BOOL, "passage": STRING},
    "piqa": {"goal": STRING, "sol1": STRING, "sol2": STRING, "label": LABEL},
    "siqa": dict.fromkeys(("context", "question", "answerA", "answerB", "answerC", "label"), STRING),
    "hellaswag": {
        **{"ind": INT, "activity_label": STRING, "ctx_a": STRING, "ctx_b": STRING, "ctx": STRING},
        **{"endings": STRINGS, "source_id": STRING, "split": STRING, "split_type": STRING, "label": STRING},
    },
    "winogrande": {"sentence": STRING, "option1": STRING, "option2": STRING, "answer": STRING},
    "arc": {"id": STRING, "question": STRING, "choices": CHOICES, "answerKey": STRING},
    "openbookqa": {"id": STRING, "question_stem": STRING, "choices": CHOICES, "answerKey": STRING},
}
_SHARED = {
    **{f"glue_{name}": "glue_sentence" for name in ("cola", "sst2")},
    **{f"glue_{name}": "glue_pair" for name in ("mrpc", "rte", "wnli")},
    **{f"superglue_{name}": "superglue_pair" for name in ("cb", "rte")},
}


def schema(loader: str) -> dict[str, Any]:
    return SCHEMAS[_SHARED.get(loader, loader)]


def row(loader: str, part: str, i: int) -> Row:
    """The i-th row of a part. Labels go through all classes; texts differ between parts."""
    say = f"{part.rpartition('/')[2]} {i}"
    two, three, four = i % 2, i % 3, i % 4
    kind = _SHARED.get(loader, loader)
    options = [f"Thing {say} {letter}" for letter in "ABCD"]
    choices = {"text": options, "label": list("ABCD")}
    match kind:
        case "glue_sentence":
            return {"sentence": f"Sentence {say}. ", "label": two, "idx": i}
        case "glue_pair":
            return {"sentence1": f"First {say}.", "sentence2": f"Second {say}.", "label": two, "idx": i}
        case "glue_stsb":
            return {"sentence1": f"First {say}.", "sentence2": f"Second {say}.", "label": (i * 7 % 51) / 10, "idx": i}
        case "glue_qqp":
            return {"question1": f"Why {say}?", "question2": f"How {say}?", "label": two, "idx": i}
        case "glue_mnli":
            return {"premise": f"Premise {say}.", "hypothesis": f"Claim {say}.", "label": three, "idx": i}
        case "glue_qnli":
            return {"question": f"Why {say}?", "sentence": f"Because {say}.", "label": two, "idx": i}
        case "superglue_boolq":
            return {"question": f"is it {say}", "passage": f"It is {say}.", "idx": i, "label": two}
        case "superglue_pair":
            label = three if loader == "superglue_cb" else two
            return {"premise": f"Premise {say}.", "hypothesis": f"Claim {say}.", "idx": i, "label": label}
        case "superglue_copa":
            texts = {"premise": f"It rained {say}.", "choice1": "The street is wet.", "choice2": "The sun shone."}
            return texts | {"question": "effect" if two else "cause", "idx": i, "label": two}
        case "superglue_multirc":  # four candidates per question, two questions per paragraph
            place = {"paragraph": i // 8, "question": i // 4, "answer": i}
            texts = {"paragraph": f"Text {part} {i // 8}.", "question": f"Who {i // 4}?", "answer": f"Candidate {i}"}
            return texts | {"idx": place, "label": two}
        case "superglue_record":
            passage = f"Ada met Bo in {say}.\n@highlight\nBo was late\n@highlight\nAda left."
            spans = {"text": ["Ada", "Bo", "Ada"], "start": [0, 8, 50], "end": [2, 9, 52]}
            answers = ["Bo", "Bo Smith"] if two else ["Ada"]
            found = {"passage": passage, "query": f"@placeholder waited {say}.", "entities": ["Ada", "Bo", "Ada"]}
            return found | {"entity_spans": spans, "answers": answers, "idx": {"passage": i, "query": i}}
        case "superglue_wic":
            texts = {"word": f"bank{i}", "sentence1": f"The bank {say}.", "sentence2": f"A bank {say}."}
            return texts | {"start1": 4, "start2": 2, "end1": 8, "end2": 6, "idx": i, "label": two}
        case "superglue_wsc":
            texts = {"text": f"Mark told Pete about him , {say}.", "span1_text": "Mark", "span2_text": "him"}
            return texts | {"span1_index": 0, "span2_index": 4, "idx": i, "label": two}
        case "mmlu":
            subject = "" if "auxiliary" in part else "anatomy"
            return {"question": f"What is {say}?", "subject": subject, "choices": options, "answer": four}
        case "boolq":
            return {"question": f"is it {say}", "answer": bool(two), "passage": f"It is {say}."}
        case "piqa":
            return {"goal": f"To do {say}", "sol1": "Use a spoon.", "sol2": "Use a fork.", "label": two}
        case "siqa":
            texts = {f"answer{letter}": f"{letter} {say}" for letter in "ABC"}
            return {"context": f"Ada met Bo {say}.", "question": "Why?"} | texts | {"label": f"{three + 1}\n"}
        case "hellaswag":
            texts = {"ctx_a": f"A man {say}.", "ctx_b": "he", "ctx": f"A man {say}. he", "endings": options}
            source = {"source_id": f"activitynet~{say}", "split": "train", "split_type": "indomain"}
            return {"ind": i, "activity_label": "Cooking"} | texts | source | {"label": str(four)}
        case "winogrande":
            texts = {"sentence": f"Ada thanked Bo because _ helped {say}.", "option1": f"Ada{i}", "option2": f"Bo{i}"}
            return texts | {"answer": str(two + 1)}
        case "arc":
            numbered = {"text": options, "label": list("1234")} if i == 1 else choices  # some keys are digits
            answer = numbered["label"][four]
            return {"id": f"Q{i}", "question": f"What is {say}?", "choices": numbered, "answerKey": answer}
        case "openbookqa":
            return {"id": f"7-{i}", "question_stem": f"Things {say}", "choices": choices, "answerKey": "ABCD"[four]}
    raise ValueError(loader)


def rows(loader: str, part: str, count: int) -> Iterator[Row]:
    return (row(loader, part, i) for i in range(count))


def write(corpus_id: str, data_dir: Path, count: int = 40, *, kind: str = "parquet", shards: int = 1) -> CatalogEntry:
    """The files of a data set as the hub stores them, `count` rows in every part."""
    entry = catalog_entry(corpus_id)
    assert entry.hub is not None
    for part in entry.hub.parts:
        content = list(rows(entry.loader, part.path, count))
        size = -(-count // shards)
        for number in range(shards):
            piece = content[number * size : (number + 1) * size]
            path = entry.folder(data_dir) / file_name(part.path, entry.id, kind, number, shards)
            path.parent.mkdir(parents=True, exist_ok=True)
            (write_parquet if kind == "parquet" else write_jsonl)(path, entry.loader, piece)
    return entry


def file_name(part: str, corpus_id: str, kind: str, number: int, shards: int) -> str:
    """`datasets` and the hub's own conversion (PIQA, Social IQa) name shards differently; JSON Lines are ours."""
    if kind == "jsonl":
        return f"{part}.jsonl" if shards == 1 else f"{part}-{number:05}-of-{shards:05}.jsonl"
    if corpus_id in ("piqa", "siqa"):
        return f"{part}/{number:04}.parquet"
    return f"{part}-{number:05}-of-{shards:05}.parquet"


def write_jsonl(path: Path, loader: str, content: list[Row]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in content), encoding="utf-8")


def write_parquet(path: Path, loader: str, content: list[Row]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def arrow(kind: Any) -> Any:
        if isinstance(kind, dict):
            return pa.struct([(name, arrow(inner)) for name, inner in kind.items()])
        lists = {STRINGS: pa.list_(pa.string()), "ints": pa.list_(pa.int32())}
        names = {STRING: pa.string(), INT: pa.int32(), LABEL: pa.int64(), FLOAT: pa.float32(), BOOL: pa.bool_()}
        return lists.get(kind) or names[kind]

    columns = pa.schema([(name, arrow(kind)) for name, kind in schema(loader).items()])
    parquet.write_table(pa.Table.from_pylist(content, schema=columns), path)
