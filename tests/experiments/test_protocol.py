"""A protocol refuses contradictions, gives every method the same budget and runs, and is overridden by options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinprompt.backbone.presets import BackbonePreset
from clinprompt.errors import TrainingError
from clinprompt.experiments.energy import EnergyMeter
from clinprompt.experiments.protocol import load_protocol, parse_protocol, shots_of
from clinprompt.methods.registry import METHODS, find_method

PRESET = BackbonePreset(name="toy", learning_rate=0.07)
PLANS = sorted(
    path
    for path in (Path(__file__).parents[2] / "configs" / "benchmarks").glob("*.yaml")
    if not path.stem.endswith("-multitask")  # tests/experiments/test_multitask.py reads those
)


def test_all_methods_have_the_same_runs_and_number_of_trials() -> None:
    protocol = parse_protocol({"suite": "sample", "methods": list(METHODS), "draws": 4, "seeds": 2})
    for spec in protocol.specs:
        if spec.trains:
            assert protocol.runs(spec, 5) == [(d, 0) for d in range(4)]
            assert protocol.runs(spec, "full") == [(0, 0), (0, 1)]
            settings = [protocol.adapt_settings(spec, PRESET, 5, trial, draw=3, seed=1) for trial in range(3)]
            assert len({s.model_dump_json() for s in settings}) == 3
            assert {(s.shots, s.draw, s.seed, s.judged) for s in settings} == {(5, 3, 1, True)}
            assert all(s.loop.evaluate_every == s.loop.steps for s in settings)  # nothing is stopped early at k shots
    assert protocol.shots_of(find_method("zero-shot")) == (0,)
    assert protocol.shots_of(find_method("in-context")) == (1, 5, 10, 20)
    constant = find_method("constant")
    assert protocol.shots_of(constant) == tuple(k for k in protocol.shots if k != 0)
    assert protocol.runs(constant, 5) == protocol.runs(find_method("pt"), 5) and protocol.runs(constant, "full") == [
        (0, 0)
    ]


def test_some_methods_may_have_fewer_seeds_and_draws() -> None:
    raw = {"suite": "sample", "methods": ["pt", "mpt"], "method_seeds": {"pt": 1}, "method_draws": {"mpt": 2}}
    protocol = parse_protocol({**raw, "draws": 4, "seeds": 3})
    pt, mpt = find_method("pt"), find_method("mpt")
    assert (len(protocol.runs(pt, "full")), len(protocol.runs(mpt, "full"))) == (1, 3)
    assert (len(protocol.runs(pt, 5)), len(protocol.runs(mpt, 5))) == (4, 2)


def test_changes_are_laid_on_in_order() -> None:
    protocol = parse_protocol(
        {
            "suite": "sample",
            "adapt": {"loop": {"steps": 7}},
            "few_shot": {"loop.steps": 5},
            "per_shots": {1: {"loop": {"steps": 3}}},
        }
    )
    pt = find_method("pt")
    steps = [protocol.adapt_settings(pt, PRESET, k, 0).loop.steps for k in ("full", 5, 1)]
    assert steps == [7, 5, 3]
    assert protocol.adapt_settings(pt, PRESET, "full", 0).loop.learning_rate == pt.grid[0]["loop.learning_rate"]
    assert protocol.learn_settings(find_method("mpt"), PRESET, 4).teacher.learning_rate == 0.07


def test_a_plan_may_say_which_rates_a_method_tries() -> None:
    """For all that the method's own grid changes; numbers of shots may have others, other methods keep theirs."""
    protocol = parse_protocol(
        {
            "suite": "sample",
            "methods": ["pt", "mpt", "lora"],
            "trials": 2,
            "grids": {"mpt": [0.4, 0.2], "lora": [0.02, 0.05]},
            "few_shot_grids": {"lora": [0.002, 0.005, 0.001]},
        }
    )
    pt, mpt, lora = protocol.specs
    assert protocol.grid(mpt, 5)[1] == {"loop.learning_rate": 0.2, "loop.vector_learning_rate": 0.2}
    tried = [protocol.adapt_settings(mpt, PRESET, "full", trial).loop for trial in (0, 1)]
    assert [(loop.learning_rate, loop.vector_learning_rate) for loop in tried] == [(0.4, 0.4), (0.2, 0.2)]
    rates = [protocol.adapt_settings(lora, PRESET, shots, 1).loop.learning_rate for shots in ("full", 5)]
    assert rates == [0.05, 0.005]
    assert protocol.grid(pt, "full") == pt.grid


def test_options_override_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "suite: sample\ndraws: 3\nlimits: {train: 9, test: 5}\n"
        "few_shot: {loop: {steps: 4}}\nper_shots: {1: {seed: 1}}\n"
    )
    plain = load_protocol(path, {"seeds": 2, "limits": {"test": 6}, "draws": None})
    assert (plain.draws, plain.seeds, plain.limits.train, plain.limits.test) == (3, 2, 9, 6)
    short = load_protocol(path, {"steps": 2})
    assert [short.adapt_settings(find_method("pt"), PRESET, k, 0).loop.steps for k in ("full", 5, 1)] == [2, 2, 2]


