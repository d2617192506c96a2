"""`ichor train`, both stages, and `ichor evaluate` in one folder, as docs/training.md tells it; the networks are tiny."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
from unit.engines.test_evaluation_command import write_case

from engines import cases, delivery, expansion_delivery, expansion_pool, expansion_training, training
from engines.expansion_training import ExpansionOptions
from engines.networks import umamba, vit
from engines.networks.umamba import UMambaConfig
from engines.networks.vit import ViTConfig
from engines.runtime import file_sha256
from engines.training import REFINEMENT, TrainingOptions, TrainingResult
from ichor.cli import main
from ichor.cli.models import load_engines
from ichor.cli.training import pool_folder
from phantoms.acquisition import Grid
from phantoms.bleeds import Bleed
from phantoms.head import make_head

TINY = UMambaConfig(
    patch_zyx=(4, 32, 32),
    features=(4, 6),
    kernels=((1, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2)),
    blocks=(1, 1),
    decoder_blocks=(1,),
    stem_blocks=0,
    mamba="none",
    packed=True,
    outputs=2,
)
CASES = {"a": ("train", 1), "b": ("train", 0), "c": ("val", 1), "d": ("test", 0)}


def labelled_folder(folder: Path) -> None:
    rows = ["case,split,expands"]
    for seed, (name, (split, expands)) in enumerate(CASES.items()):
        z = tuple(float(v) for v in range(-70, 80, 6))
        grid = Grid(80, 70, 3.0, z, (6.0,) * len(z))
        write_case(folder / name, make_head(seed, grid=grid, bleed=Bleed((40.0,), sites=("lobar",))))
        rows.append(f"{name},{split},{expands}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("stage", "config", "name"),
    [
        ("segmentation", "demo", "pool-3"),
        ("segmentation", "paper", "pool-3-paper"),
        ("expansion", "demo", "pool-3-expansion"),
        ("expansion", "paper", "pool-3-expansion"),
    ],
)
def test_what_one_key_would_name_twice_lies_in_two_folders(stage: str, config: str, name: str) -> None:
    options = argparse.Namespace(stage=stage, config=config, out=Path("out"), pool=None)
    assert pool_folder(options) == Path("out", name)
    options.pool = Path("kept")
    assert pool_folder(options) == Path("kept", name)


def test_a_refinement_has_its_own_protocol_and_the_intensities_of_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[TrainingOptions] = []

    def train(*_: object, options: TrainingOptions, **__: object) -> TrainingResult:
        asked.append(options)
        return TrainingResult(tmp_path / "none.pt", 0, 0.0)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(delivery, "deliver", lambda *_, **__: Path())
    monkeypatch.setattr("ichor.cli.training._cases", lambda _: ([], [], "other heads"))
    zscore = (3.0, 90.0, 55.5, 12.5)
    first = dataclasses.asdict(dataclasses.replace(umamba.PAPER, zscore=zscore))
    facts = {"seed": 0, "step": 1, "elapsed_s": 1.0, "options": {}, "precision": "f32", "network_config": first}
    torch.save({"ema": {}, **facts}, tmp_path / "checkpoint.pt")
    refine = ["train", "haematoma", "--config", "paper", "--from", str(tmp_path / "checkpoint.pt"), "--out"]
    assert main([*refine, str(tmp_path / "out")]) == 0
    assert main([*refine, str(tmp_path / "out"), "--protocol", "paper"]) == 0
    ours, papers = asked
    assert {name: getattr(ours, name) for name in REFINEMENT} == REFINEMENT
    assert (papers.optimizer, papers.settled, papers.elusive) == ("sgd", 0.0, 0.0)
    assert ours.network.zscore == papers.network.zscore == zscore

    capsys.readouterr()
    assert main([*refine, str(tmp_path)]) == 2
    assert "would take its place" in capsys.readouterr().err
    assert len(asked) == 2


def test_a_judge_is_refined_on_three_slices_together_and_what_it_cannot_begin_with_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[ExpansionOptions] = []
    noted: list[tuple[str, ...]] = []
    made: list[dict[str, Path]] = []

    def train(*_: object, options: ExpansionOptions, **__: object) -> TrainingResult:
        asked.append(options)
        return TrainingResult(tmp_path / "none.pt", 0, 0.0)

    def deliver(*_: object, notes: tuple[str, ...], **__: object) -> Path:
        noted.append(notes)
        return Path()

    monkeypatch.setattr(expansion_training, "train_expansion", train)
    monkeypatch.setattr(expansion_delivery, "deliver_expansion", deliver)
    monkeypatch.setattr(cases, "make_missing", lambda _make, paths, *_: made.append(paths))
    monkeypatch.setattr(expansion_pool, "read", lambda _: None)
    monkeypatch.setattr("ichor.cli.training._own", lambda _: ([], "own heads"))
    facts = {"seed": 3, "step": 9, "elapsed_s": 1.0, "options": {}, "precision": "f32"}
    torch.save({"ema": {}, **facts, "network_config": dataclasses.asdict(vit.DEMO)}, tmp_path / "judge.pt")
    torch.save({"ema": {}, **facts, "network_config": dataclasses.asdict(vit.PAPER)}, tmp_path / "other.pt")
    begin = ["train", "haematoma", "--stage", "expansion", "--heads", "5", "--out", str(tmp_path / "out"), "--from"]
    assert main([*begin, str(tmp_path / "judge.pt")]) == 0
    assert main([*begin, str(tmp_path / "judge.pt"), "--protocol", "demo"]) == 0
    of_own = [*begin[:4], "--data", str(tmp_path), *begin[6:], str(tmp_path / "judge.pt")]
    assert main(of_own) == 0
    refined, usual, own = asked
    assert {name: getattr(refined, name) for name in expansion_training.REFINEMENT} == expansion_training.REFINEMENT
    assert refined.together
    assert not usual.together
    assert own == dataclasses.replace(refined, density=1.0)
    assert noted[0] == ("began with the averaged weights of a training of 9 steps, seed 3",)

    made.clear()
    capsys.readouterr()
    for begun, why in (("other.pt", "of another network"), ("nowhere.pt", "no checkpoint to begin with")):
        assert main([*begin, str(tmp_path / begun)]) == 1
        assert why in capsys.readouterr().err
    assert made == []


def test_both_stages_and_the_evaluation_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)  # torch tells each step of an export
    monkeypatch.setattr(umamba, "DEMO", TINY)
    monkeypatch.setattr(vit, "DEMO", ViTConfig(size=224, patch=16, depth=1, width=16, heads=2, hidden=16))
    data, out = tmp_path / "data", tmp_path / "out"
    labelled_folder(data)
    train = ["train", "haematoma", "--data", str(data), "--out", str(out), "--protocol", "demo", "--steps", "2"]
    train += ["--precision", "f32", "--processes", "1", "--threads", "1"]
    assert main(train) == 0
    assert main([*train, "--stage", "expansion"]) == 0
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("pool-*/*")}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"pool-3", "pool-3-expansion"}
    assert json.loads((out / "haematoma-own.json").read_text())["data"].startswith("2 labelled scans of 2 patients")

    evaluate = ["evaluate", "haematoma", "--data", str(data), "--models", str(out), "--out", str(tmp_path / "figures")]
    assert main(evaluate) == 0
    figures = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert [case["key"] for case in figures["cases"]] == ["d"]
    assert figures["model"].startswith("haematoma-own")
    assert figures["judge"].startswith("haematoma-expansion-own")

    shipped = ["haematoma-phantom", "haematoma-expansion-phantom"]
    own = {name: out / f"{name.removesuffix('phantom')}own.onnx" for name in shipped}
    served = load_engines(shipped, tmp_path / "engines", own=own)
    assert [engine.name for engine in served.values()] == ["haematoma-own", "haematoma-expansion-own"]

    # What was trained serves; a refinement begins with it and its card says so.
    assert main([*train[:4], "--out", str(tmp_path / "more"), *train[6:], "--from", str(out / "checkpoint.pt")]) == 0
    card = json.loads((tmp_path / "more" / "haematoma-own.json").read_text())
    assert "--from FIRST/checkpoint.pt" in card["command"]
    assert card["notes"] == ["began with the averaged weights of a training of 2 steps, seed 0"]
    assert card["options"]["begun_from"] == file_sha256(out / "checkpoint.pt")
    capsys.readouterr()
    assert (
        main(
            [
                *train[:4],
                "--out",
                str(tmp_path / "judge"),
                *train[6:],
                "--stage",
                "expansion",
                "--from",
                str(out / "checkpoint.pt"),
            ]
        )
        == 1
    )
    assert "no checkpoint to begin with" in capsys.readouterr().err

    # Each stage goes on from its own checkpoint, with what it prepared.
    monkeypatch.setattr(delivery, "deliver", lambda *_, **__: Path())
    monkeypatch.setattr(expansion_delivery, "deliver_expansion", lambda *_, **__: Path())
    capsys.readouterr()
    for stage in ("segmentation", "expansion"):
        assert main([*train, "--stage", stage, "--resume"]) == 0
        assert "resumed at step 2" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("pool-*/*")} == kept
