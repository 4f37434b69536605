"""What a run survives, and what it refuses to go on with: each in one line that says what to do."""

import json
import os
import resource
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from tiny_trainer import spoil_loss, tiny_trainer, videos_and_features

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.checksums import write_checksums
from polyvid.train.data.captions import PivotSampler
from polyvid.train.errors import explain
from polyvid.train.loop.processes import _asked_of_accelerate, check_launch, check_sharding
from polyvid.train.loop.step_log import TrainingFailed, read_steps
from polyvid.train.loop.trainer import Stopped
from polyvid.train.loop.validation import ValidationSet
from tiny import VIDEO_FEATURE_DIM


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_a_step_with_infinite_loss_changes_nothing_and_is_counted(tmp_path):
    trainer = tiny_trainer(tmp_path)
    spoil_loss(trainer, {1})
    before = weights_of(trainer)
    trainer.batch = next(iter(trainer.batches.read(0, 0)))
    trainer.training_step(trainer.batch)
    assert all(torch.equal(before[name], value) for name, value in weights_of(trainer).items())
    trainer.training_step(trainer.batch)
    assert any(not torch.equal(before[name], value) for name, value in weights_of(trainer).items())
    trainer.step_log.path.parent.mkdir(exist_ok=True)
    trainer.step_log.flush()
    assert trainer.step_log.skipped == 1
    first, second = read_steps(trainer.step_log.path)
    assert first["loss"] is None and second["loss"] > 0


def test_a_few_bad_steps_are_survived_and_too_many_in_a_row_stop_the_run(tmp_path):
    survivor = tiny_trainer(tmp_path / "a", max_skipped_steps=2)
    spoil_loss(survivor, {2, 3, 5, 6})
    survivor.fit()
    assert survivor.step_log.skipped == 4 and survivor.progress.history[-1]["loss"] > 0
    lost = tiny_trainer(tmp_path / "b", max_skipped_steps=2, log_steps=1)
    spoil_loss(lost, {2, 3, 4})
    with pytest.raises(TrainingFailed, match="not finite in 3 steps in a row, up to step 4: lower"):
        lost.fit()


def test_embeddings_that_are_not_finite_are_skipped_too(tmp_path):
    trainer = tiny_trainer(tmp_path, max_skipped_steps=1, log_steps=1)
    with torch.no_grad():
        trainer.model.video_projection.bias[0] = torch.nan
    with pytest.raises(TrainingFailed, match="not finite in 2 steps in a row"):
        trainer.fit()


def test_a_loss_that_grows_stops_the_run(tmp_path):
    trainer = tiny_trainer(tmp_path, log_steps=2)
    spoil_loss(trainer, {5, 6}, factor=3.0)
    with pytest.raises(TrainingFailed, match=r"The loss diverges: .* up to step 6, .* Lower training.learning_rate"):
        trainer.fit()


def test_a_spike_of_the_gradient_is_said_and_counted(tmp_path, capsys):
    """Clipping hid norms of 1e10, after which a step holds nothing of the other rows."""
    trainer = tiny_trainer(tmp_path, gradient_clip=0.2, max_skipped_steps=0, divergence=1e12)
    spoil_loss(trainer, {2}, factor=1e6)
    trainer.fit()
    assert trainer.step_log.spikes == 1
    assert "Step 2: the gradient's norm was" in capsys.readouterr().err
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["gradient_spikes"] == 1


@pytest.mark.parametrize("seconds", [1, 3])
def test_a_video_of_nothing_but_zeros_has_a_bounded_gradient(tmp_path, seconds):
    """A vector of zeros stays one through every layer norm; each multiplied its gradient by 300."""
    trainer = tiny_trainer(tmp_path)
    for name in ("video3", "video7"):
        trainer.batches.rows.features[name] = np.zeros((seconds, VIDEO_FEATURE_DIM), np.float16)
    for batch in trainer.batches.read(0, 0):
        trainer.training_step(batch)
    trainer.output_dir.mkdir(exist_ok=True)
    trainer.step_log.flush()
    assert max(line["gradient_norm"] for line in read_steps(trainer.step_log.path)) < 1000


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path):
    """A limit on the size of files stands for the full disk: writing fails half-way through."""
    trainer = tiny_trainer(tmp_path, save_minutes=0)
    save, limits = trainer.checkpoints.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(state) -> None:
        if state.progress.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        save(state)

    trainer.checkpoints.save = save_on_a_full_disk
    try:
        with pytest.raises(OSError, match=r"Cannot write .*step-00000003 .*Make room; .* resumes from .*step-00000002"):
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in trainer.checkpoints.folder.iterdir()) == ["step-00000001", "step-00000002"]
    resumed = tiny_trainer(tmp_path, save_minutes=0)
    resumed.fit()
    assert [line["step"] for line in read_steps(resumed.step_log.path)] == list(range(1, 10))


