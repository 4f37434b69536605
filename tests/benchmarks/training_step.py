"""What a training step costs here, against a plain reading of the paper: ratios of time and of peak memory.

    python tests/benchmarks/training_step.py            # a quarter of the paper's widths, for CPUs
    python tests/benchmarks/training_step.py --paper    # XLM-R-large, batch 128: for a GPU with 40 GB or more

The naive step computes all 24 layers of the backbone and takes the 12th, keeps the whole backbone in the graph and in
Adam (the frozen layers' gradients are thrown away), pads texts to 96 tokens and videos to 36 seconds, and embeds
clean and noised views one after the other. Ours is the trainer's. Both start from the same weights and draw the same
batch with lengths of VTT (captions of about 14 tokens, videos of 10 to 30 seconds), without dropout, so their first
losses must be equal; this is checked. Each runs in a process of its own, so that its peak memory is its own. Time is
the process's CPU time, which does not mind other programs, or on a GPU the clock's.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Annotated

import torch
import typer
from transformers import XLMRobertaConfig, XLMRobertaModel

from polyvid.modeling import MMPConfig, MMPModel, MMPObjective
from polyvid.train.loop.setup import parameter_groups
from polyvid.train.loop.step import contrastive_step

TEXT_LENGTH, VIDEO_LENGTH = 96, 36  # App. C


def make_backbone(paper: bool) -> XLMRobertaModel:
    """24 layers, of the paper's width or a quarter of it. Without dropout, so that losses can be compared."""
    width = 1024 if paper else 256
    config = XLMRobertaConfig(
        vocab_size=250002 if paper else 20000,
        hidden_size=width,
        num_hidden_layers=24,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=514,
    )
    torch.manual_seed(0)
    return XLMRobertaModel(config, add_pooling_layer=False)


def make_model(paper: bool, backbone: XLMRobertaModel, output_layer: int = 12) -> MMPModel:
    width = backbone.config.hidden_size
    text = backbone.config.to_dict() | {"num_hidden_layers": output_layer}
    torch.manual_seed(1)
    model = MMPModel(MMPConfig(text_config=text, embed_dim=width, pooler_dropout=0.0))
    kept = {k: v for k, v in backbone.state_dict().items() if k in model.text_model.state_dict()}
    model.text_model.load_state_dict(kept)
    return model


def make_batch(batch_size: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Padded to the longest row."""
    generator = torch.Generator().manual_seed(2)
    lengths = (torch.randn(batch_size, generator=generator) * 5 + 14).round().long().clamp(5, 40)
    seconds = torch.randint(10, 31, (batch_size,), generator=generator)
    text_mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    video_mask = (torch.arange(int(seconds.max())) < seconds[:, None]).long()
    ids = torch.randint(5, vocabulary, text_mask.shape, generator=generator) * text_mask + (1 - text_mask)
    noisy = ids.masked_fill((torch.rand(ids.shape, generator=generator) < 0.05) & text_mask.bool(), 4)
    videos = torch.randn(*video_mask.shape, 1024, generator=generator) * video_mask[..., None]
    blank = torch.rand(video_mask.shape, generator=generator) < 0.05
    return {
        "input_ids": ids,
        "attention_mask": text_mask,
        "noisy_input_ids": noisy,
        "video_features": videos,
        "video_mask": video_mask,
        "noisy_video_features": videos.masked_fill(blank[..., None], 0.0),
    }


def pad_to_maximum(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    padded = {}
    for name, tensor in batch.items():
        length = VIDEO_LENGTH if "video" in name else TEXT_LENGTH
        shape = (len(tensor), length - tensor.shape[1], *tensor.shape[2:])
        padded[name] = torch.cat([tensor, torch.full(shape, int(name.endswith("input_ids"))).to(tensor)], dim=1)
    return padded


class Naive:
    """Everything computed, everything in the graph."""

    def __init__(self, paper: bool, device: torch.device):
        self.backbone = make_backbone(paper).to(device).train()
        self.heads = make_model(paper, self.backbone.cpu()).to(device).train()
        self.backbone.to(device)
        del self.heads.text_model
        parameters = [*self.backbone.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=2e-4)
        self.frozen = {id(p) for p in self.backbone.embeddings.parameters()}
        self.frozen |= {id(p) for layer in self.backbone.encoder.layer[:9] for p in layer.parameters()}
        self.parameters = parameters

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        batch = pad_to_maximum(batch)
        outputs = {}
        for prefix in ("", "noisy_"):
            hidden = self.backbone(batch[f"{prefix}input_ids"], batch["attention_mask"], output_hidden_states=True)
            tokens = self.heads.text_projection(hidden.hidden_states[12])
            outputs[f"{prefix}text_embeds"] = self.heads.pool_text(tokens, batch["attention_mask"])
            outputs[f"{prefix}video_embeds"] = self.heads.get_video_features(
                batch[f"{prefix}video_features"], batch["video_mask"]
            ).pooler_output
        loss = MMPObjective()(outputs)["loss"]
        loss.backward()
        for parameter in self.parameters:
            if id(parameter) in self.frozen:
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.parameters, 0.2)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Ours:
    """The trainer's step."""

    def __init__(self, paper: bool, device: torch.device):
        self.model = make_model(paper, make_backbone(paper)).to(device).train()
        self.optimizer = torch.optim.Adam(parameter_groups(self.model, 2e-4), fused=True)
        self.objective = MMPObjective(raise_non_finite=False)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        terms = contrastive_step(self.model, batch, self.objective)
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 0.2)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return terms["loss"].item()


WAYS = {"naive": Naive, "ours": Ours}


def measure(way: str, paper: bool, batch_size: int, repeats: int) -> dict[str, float]:
    """First loss, seconds of the fastest step after it, and peak bytes; to be called in a fresh process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stepper = WAYS[way](paper, device)
    vocabulary = 250002 if paper else 20000
    batch = {name: value.to(device) for name, value in make_batch(batch_size, vocabulary).items()}
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    losses, times = [], []
    for _ in range(repeats + 1):
        started = clock()
        losses.append(stepper.step(batch))  # reads the loss: waits for the device
        times.append(clock() - started)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"loss": losses[0], "seconds": min(times[1:]), "peak": peak}


def main(
    paper: Annotated[bool, typer.Option(help="XLM-R-large and batches of 128.")] = False,
    batch_size: Annotated[int | None, typer.Option(help="Default: 128 with --paper, else 32.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps after the first.")] = 3,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print a table of both steps and their ratios."""
    batch_size = batch_size or (128 if paper else 32)
    if way is not None:
        print(json.dumps(measure(way, paper, batch_size, repeats)))
        return
    results = {}
    for name in WAYS:
        command = [sys.executable, __file__, "--batch-size", str(batch_size), "--repeats", str(repeats), "--way", name]
        done = subprocess.run(command + ["--paper"] * paper, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout)
    naive, ours = results["naive"], results["ours"]
    if abs(naive["loss"] - ours["loss"]) > 1e-3 * naive["loss"]:
        raise SystemExit(f"error: the steps do not compute the same loss: {naive['loss']} and {ours['loss']}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, batch {batch_size}, loss {ours['loss']:.4f} in both\n")
    print("| step | seconds | samples/s | speed-up | peak memory, GiB | memory |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, result in results.items():
        speed, memory = naive["seconds"] / result["seconds"], result["peak"] / naive["peak"]
        print(
            f"| {name} | {result['seconds']:.3f} | {batch_size / result['seconds']:.1f} | {speed:.2f} | "
            f"{result['peak'] / 2**30:.2f} | {memory:.2f} |"
        )


if __name__ == "__main__":
    typer.run(main)
