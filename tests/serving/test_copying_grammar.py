"""The grammar of copied answers: read by a reader of its own, it allows what the token-by-token constraint does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from clinprompt.serving.constraint import Copied
from clinprompt.tasks import surface

TEXTS = st.text("aé1_;\\ .\"-'", min_size=1, max_size=12).map(surface.normalise).filter(bool)
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\w+|[()|?*]')


class Grammar:
    """A small reader of the EBNF we write: literals, names, groups, alternatives, `?`, `*`."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, list[str]] = {}
        for line in text.splitlines():
            name, _, body = line.partition(" ::= ")
            assert name not in self.rules
            self.rules[name] = TOKEN.findall(body)
            assert "".join(self.rules[name]) == "".join(_unspaced(body))

    def allows(self, text: str) -> bool:
        return len(text) in self.ends("root", text, 0)

    def ends(self, rule: str, text: str, at: int) -> set[int]:
        """Where a rule that begins at `at` may end."""
        found, rest = self._alternatives(self.rules[rule], 0, text, {at})
        assert rest == len(self.rules[rule])
        return found

    def _alternatives(self, tokens: list[str], i: int, text: str, at: set[int]) -> tuple[set[int], int]:
        found: set[int] = set()
        current = at
        while i < len(tokens) and tokens[i] != ")":
            if tokens[i] == "|":
                found, current, i = found | current, at, i + 1
                continue
            current, i = self._part(tokens, i, text, current)
        return found | current, i

    def _part(self, tokens: list[str], i: int, text: str, at: set[int]) -> tuple[set[int], int]:
        once, after = self._atom(tokens, i, text, at)
        sign = tokens[after] if after < len(tokens) else ""
        if sign == "?":
            return at | once, after + 1
        if sign != "*":
            return once, after
        reached, new = at | once, once - at
        while new:
            more, _ = self._atom(tokens, i, text, new)
            new, reached = more - reached, reached | more
        return reached, after + 1

    def _atom(self, tokens: list[str], i: int, text: str, at: set[int]) -> tuple[set[int], int]:
        if tokens[i] == "(":
            found, close = self._alternatives(tokens, i + 1, text, at)
            return found, close + 1
        if tokens[i].startswith('"'):
            literal = json.loads(tokens[i])
            return {place + len(literal) for place in at if text.startswith(literal, place)}, i + 1
        return {end for place in at for end in self.ends(tokens[i], text, place)}, i + 1


def _unspaced(body: str) -> Iterator[str]:
    """The body without the spaces between its tokens."""
    yield from re.findall(r'"(?:[^"\\]|\\.)*"|\S', body)


def answers(text: str) -> list[str]:
    """All runs of characters, as written in an answer, whether they may be copied or not."""
    runs = {text[low:high] for low in range(len(text)) for high in range(low + 1, len(text) + 1)}
    return [re.sub(r"[;\\]", r"\\\g<0>", run) for run in runs if run == run.strip()]


@given(TEXTS)
def test_it_allows_exactly_the_mentions_that_the_constraint_does(text: str) -> None:
    rule = Copied(text, ())
    grammar = Grammar(rule.grammar())
    for answer in answers(text):
        assert grammar.allows(answer) == rule.complete(answer), answer


@given(TEXTS, st.data())
def test_lists_with_labels(text: str, data: st.DataObject) -> None:
    rule = Copied(text, ("Drug", 'A "b" | c'))
    grammar = Grammar(rule.grammar())
    mentions = st.sampled_from(answers(text))
    items = data.draw(st.lists(st.tuples(st.sampled_from([*rule.labels, "Dru"]), mentions), min_size=1, max_size=3))
    answer = "; ".join(f"{label}: {mention}" for label, mention in items)
    assert grammar.allows(answer) == grammar.allows(" " + answer) == rule.complete(answer)
    assert not grammar.allows(answer + ";") and not grammar.allows("  " + answer)


def test_examples() -> None:
    grammar = Grammar(Copied("She has mild headache; no fever.", ("Problem", "Drug")).grammar())
    for right in ("none", " none", "Problem: mild headache", "Drug:no fever ;Problem: headache\\;", "Drug: ."):
        assert grammar.allows(right), right
    for wrong in ("", "mild", "Problem: head", "Problem: eadache", "Problem: headache; none", "Fever: no"):
        assert not grammar.allows(wrong), wrong
    assert Grammar(Copied("", ()).grammar()).allows("none")
