"""Answers from a frozen backbone under soft prompts or adapters: greedy generation and likelihood of closed choices.

Mixed-task batches are the normal case: every example names the row it is read under. Examples are sorted by length,
cut into chunks of at most `token_budget` tokens, and answered in any order; results come back in the caller's order.
Padding stands behind the text and is masked, and positions count real tokens only, so an answer does not depend on
which other examples share its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from clinprompt.backbone.encoding import Encoded, target_tokens
from clinprompt.backbone.injection import collate, inject, prefix_states, seq2seq_inputs
from clinprompt.backbone.model import Backbone
from clinprompt.backbone.prefix_cache import PrefixCache
from clinprompt.backbone.presets import PromptPosition
from clinprompt.prompts.bank import Bank, DirectBank, PromptBank

Progress = Callable[[int], None]
TOKEN_BUDGET = 8192


@dataclass
class Decoder:
    """A backbone with what was learned for it, ready to answer. `prompts`: (R, l, d) or a bank of R rows."""

    backbone: Backbone
    prompts: Tensor | Bank
    position: PromptPosition = "start"
    token_budget: int = TOKEN_BUDGET
    cached: bool = True  # prompt keys/values from the prefix cache; False recomputes them with every batch

    def __post_init__(self) -> None:
        self._cache = PrefixCache(self.backbone)
        given = self.prompts
        self._bank: Bank = DirectBank(given).to(self.backbone.device) if isinstance(given, Tensor) else given

    @torch.inference_mode()
    def generate(
        self, examples: Sequence[Encoded], rows: Sequence[int], limit: int, progress: Progress | None = None
    ) -> list[str]:
        """Greedy answers of at most `limit` tokens."""
        answers: list[str] = [""] * len(examples)
        for chunk in self._chunks(examples, rows, extra=limit):
            ids = self._generate_chunk([examples[i] for i in chunk], [rows[i] for i in chunk], limit)
            texts = self.backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for index, text in zip(chunk, texts, strict=True):
                answers[index] = text.strip()
            if progress:
                progress(len(chunk))
        return answers

    @torch.inference_mode()
    def score(
        self,
        examples: Sequence[Encoded],
        rows: Sequence[int],
        choices: Sequence[Sequence[str]],
        progress: Progress | None = None,
    ) -> list[tuple[float, ...]]:
        """Mean log-likelihood per token (EOS included) of every choice of every example."""
        scores: list[tuple[float, ...]] = [()] * len(examples)
        ids = [target_tokens(self.backbone, list(options)) for options in choices]
        for chunk in self._chunks(examples, rows, extra=8):
            part = [examples[i] for i in chunk]
            found = self._score_chunk(part, [rows[i] for i in chunk], [ids[i] for i in chunk])
            for index, values in zip(chunk, found, strict=True):
                scores[index] = values
            if progress:
                progress(len(chunk))
        return scores

    # -- batching ---------------------------------------------------------------------------------------------------

    def _chunks(self, examples: Sequence[Encoded], rows: Sequence[int], extra: int) -> Iterator[list[int]]:
        """Indices of similar length, at most `token_budget` padded tokens together; of one row where rows cannot mix.

        With sliding-window layers only equal lengths share a batch: padding between text and answer would push text
        out of a window that is counted in cache slots.
        """
        apart = [0 if self._bank.mixes else row for row in rows]
        order = sorted(range(len(examples)), key=lambda i: (apart[i], len(examples[i].ids)))
        equal = self.backbone.sliding_window is not None
        chunk: list[int] = []
        for index in order:
            size = len(examples[index].ids) + self._bank.length + extra
            full = (len(chunk) + 1) * size > self.token_budget
            differs = equal and chunk and len(examples[chunk[0]].ids) != len(examples[index].ids)
            if chunk and (full or differs or apart[chunk[0]] != apart[index]):
                yield chunk
                chunk = []
            chunk.append(index)
        if chunk:
            yield chunk

    def _inside(self, rows: Sequence[int]) -> AbstractContextManager[object]:
        """The backbone as examples of these rows see it; nothing to do for prompts, which are in the cache by then."""
        return self._bank.applied(self.backbone, rows) if self._bank.adapts else nullcontext()

    def _prefill(self, examples: Sequence[Encoded], rows: Sequence[int]) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Read prompts and texts. Returns next-token logits (B, V), the cache, its mask (B, S), lengths (B,)."""
        if self.cached and not self._bank.adapts and self.position != "end" and self._bank.length:
            cache, done = self._cache.stack(self._prompts(rows), self.position)
            skip = examples[0].insert_at  # BOS is in the cached prefix
            batch = collate(self.backbone, [Encoded(e.ids[skip:], e.context - skip, 0) for e in examples])
            return self._read(self.backbone.embed(batch.ids), batch.lengths, cache, done)
        with self._bank.applied(self.backbone, rows) as prompts:
            before = prefix_states(self.backbone)
            done = 0 if before is None else before.get_seq_length()
            batch = collate(self.backbone, examples)
            embeddings = inject(self.backbone.embed(batch.ids), prompts, batch.insert_at)
            lengths = batch.lengths + prompts.shape[1]
            return self._read(embeddings, lengths, DynamicCache() if before is None else before, done)

    def _prompts(self, rows: Sequence[int]) -> list[Tensor]:
        """The prompt (l, d) of each row; every distinct one is composed once."""
        bank: PromptBank = self._bank  # type: ignore[assignment]
        distinct = sorted(set(rows))
        composed = bank.compose(torch.tensor(distinct, device=self.backbone.device))
        found = dict(zip(distinct, composed, strict=True))
        return [found[row] for row in rows]

    def _read(
        self, embeddings: Tensor, lengths: Tensor, cache: DynamicCache, done: int
    ) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Texts (B, S, d) of `lengths` behind the `done` positions in the cache; as `_prefill`."""
        count = len(embeddings)
        place = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
        mask = torch.cat([torch.ones(count, done, device=place.device), place < lengths[:, None]], dim=1).long()
        with self.backbone.precision():
            run = self.backbone.model.base_model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=(done + place).expand(count, -1),
                past_key_values=cache,
                use_cache=True,
            )
            logits = self.backbone.head(run.last_hidden_state[torch.arange(count), lengths - 1])
        return logits, run.past_key_values, mask, lengths + done

    # -- generation -------------------------------------------------------------------------------------------------

    def _generate_chunk(self, examples: Sequence[Encoded], rows: Sequence[int], limit: int) -> list[list[int]]:
        if self.backbone.kind == "seq2seq":
            return self._generate_seq2seq(examples, rows, limit)
        logits, cache, mask, positions = self._prefill(examples, rows)
        answers: list[list[int]] = [[] for _ in examples]
        alive = torch.arange(len(examples), device=logits.device)
        ends = torch.tensor(self.backbone.end_ids, device=logits.device)
        for step in range(limit):
            chosen = logits.argmax(dim=-1)
            going = ~torch.isin(chosen, ends)
            if not bool(going.all()):
                keep = going.nonzero().squeeze(1)
                alive, chosen, mask, positions = alive[keep], chosen[keep], mask[keep], positions[keep]
                cache.batch_select_indices(keep)
            for index, token in zip(alive.tolist(), chosen.tolist(), strict=True):
                answers[index].append(token)
            if not len(alive) or step == limit - 1:
                break
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            with self._inside([rows[i] for i in alive.tolist()]), self.backbone.precision():
                run = self.backbone.model.base_model(
                    input_ids=chosen[:, None],
                    attention_mask=mask,
                    position_ids=positions[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
                logits = self.backbone.head(run.last_hidden_state[:, -1])
            cache, positions = run.past_key_values, positions + 1
        return answers

    def _encode_seq2seq(self, examples: Sequence[Encoded], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        batch = collate(self.backbone, examples)
        with self._bank.applied(self.backbone, rows) as prompts, self.backbone.precision():
            embeddings, mask = seq2seq_inputs(self.backbone, batch, prompts)
            encoded = self.backbone.model.get_encoder()(inputs_embeds=embeddings, attention_mask=mask)
        return encoded.last_hidden_state, mask

    def _generate_seq2seq(self, examples: Sequence[Encoded], rows: Sequence[int], limit: int) -> list[list[int]]:
        states, mask = self._encode_seq2seq(examples, rows)
        with self._inside(rows), self.backbone.precision():
            ids = self.backbone.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
            )
        return [row[1:] for row in ids.tolist()]

    # -- closed choices ---------------------------------------------------------------------------------------------

    def _score_chunk(
        self, examples: Sequence[Encoded], rows: Sequence[int], choices: Sequence[list[list[int]]]
    ) -> list[tuple[float, ...]]:
        owners = np.repeat(np.arange(len(examples)), [len(c) for c in choices])
        flat = [ids for options in choices for ids in options]
        totals = np.zeros(len(flat))
        if self.backbone.kind == "seq2seq":
            states, mask = self._encode_seq2seq(examples, rows)
            for part in self._parts(flat, int(states.shape[1])):
                with self._inside([rows[i] for i in owners[part]]):
                    totals[part] = self._continue_seq2seq(states, mask, owners[part], [flat[i] for i in part])
        else:
            logits, cache, mask, lengths = self._prefill(examples, rows)
            first = logits.float().log_softmax(-1)  # (B, V)
            for part in self._parts(flat, int(mask.shape[1])):
                tokens = [flat[i] for i in part]
                owner = torch.from_numpy(owners[part]).to(first.device)
                start = first[owner, torch.tensor([t[0] for t in tokens], device=first.device)]
                with self._inside([rows[i] for i in owners[part]]):
                    rest = continued(self.backbone, cache, mask, lengths, owner, tokens)
                totals[part] = (start + rest).double().cpu().numpy()
        means = totals / np.array([len(t) for t in flat])
        bounds = np.cumsum([0, *(len(c) for c in choices)])
        return [tuple(means[a:b].tolist()) for a, b in pairwise(bounds)]

    def _parts(self, flat: Sequence[list[int]], context: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """Choices in portions whose copied context stays within twice the token budget."""
        size = max(1, 2 * self.token_budget // max(1, context))
        for begin in range(0, len(flat), size):
            yield np.arange(begin, min(begin + size, len(flat)))

    def _continue_seq2seq(
        self, states: Tensor, mask: Tensor, owners: np.ndarray[tuple[int], np.dtype[np.int64]], tokens: list[list[int]]
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        longest = max(len(t) for t in tokens)
        pad = self.backbone.tokenizer.pad_token_id
        wanted = torch.tensor([t + [pad] * (longest - len(t)) for t in tokens], device=states.device)
        start = torch.full((len(tokens), 1), self.backbone.model.config.decoder_start_token_id, device=states.device)
        owner = torch.from_numpy(owners).to(states.device)
        with self.backbone.precision():
            logits = self.backbone.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states[owner]),
                attention_mask=mask[owner],
                decoder_input_ids=torch.cat([start, wanted[:, :-1]], dim=1),
                use_cache=False,
            ).logits
        values = logits.float().log_softmax(-1).gather(2, wanted[..., None]).squeeze(2)
        real = torch.tensor([[j < len(t) for j in range(longest)] for t in tokens], device=states.device)
        totals: np.ndarray[tuple[int], np.dtype[np.float64]] = (values * real).sum(dim=1).double().cpu().numpy()
        return totals


def continued(
    backbone: Backbone, cache: Iterable[Any], mask: Tensor, lengths: Tensor, owner: Tensor, tokens: Sequence[list[int]]
) -> Tensor:
    """Σ log p of the tokens of each choice after the first, in fp32 (n,), behind the context `owner[i]` of the cache.

    `cache` holds (keys, values) per layer, `mask` (B, S) says which of its columns are real, `lengths` (B,) how many.
    """
    longest = max(len(t) for t in tokens) - 1
    if longest == 0:
        return torch.zeros(len(tokens), device=mask.device)
    device, pad = mask.device, backbone.tokenizer.pad_token_id
    fed = torch.tensor([t[:-1] + [pad] * (longest - len(t) + 1) for t in tokens], device=device)  # (n, c)
    wanted = torch.tensor([t[1:] + [pad] * (longest - len(t) + 1) for t in tokens], device=device)
    real = torch.tensor([[j < len(t) - 1 for j in range(longest)] for t in tokens], device=device)
    copied = DynamicCache([(entry[0][owner], entry[1][owner]) for entry in cache])
    with backbone.precision():
        run = backbone.model.base_model(
            input_ids=fed,
            attention_mask=torch.cat([mask[owner], real.long()], dim=1),
            position_ids=lengths[owner][:, None] + torch.arange(longest, device=device)[None],
            past_key_values=copied,
            use_cache=True,
        )
        logits = backbone.head(run.last_hidden_state[real]).float()  # (tokens, V)
    values = torch.zeros(fed.shape, device=device)
    values[real] = logits.log_softmax(-1).gather(1, wanted[real][:, None]).squeeze(1)
    return values.sum(dim=1)
