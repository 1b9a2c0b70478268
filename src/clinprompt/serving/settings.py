"""What a server may be told: limits and places. Defaults are ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """Limits of one server.

    body_bytes: of a request (uploads of task files: `upload_bytes`); documents and tasks: per request; document_tokens:
    of one document; questions: examples (windows, pairs) that one request may come to; queue: questions accepted and
    not yet answered, over all requests; seconds: until a request is given up; hosts: names in the Host header that are
    answered, empty for all; manage: whether tasks may be added and removed over HTTP; watch_seconds: how often the
    folder of tasks is looked at.
    """

    body_bytes: int = 4 * 2**20
    upload_bytes: int = 64 * 2**20
    documents: int = 64
    tasks: int = 16
    document_tokens: int = 65_536
    questions: int = 2_048
    queue: int = 4_096
    seconds: float = 120.0
    hosts: tuple[str, ...] = ()
    manage: bool = True
    watch_seconds: float = 2.0