def test_only_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    trainer = tiny_trainer(tmp_path, save_minutes=0, keep_last=3)
    trainer.processes.any = lambda flags: [trainer.progress.step == 7, True]
    with pytest.raises(Stopped):
        trainer.fit()
    found = sorted(path.name for path in trainer.checkpoints.folder.iterdir())
    assert found == ["best", "step-00000005", "step-00000006", "step-00000007"]


def stopped_run(tmp_path, **training) -> None:
    trainer = tiny_trainer(tmp_path, **training)
    trainer.stop_requested = True
    with pytest.raises(Stopped):
        trainer.fit()


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    stopped_run(tmp_path)
    with pytest.raises(ValueError, match=r"to another recipe \(training.seed is 0 there and 1 here\): set it back"):
        tiny_trainer(tmp_path, seed=1).fit()
    tiny_trainer(tmp_path, keep_last=5).fit()  # no step depends on it


def test_a_checkpoint_of_more_processes_is_refused(tmp_path):
    stopped_run(tmp_path)
    trainer = tiny_trainer(tmp_path)
    file = trainer.checkpoints.to_resume() / "processes.pt"
    torch.save(torch.load(file) * 2, file)
    write_checksums(file.parent)
    with pytest.raises(ValueError, match=r"written by 2 process\(es\), this launch has 1"):
        trainer.fit()


def test_a_finished_model_of_another_recipe_is_not_reused(tmp_path):
    trainer = tiny_trainer(tmp_path, epochs=1)
    trainer.fit()
    assert trainer.checkpoints.is_finished()
    with pytest.raises(ValueError, match="training.epochs is 1 there and 2 here"):
        tiny_trainer(tmp_path, epochs=2).checkpoints.is_finished()


def test_a_dead_worker_is_named(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path, num_workers=1)
    monkeypatch.setattr(PivotSampler, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError) as caught:
        trainer.fit()
    line = explain(caught.value)
    assert "DataLoader worker" in line and "lower training.num_workers. The same command resumes" in line


def test_an_error_in_a_worker_is_one_line(tmp_path):
    trainer = tiny_trainer(tmp_path, num_workers=1)
    trainer.batches.rows.features["video3"][:] = float("nan")
    with pytest.raises(PolyvidError) as caught:
        trainer.fit()
    line = explain(caught.value)
    assert line.startswith("The row of video video3 (en)") and "\n" not in line


def test_an_empty_validation_is_refused():
    videos, features = videos_and_features(4)
    with pytest.raises(ValueError, match="none of 4 validation videos has features"):
        ValidationSet(videos, {})
    with pytest.raises(ValueError, match="4 validation videos have no de captions"):
        ValidationSet(videos, features, ["en", "de"])


def test_a_launch_that_got_fewer_processes_than_it_asked_for_is_refused(monkeypatch):
    class Launcher:
        def __init__(self, command: str):
            self.cmdline = command.split

    assert _asked_of_accelerate(Launcher("python accelerate launch --cpu --num_processes 4 train/train.py")) == 4
    assert _asked_of_accelerate(Launcher("python -m accelerate.commands.launch --num_processes=3 train/train.py")) == 3
    assert _asked_of_accelerate(Launcher("bash -c train --num_processes 2")) == 1
    check_launch(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="asked for 2 processes and got 1. .* torchrun --nproc_per_node 2"):
        check_launch(1)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (DistributedType.DEEPSPEED, {}, r"DeepSpeed .*fsdp2\.yaml"),
        (DistributedType.FSDP, {"is_fsdp2": False}, "set fsdp_version: 2"),
        (DistributedType.FSDP, {"cpu_ram_efficient_loading": True}, "set fsdp_cpu_ram_efficient_loading: false"),
        (DistributedType.FSDP, {"frozen_states": True}, "data.frozen_states needs the frozen layers whole"),
    ],
)
def test_ways_to_shard_that_are_not_supported_are_refused(kind, options, message):
    options = {"is_fsdp2": True, "cpu_ram_efficient_loading": False, "frozen_states": False} | options
    plugin = SimpleNamespace(cpu_ram_efficient_loading=options["cpu_ram_efficient_loading"])
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(distributed_type=kind, is_fsdp2=options["is_fsdp2"], state=state)
    with pytest.raises(ValueError, match=message):
        check_sharding(accelerator, options["frozen_states"])


def test_trackers_get_terms_rates_throughput_and_recall(tmp_path):
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = tiny_trainer(tmp_path, epochs=2, trackers=["tensorboard"], log_steps=2)
    trainer.accelerator = Accelerator(log_with="tensorboard", project_dir=tmp_path)
    trainer.step_log.accelerator = trainer.accelerator
    trainer.fit()
    events = EventAccumulator(str(tmp_path / "test"))
    events.Reload()
    expected = {"train/loss", "train/inter", "train/gradient_norm", "train/learning_rate", "train/samples_per_second"}
    assert expected | {"validation/R@1 en"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [2, 3, 4, 6]
