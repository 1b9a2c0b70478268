"""What would prompts do on a backbone that knows more? LoRA learns a suite's sources and is merged into the weights.

    python -m benchmarks.instructed_backbone --config configs/benchmarks/open-clinical-embedded.yaml --data-dir DATA \\
        --steps 300 --autocast --out runs/instructed

No larger backbone can be had everywhere; a better one can be made from the one at hand. The targets are not among the
sources, so they stay unseen. OUT/model is a model folder, a backbone of its own:
`python -m benchmarks.validation_losses --backbone OUT/model --preset embedded …` compares methods on it.
Killed, the same command continues.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from clinprompt.api import source_tasks
from clinprompt.backbone.model import Backbone, load_backbone
from clinprompt.errors import ClinpromptError
from clinprompt.experiments.protocol import Protocol, load_protocol
from clinprompt.methods.registry import METHODS
from clinprompt.prompts.artifact import save_task
from clinprompt.serving.bake_merged import export_merged
from clinprompt.training.multitask import MultitaskSettings, learn_multitask
from clinprompt.training.settings import LoopSettings


def settings_of(protocol: Protocol, backbone: Backbone, args: argparse.Namespace) -> MultitaskSettings:
    """The records, reserve and windows of the plan's metaprompts; LoRA of this rank, rate and length."""
    plan = protocol.learn_settings(METHODS["mpt"], backbone.preset, args.seed)
    same = {name: getattr(plan, name) for name in ("limit", "validation_records", "target_reserve", "window", "seed")}
    loop = LoopSettings(
        steps=args.steps, batch_size=32, learning_rate=args.rate, evaluate_every=50, validation_limit=16
    )
    return MultitaskSettings(method="lora", adapter={"rank": args.rank, "alpha": args.rank}, loop=loop, **same)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="plan of `clinprompt benchmark`: suite and `learn`")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--steps", type=int, default=300, help="of 32 examples")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    try:
        backbone = load_backbone(args.backbone, autocast=args.autocast)
        protocol = load_protocol(args.config, {})
        sources = source_tasks(protocol.suite, args.data_dir)
        learned = learn_multitask(
            backbone, sources, settings_of(protocol, backbone, args), args.out / "adapter", progress=_shown
        )
        for name, loss in zip(learned.adapter.names, learned.fit.validation.tolist(), strict=True):
            print(json.dumps({"source": name, "validation_loss": round(loss, 4)}), flush=True)
        file = args.out / "adapter.safetensors"
        save_task(learned.adapter.of(learned.adapter.names[0]), file)  # the adapter of one is that of all
        export_merged([file], args.out / "model", backbone=args.backbone)
    except ClinpromptError as error:
        raise SystemExit(str(error)) from None
    print(f"{args.out / 'model'}: {args.backbone} after {len(sources)} sources")


def _shown(done: int, total: int, loss: float) -> None:
    if done % 25 == 0 or done == total:
        print(f"{done} of {total}: {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
