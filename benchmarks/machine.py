"""The machine a benchmark ran on: its description, its measured matrix-product peak, and the memory of a process."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MIB = 1024 * 1024


def describe(device: str, dtype: str) -> dict[str, Any]:
    """What a reader needs to know to compare figures: processor, cores, threads, versions, precision, date."""
    import peft
    import transformers

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if device.startswith("cuda") else None,
        "device": device,
        "dtype": dtype,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def matrix_peak(device: str, dtype: str, seconds: float = 1.5) -> float:
    """FLOP/s of the best square matrix product of this machine in this precision: the roof of every figure here."""
    size = 8192 if device.startswith("cuda") else 2048
    a = torch.randn(size, size, device=device, dtype=DTYPES[dtype])
    b = torch.randn(size, size, device=device, dtype=DTYPES[dtype])
    best, until = 0.0, time.perf_counter() + seconds
    torch.mm(a, b)
    while not best or time.perf_counter() < until:
        synchronise(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def synchronise(device: str) -> None:
    """Wait until the device has done all it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class PeakMemory:
    """Bytes this process needed at most above what it held when the meter was made (model loaded, data ready).

    On CUDA: the allocator's own peak. Else the high-water mark of resident memory, from /proc where it exists (there it
    can be set back, so that loading does not hide it), else `ru_maxrss`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        reset = Path("/proc/self/clear_refs")
        if reset.is_file():
            reset.write_text("5")
        self.before = _status("VmRSS") or _ru_maxrss()

    def above(self) -> int:
        """Bytes above the start, so far."""
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated() - self.before
        return max(0, (_status("VmHWM") or _ru_maxrss()) - self.before)


def _status(field: str) -> int:
    file = Path("/proc/self/status")
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def _ru_maxrss() -> int:
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else value * 1024