def test_options_narrow_a_file(tmp_path: Path) -> None:
    """What a file says about methods and shots that the options leave out does not stand in the way."""
    path = tmp_path / "plan.yaml"
    path.write_text(
        "suite: sample\nmethods: [pt, lora, in-context]\nfew_shot_methods: [lora, in-context]\nshots: [0, 1, full]\n"
        "method_draws: {in-context: 1}\nper_shots: {1: {seed: 1}}\n"
        "grids: {lora: [0.1, 0.2, 0.3], pt: [0.4, 0.5, 0.6]}\n"
    )
    found = load_protocol(path, {"methods": ("pt",), "shots": (0, "full")})
    assert (found.few_shot_methods, found.method_draws, found.per_shots) == ((), {}, {})
    assert list(found.grids) == ["pt"]
    assert found.shots_of(find_method("pt")) == ("full",)  # not among the few-shot methods of the file
    path.write_text("suite: sample\nmethods: [pt]\nmethod_draws: {lora: 1}\n")
    with pytest.raises(TrainingError, match="'lora', which is not among"):
        load_protocol(path, {"seeds": 1})


def test_a_searched_network_generates_the_metaprompt_of_mpt_generated_alone(tmp_path: Path) -> None:
    (tmp_path / "found.yaml").write_text("operations: [norm, gated]\nwidth: 8\nhidden: 4\nsearch: {seconds: 60}\n")
    path = tmp_path / "plan.yaml"
    path.write_text("suite: sample\nmethods: [mpt, mpt-generated]\ngenerator: found.yaml\n")
    found = load_protocol(path, {})
    mpt, generated = (found.learn_settings(find_method(name), PRESET, 0) for name in ("mpt", "mpt-generated"))
    assert mpt.architecture is None
    assert generated.architecture is not None and generated.architecture.operations == ("norm", "gated")
    assert not generated.architecture.search  # its cost decides no identity, but is kept for the bill
    network = found.network(find_method("mpt-generated"))
    assert network is not None and network.search == {"seconds": 60}
    assert load_protocol(path, {"methods": ("mpt",)}).generator is None
    path.write_text("suite: sample\nmethods: [mpt-generated]\ngenerator: lost.yaml\n")
    with pytest.raises(TrainingError, match="no such architecture file"):
        load_protocol(path, {})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"methods": ["pt", "nope"]}, "unknown method 'nope'"),
        ({"methods": ["pt", "pt"]}, "listed twice"),
        ({"shots": [1, 1]}, "different numbers"),
        ({"shots": [-1]}, "different numbers"),
        ({"trials": 9}, "grid of 'pt' holds"),
        ({"few_shot_methods": ["lora"]}, "not among `methods`"),
        ({"per_shots": {3: {}}}, "not among `shots`"),
        ({"methods": ["mpt"], "generator": {"width": 4}}, "belongs to mpt-generated"),
        ({"methods": ["pt", "lora"], "grids": {"lora": [0.1]}}, "3 trials, .* of 'lora' in `grids`"),
        ({"methods": ["lora"], "trials": 2, "few_shot_grids": {"lora": [0.1]}}, "`few_shot_grids` holds 1"),
        ({"methods": ["lora"], "trials": 2, "grids": {"lora": [0.1, 0.1]}}, "names a rate twice"),
        ({"methods": ["lora"], "grids": {"lora": [0.1, -1, 0.3]}}, "grids.lora.1"),
        ({"methods": ["zero-shot"], "grids": {"zero-shot": [0.1]}}, "trains nothing"),
        ({"methods": ["pt"], "grids": {"lora": [0.1]}}, "`grids` names 'lora', which is not among"),
        ({"drawz": 3}, "drawz"),
    ],
)
def test_contradictions_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse_protocol({"suite": "sample", **raw})


def test_shots_are_read() -> None:
    assert shots_of("0, 5,full") == (0, 5, "full")
    with pytest.raises(TrainingError, match="--shots"):
        shots_of("5,half")


def test_another_suite_leaves_out_what_a_plan_says_about_targets(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("suite: sample\ntargets: [phee]\ntarget_limits: {phee: {test: 5}}\nlimits: {test: 7}\n")
    other, same = load_protocol(path, {"suite": "other"}), load_protocol(path, {"suite": "sample"})
    assert (other.suite, other.targets, other.target_limits, other.limits.test) == ("other", (), {}, 7)
    assert (same.targets, same.target_limits) == (("phee",), {"phee": {"test": 5}})


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plans_of_the_repository_are_valid(path: Path) -> None:
    protocol = load_protocol(path, {})
    for spec in protocol.specs:
        protocol.learn_settings(spec, PRESET, 0)
        for shots in protocol.shots_of(spec):
            protocol.adapt_settings(spec, PRESET, shots, 0)


def test_energy_is_read_where_there_are_counters_and_unknown_elsewhere(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules() is None
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, counted in it
    (package / "energy_uj").write_text("9000000")
    (package / "max_energy_range_uj").write_text("10000000")
    meter = EnergyMeter(tmp_path)
    (package / "energy_uj").write_text("9500000")
    assert meter.joules() == 0.5
    (package / "energy_uj").write_text("2000000")  # the counter went round
    assert meter.joules() == 3.0
