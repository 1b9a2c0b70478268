"""Byte-level BPE with digits split one by one, so that doses and counts copy reliably.

``python -m pretraining.tokenizer --text runs/pretraining/text.jsonl --out runs/pretraining/tokenizer --size 8192``
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pretraining.corpus import load

PAD, EOS = "<|pad|>", "<|eos|>"
SPECIAL = (PAD, EOS)
"""Ids 0 and 1. There is no beginning-of-sequence token: an input starts with its first word or a soft prompt."""

WORDS = r" ?\p{L}+| ?\d| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+"
"""Pieces that merges may not cross: a word with its space, one digit, a run of punctuation, white space."""

SURFACE = (
    "Find: Disease, Chemical, Drug, Gene, Species, Symptom.\nText: a\nAnswer: none; none", "Choose: yes, no, maybe.\n",
    "Choose: entailment, neutral, contradiction.\nPremise: a\nHypothesis: b\nAnswer:", "Summarize.\nText: a\nAnswer:",
    "Choose the relation of << >> and [[ ]]: mechanism, effect, none.\nText: << a >> [[ b ]]", "Find relations: a.\n",
    "Choose the answer.\nText: a\nQuestion: b\nOptions: c; d\nAnswer:", "Answer the question.\nText: Drug: a | b |\n",
)  # fmt: skip
"""The wording of tasks, repeated in the training text so that each of its words is one token."""


def train(texts: list[str], size: int) -> Tokenizer:
    """Learn `size` pieces (special tokens included) from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, context: int = 1024) -> None:
    """`tokenizer.json` and the `tokenizer_config.json` with which Transformers loads it, no Python code needed."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "bos_token": None,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--documents", type=int, default=16000, help="sample that merges are learned from")
    args = parser.parse_args()
    documents = load(args.text)
    sample = random.Random(0).sample(documents, min(args.documents, len(documents)))
    tokenizer = train([d.text for d in sample] + list(SURFACE) * 100, args.size)
    save(tokenizer, args.out)
    encoded = tokenizer.encode_batch([d.text for d in sample[:500]])
    characters = sum(len(d.text) for d in sample[:500])
    print(f"{args.size} pieces, {characters / sum(len(e.ids) for e in encoded):.2f} characters per token")


if __name__ == "__main__":
    main()
