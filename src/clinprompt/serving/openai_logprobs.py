"""Log-probabilities of written tokens, in the two forms that OpenAI's API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clinprompt.serving.engine import Piece


def text(pieces: Sequence[Piece], offset: int = 0) -> dict[str, Any]:
    """As `/v1/completions` tells them, of pieces that begin at an offset (in characters) of the answer."""
    offsets = [offset]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece.text))
    return {
        "tokens": [piece.text for piece in pieces],
        "token_logprobs": [piece.logprob for piece in pieces],
        "top_logprobs": None,
        "text_offset": offsets[:-1],
    }


def chat(pieces: Sequence[Piece]) -> dict[str, Any]:
    """As `/v1/chat/completions` tells them."""
    return {"content": [_token(piece) for piece in pieces]}


def _token(piece: Piece) -> dict[str, Any]:
    return {
        "token": piece.text,
        "logprob": piece.logprob,
        "bytes": list(piece.text.encode("utf-8", "surrogatepass")),
        "top_logprobs": [],
    }
