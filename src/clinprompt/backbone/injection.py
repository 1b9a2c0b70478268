"""Soft prompts into input embeddings, and hidden states out at the positions that matter.

Sequences are padded on the right, so under a causal mask no real token ever sees padding: no attention mask is built
and positions are simply 0, 1, 2, … That makes a batch equal to its examples one by one, whatever the lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from clinprompt.backbone import lean_llama
from clinprompt.backbone.encoding import Encoded
from clinprompt.backbone.model import Backbone


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Padded ids of B examples, prompts not included. `labels` are all target tokens of the batch, example by example;
    `owner[i]` is the example of label i and `reads[i]` the place in its sequence (prompt included) that predicts it."""

    ids: Tensor  # (B, T)
    lengths: Tensor  # (B,)
    insert_at: Tensor  # (B,)
    contexts: Tensor  # (B,)
    labels: Tensor  # (n,)
    owner: Tensor  # (n,)
    offset: Tensor  # (n,) index of the label within its target

    @property
    def size(self) -> int:
        return int(self.ids.shape[0])


@dataclass(frozen=True, slots=True)
class LabelStates:
    """What the backbone says at the label positions of a batch: `hidden` (n, layers, d), last layer last."""

    hidden: Tensor
    labels: Tensor  # (n,)
    owner: Tensor  # (n,)


def collate(backbone: Backbone, examples: Sequence[Encoded]) -> TokenBatch:
    """Pad examples on the right and index their labels."""
    lengths = np.array([len(e.ids) for e in examples])
    ids = np.full((len(examples), int(lengths.max())), backbone.tokenizer.pad_token_id, dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
    counts = np.array([e.labels for e in examples])
    tensors = (
        ids,
        lengths,
        np.array([e.insert_at for e in examples]),
        np.array([e.context for e in examples]),
        np.concatenate([e.ids[e.context :] for e in examples]).astype(np.int64),
        np.repeat(np.arange(len(examples)), counts),
        np.concatenate([np.arange(c) for c in counts]).astype(np.int64),
    )
    return TokenBatch(*(torch.from_numpy(t).to(backbone.device) for t in tensors))


def inject(tokens: Tensor, prompts: Tensor, insert_at: Tensor) -> Tensor:
    """(B, T, d) embeddings and (B, l, d) prompts → (B, l+T, d), each prompt before its example's `insert_at`."""
    prompts = prompts.to(tokens.dtype)
    if prompts.shape[1] == 0:
        return tokens
    first = int(insert_at[0])
    if bool((insert_at == first).all()):
        return torch.cat([tokens[:, :first], prompts, tokens[:, first:]], dim=1)
    length, total = prompts.shape[1], prompts.shape[1] + tokens.shape[1]
    place = torch.arange(total, device=tokens.device)[None]  # (1, l+T)
    start = insert_at[:, None]
    # Index into [prompt | tokens]: tokens before the insertion, the prompt, then the remaining tokens.
    index = torch.where(place < start, place + length, torch.where(place < start + length, place - start, place))
    joined = torch.cat([prompts, tokens], dim=1)
    return joined.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def label_states(backbone: Backbone, batch: TokenBatch, prompts: Tensor, layers: Sequence[int] = (-1,)) -> LabelStates:
    """Hidden states of the chosen layers at every label position; differentiable in `prompts` (B, l, d)."""
    if backbone.kind == "seq2seq":
        return _seq2seq_states(backbone, batch, prompts, layers)
    # The last token of a sequence predicts nothing, so the last column is never read.
    embeddings = inject(backbone.embed(batch.ids[:, :-1]), prompts, batch.insert_at)
    # The label at offset j is predicted one place earlier; all labels stand behind the prompt.
    reads = prompts.shape[1] + batch.contexts[batch.owner] + batch.offset - 1
    wanted = tuple(layers) != (-1,)
    if not wanted and lean_llama.recognised(backbone.model):
        with backbone.precision():
            final = lean_llama.states_at(backbone.model, embeddings, batch.owner, batch.offset, reads, backbone.prefix)
        return LabelStates(final[:, None], batch.labels, batch.owner)
    with backbone.precision():
        cache = prefix_states(backbone)
        run = backbone.model.base_model(
            inputs_embeds=embeddings,
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=wanted,
        )
    chosen = [run.hidden_states[layer] for layer in layers] if wanted else [run.last_hidden_state]
    hidden = torch.stack([states[batch.owner, reads] for states in chosen], dim=1)  # (n, layers, d)
    return LabelStates(hidden, batch.labels, batch.owner)


def prefix_states(backbone: Backbone) -> DynamicCache | None:
    """The keys and values of the prefix adapter that is applied, as a cache that grows with the text; None without."""
    if backbone.prefix is None:
        return None
    dtype = torch.bfloat16 if backbone.autocast else backbone.model.dtype
    return DynamicCache([(key.to(dtype), value.to(dtype)) for key, value in backbone.prefix])


def _seq2seq_states(backbone: Backbone, batch: TokenBatch, prompts: Tensor, layers: Sequence[int]) -> LabelStates:
    sources, mask = seq2seq_inputs(backbone, batch, prompts)
    start = backbone.model.config.decoder_start_token_id
    widest = int(batch.offset.max()) + 1
    decoder = torch.full((batch.size, widest), backbone.tokenizer.pad_token_id, device=batch.ids.device)
    decoder[:, 0] = start
    later = batch.offset + 1 < widest
    decoder[batch.owner[later], batch.offset[later] + 1] = batch.labels[later]
    with backbone.precision():
        run = backbone.model.base_model(
            inputs_embeds=sources,
            attention_mask=mask,
            decoder_input_ids=decoder,
            use_cache=False,
            output_hidden_states=True,
        )
    # decoder_hidden_states[-1] is the normalised output, the same tensor as last_hidden_state.
    hidden = torch.stack([run.decoder_hidden_states[layer][batch.owner, batch.offset] for layer in layers], dim=1)
    return LabelStates(hidden, batch.labels, batch.owner)


def seq2seq_inputs(backbone: Backbone, batch: TokenBatch, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder embeddings (B, l+S, d) and mask: the target tokens at the end of `ids` are masked away."""
    widest = int(batch.contexts.max())
    embeddings = inject(backbone.embed(batch.ids[:, :widest]), prompts, batch.insert_at)
    place = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
    return embeddings, (place < (batch.contexts + prompts.shape[1])[:, None]).long()


def token_losses(backbone: Backbone, states: LabelStates) -> Tensor:
    """Negative log-likelihood of each label (n,), in fp32."""
    with backbone.precision():
        logits = backbone.head(states.hidden[:, -1])
    return functional.cross_entropy(logits.float(), states.labels, reduction="none")
