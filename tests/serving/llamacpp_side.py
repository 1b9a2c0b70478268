"""llama.cpp's own server on a GGUF file, run by the interpreter that has the binding: `llamacpp_side.py FILE PORT`.

It ends when its standard input does, so that it cannot outlive the tests.
"""

from __future__ import annotations

import sys

import xllamacpp


def main(model: str, port: int) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.port, settings.n_gpu_layers = model, port, 0
    settings.n_parallel, settings.n_ctx = 4, 4 * 1024
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # what we compute in
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
