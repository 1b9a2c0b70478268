"""The next token where it is not simply the most likely one: drawn at a temperature, or bound by a constraint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clinprompt.serving.engine import Constraint, Sampling

if TYPE_CHECKING:
    from clinprompt.serving.batching import Ticket

_FIRST_LOOK = 64  # likeliest tokens that are tried before all are sorted


def choose_token(logits: Tensor, ticket: Ticket, tokenizer: Any, ends: frozenset[int]) -> int:
    """The next token id from logits (V,), in fp32."""
    sampling, constraint = ticket.question.sampling, ticket.question.constraint
    if constraint is not None:
        return _constrained(logits, ticket.ids, constraint, tokenizer, ends)
    if ticket.generator is None:
        ticket.generator = torch.Generator()
        if sampling.seed is None:
            ticket.generator.seed()
        else:
            ticket.generator.manual_seed(sampling.seed)
    return _drawn(logits, sampling, ticket.generator)


def _drawn(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token of the smallest set of likeliest ones that holds `top_p` of the probability."""
    probabilities, order = (logits / sampling.temperature).softmax(-1).cpu().sort(descending=True)
    before = probabilities.cumsum(0) - probabilities
    kept = torch.where(before < sampling.top_p, probabilities, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])


def _constrained(logits: Tensor, ids: list[int], constraint: Constraint, tokenizer: Any, ends: frozenset[int]) -> int:
    """The likeliest token with which some allowed answer begins; the end where there is none."""
    silent, tried = frozenset(tokenizer.all_special_ids) - ends, 0
    for count in (min(_FIRST_LOOK, len(logits)), len(logits)):
        for token in logits.topk(count).indices[tried:].tolist():
            if token in silent:
                continue
            text = tokenizer.decode(ids if token in ends else [*ids, token], skip_special_tokens=True)
            text = text.removeprefix(" ")
            if constraint.complete(text.rstrip()) if token in ends else constraint.accepts(text):
                return int(token)
        tried = count
    return min(ends)
