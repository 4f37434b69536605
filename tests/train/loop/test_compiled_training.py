"""The shipped configuration that compiles the model: the same steps, and files that know nothing of it."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from launching import environment_of
from safetensors.torch import load_file
from tiny_trainer import tiny_trainer
from training_data import CONFIGS
from transformers import AutoModel

from polyvid.train.loop.step_log import read_steps
from polyvid.train.loop.trainer import Stopped


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    """Trainers with or without the shipped configuration; on the CPU, in float32 and by another compiler."""
    shipped = environment_of(CONFIGS / "accelerate" / "gpu_bf16_compile.yaml")

    def make(name: str, backend: str | None = None, **options):
        with monkeypatch.context() as patched:
            for key, value in shipped.items():
                if key.startswith("ACCELERATE_DYNAMO"):
                    patched.setenv(key, value if backend else "no")
            if backend:
                patched.setenv("ACCELERATE_DYNAMO_BACKEND", backend)
            AcceleratorState._reset_state(True)
            accelerator = Accelerator(cpu=True, mixed_precision="no", step_scheduler_with_optimizer=False)
        trainer = tiny_trainer(tmp_path / name, accelerator=accelerator, epochs=2, **options)
        assert (type(trainer.model).__name__ == "OptimizedModule") == bool(backend)
        return trainer

    assert shipped["ACCELERATE_DYNAMO_BACKEND"] == "INDUCTOR"
    yield make
    AcceleratorState._reset_state(True)


def test_a_checkpoint_of_a_compiled_model_is_one_of_the_model(make_trainer):
    """Nothing is compiled before the first forward, so this takes no compiler."""
    compiled, plain = make_trainer("run", "EAGER"), make_trainer("run")
    with torch.no_grad():
        compiled.model.video_projection.bias += 1
    compiled.save()
    saved = AutoModel.from_pretrained(compiled.checkpoints.to_resume())
    assert not any("_orig_mod" in name for name in load_file(compiled.checkpoints.to_resume() / "model.safetensors"))
    plain.load_state(plain.checkpoints.load())
    resumed = make_trainer("run", "EAGER")
    resumed.load_state(resumed.checkpoints.load())
    for model in (saved, plain.model, resumed.model):
        assert torch.equal(model.video_projection.bias, compiled.model.video_projection.bias)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["EAGER", "INDUCTOR"])
def test_a_compiled_run_makes_the_steps_of_one_that_is_not(make_trainer, backend):
    if backend == "INDUCTOR" and not shutil.which("g++"):
        pytest.skip("inductor compiles with g++")
    options = {"pooler_dropout": 0.0, "freeze_below": 3}  # compiled code draws other random numbers
    make_trainer("plain", **options).fit()
    if backend == "EAGER":  # once is enough: compiling takes a minute
        stopped = make_trainer("compiled", backend, **options)
        stopped.processes.any = lambda flags: [stopped.progress.step == 4, False]
        with pytest.raises(Stopped):
            stopped.fit()
    compiled = make_trainer("compiled", backend, **options)
    compiled.fit()
    folders = [compiled.output_dir.parent / name for name in ("plain", "compiled")]
    steps = [read_steps(folder / "steps.jsonl") for folder in folders]
    for expected, line in zip(*steps, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    weights = [AutoModel.from_pretrained(folder).state_dict() for folder in folders]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-3, msg=name)
