"""R(2+1)D-34 and S3D: official checkpoints load key by key, and the blocks compute what their papers say."""

import subprocess
import sys

import official_keys
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from polyvid.modeling.configuration_r2plus1d import R2Plus1DConfig
from polyvid.modeling.fast_inference_mmp import flatten_convolutions, fold_batch_norm
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.modeling_r2plus1d import Conv2Plus1D, R2Plus1DBlock, R2Plus1DModel
from polyvid.modeling.modeling_s3d import S3DConv, S3DMaxPool, S3DModel, S3DSelfGating, S3DSeparableConv


@pytest.fixture(scope="module")
def s3d_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("s3d") / "s3d_howto100m.pth"
    torch.save(official_keys.random_checkpoint(official_keys.s3d_howto100m()), path)
    return path


@pytest.fixture(scope="module")
def s3d(s3d_checkpoint):
    return S3DModel.from_official_checkpoint(s3d_checkpoint)


def randomise(module: nn.Module) -> nn.Module:
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    module.load_state_dict(official_keys.random_checkpoint(shapes, seed=1))
    return module.eval()


def batch_norm(x, norm: nn.BatchNorm3d, eps: float):
    mean, variance, weight, bias = (
        t.view(1, -1, 1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def spatial(x, weight, stride=1):
    """A 1 x 3 x 3 convolution, picture by picture."""
    pictures = [F.conv2d(x[:, :, t], weight[:, :, 0], stride=stride, padding=1) for t in range(x.shape[2])]
    return torch.stack(pictures, dim=2)


def temporal(x, weight, stride=1):
    """A 3 x 1 x 1 convolution, pixel by pixel."""
    columns = x.permute(0, 3, 4, 1, 2).flatten(0, 2)  # (batch * height * width, channels, time)
    columns = F.conv1d(columns, weight[..., 0, 0], stride=stride, padding=1)
    return columns.unflatten(0, (x.shape[0], x.shape[3], x.shape[4])).permute(0, 3, 4, 1, 2)


# Official checkpoints


def test_r2plus1d_loads_the_official_checkpoint(tmp_path):
    state_dict = official_keys.random_checkpoint(official_keys.r2plus1d_34_ig65m())
    path = tmp_path / "r2plus1d_34_clip32_ig65m.pth"
    torch.save(state_dict, path)
    model = R2Plus1DModel.from_official_checkpoint(path)
    assert model.num_parameters() == 63_491_975  # as published, without the classifier
    assert model.config.num_frames == 32  # read off the file's name
    loaded = model.state_dict()
    assert loaded.keys() == state_dict.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(loaded[name], state_dict[name]) for name in loaded)
    with torch.inference_mode():
        output = model(torch.rand(1, 8, 3, 48, 64))
    assert output.last_hidden_state.shape == (1, 512, 1, 3, 4)
    assert torch.allclose(output.pooler_output, output.last_hidden_state.mean((2, 3, 4)))


def test_s3d_loads_the_official_checkpoint(s3d, s3d_checkpoint):
    state_dict = torch.load(s3d_checkpoint)
    loaded = s3d.state_dict()
    assert loaded.keys() == {name for name in state_dict if not name.startswith("text_module.")}
    assert all(torch.equal(loaded[name], state_dict[name]) for name in loaded)
    with torch.inference_mode():
        output = s3d(torch.rand(2, 16, 3, 64, 96))
        expected = F.linear(output.mixed_5c, s3d.fc.weight, s3d.fc.bias)
    assert output.last_hidden_state.shape == (2, 1024, 2, 2, 3)
    assert output.mixed_5c.shape == (2, 1024) and output.pooler_output.shape == (2, 512)
    assert torch.allclose(output.pooler_output, expected)


def test_every_key_that_differs_is_listed(s3d_checkpoint, tmp_path):
    state_dict = torch.load(s3d_checkpoint)
    state_dict["extra.weight"] = state_dict.pop("conv1.conv1.weight")
    del state_dict["mixed_5c.gating_b3.fc.bias"]
    state_dict["fc.weight"] = torch.zeros(256, 1024)
    del state_dict["conv1.bn1.num_batches_tracked"]  # a counter, no weight
    torch.save(state_dict, tmp_path / "s3d.pth")
    with pytest.raises(ValueError) as error:
        S3DModel.from_official_checkpoint(tmp_path / "s3d.pth")
    assert str(error.value).splitlines() == [
        "The checkpoint does not fit S3DModel (4 differences):",
        "missing: conv1.conv1.weight",
        "missing: mixed_5c.gating_b3.fc.bias",
        "unexpected: extra.weight",
        "shape of fc.weight: (256, 1024) in the file, (512, 1024) in S3DModel",
    ]


def test_checksums(s3d_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="its sha256 is [0-9a-f]{64}, expected 0123"):
        S3DModel.from_official_checkpoint(s3d_checkpoint, sha256="0123")
    named = tmp_path / "s3d-9bae36ae.pth"  # PyTorch's habit: the checksum's first digits in the name
    named.symlink_to(s3d_checkpoint)
    with pytest.raises(ValueError, match="expected 9bae36ae"):
        S3DModel.from_official_checkpoint(named)


@pytest.mark.parametrize("content, reason", [(b"<html>404</html>", "not a PyTorch"), (b"", "not a PyTorch")])
def test_a_file_that_is_no_checkpoint(tmp_path, content, reason):
    (tmp_path / "s3d.pth").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        S3DModel.from_official_checkpoint(tmp_path / "s3d.pth")
    with pytest.raises(FileNotFoundError, match="give the path of the downloaded .pth file, or its URL"):
        S3DModel.from_official_checkpoint(tmp_path / "absent.pth")


def test_a_url_is_downloaded_once(s3d_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = "http://127.0.0.1:9/s3d_howto100m.pth"
    with pytest.raises(ConnectionError, match="Download it by hand"):
        S3DModel.from_official_checkpoint(url)
    (tmp_path / "checkpoints" / "s3d_howto100m.pth").symlink_to(s3d_checkpoint)  # as if it had been downloaded
    S3DModel.from_official_checkpoint(url)


# Blocks against plain PyTorch


def test_conv2plus1d_keeps_the_number_of_weights_of_a_full_convolution():
    for channels in (128, 256, 512):
        pair = Conv2Plus1D(channels, channels, stride=1, eps=1e-3)
        assert pair[0].weight.numel() + pair[3].weight.numel() == 27 * channels * channels


@pytest.mark.parametrize("channels_in, out, stride", [(6, 6, 1), (6, 10, 2)])
def test_r2plus1d_block(channels_in, out, stride):
    block = randomise(R2Plus1DBlock(channels_in, out, stride, eps=1e-3))
    x = torch.randn(2, channels_in, 4, 10, 8)
    with torch.no_grad():
        y = x
        for (first, inner, _, second), outer, step in ((*block.conv1[:2], stride), (*block.conv2[:2], 1)):
            y = torch.relu(batch_norm(spatial(y, first.weight, step), inner, 1e-3))
            y = batch_norm(temporal(y, second.weight, step), outer, 1e-3)
            y = torch.relu(y) if outer is block.conv1[1] else y
        shortcut = x
        if stride == 2:
            conv, norm = block.downsample
            picked = x[:, :, ::2, ::2, ::2]
            shortcut = batch_norm(torch.einsum("oi,bithw->bothw", conv.weight[..., 0, 0, 0], picked), norm, 1e-3)
        assert torch.allclose(block(x), torch.relu(y + shortcut), atol=1e-5)


def test_s3d_separable_convolution_and_gating():
    conv, gating = randomise(S3DSeparableConv(5, 7)), randomise(S3DSelfGating(7))
    x = torch.randn(2, 5, 4, 9, 6)
    with torch.no_grad():
        y = torch.relu(batch_norm(spatial(x, conv.conv1.weight), conv.bn1, 1e-5))
        y = torch.relu(batch_norm(temporal(y, conv.conv2.weight), conv.bn2, 1e-5))
        assert torch.allclose(conv(x), y, atol=1e-5)
        average = y.flatten(2).mean(2)
        gates = 1 / (1 + torch.exp(-(average @ gating.fc.weight.T + gating.fc.bias)))
        assert torch.allclose(gating(y), torch.einsum("bc,bcthw->bcthw", gates, y), atol=1e-6)


def test_s3d_first_convolution_is_tensorflows(s3d):
    """2 x 2 x 2 cubes become channels; "SAME" padding puts what an even kernel has over at the end."""
    frames = torch.rand(1, 4, 3, 8, 12)
    cubes = torch.zeros(1, 24, 2, 4, 6)
    for t, row, column, colour in torch.cartesian_prod(*(torch.arange(n) for n in (4, 8, 12, 3))).tolist():
        channel = ((t % 2 * 2 + row % 2) * 2 + column % 2) * 3 + colour
        cubes[0, channel, t // 2, row // 2, column // 2] = frames[0, t, colour, row, column]
    conv: S3DConv = s3d.conv1
    with torch.no_grad():
        padded = F.pad(cubes, (1, 2, 1, 2, 0, 1))  # total kernel - 1: columns, rows, time
        expected = torch.relu(batch_norm(F.conv3d(padded, conv.conv1.weight), conv.bn1, 1e-5))
        seen = {}
        handle = s3d.maxpool_2a.register_forward_pre_hook(lambda _, inputs: seen.update(hidden=inputs[0]))
        s3d(F.pad(frames, (0, 52, 0, 56)))
        handle.remove()
    inside = (slice(None), slice(None), slice(0, 1), slice(0, 2), slice(0, 4))  # what the padding cannot reach
    assert seen["hidden"].shape == (1, 64, 2, 32, 32)
    assert torch.allclose(seen["hidden"][inside], expected[inside], atol=1e-5)


@pytest.mark.parametrize("kernel, stride", [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_s3d_max_pool_pads_as_tensorflow(kernel, stride):
    x = torch.rand(1, 2, 4, 6, 8)  # after a ReLU: zeros never win
    sizes = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
    begin = [max((m - 1) * s + k - n, 0) // 2 for m, s, k, n in zip(sizes, stride, kernel, x.shape[2:], strict=True)]
    expected = torch.zeros(1, 2, *sizes)
    for index in torch.cartesian_prod(*(torch.arange(m) for m in sizes)).tolist():
        window = x
        for axis, (i, s, k, b) in enumerate(zip(index, stride, kernel, begin, strict=True), start=2):
            low = i * s - b
            window = window.narrow(axis, max(low, 0), min(low + k, x.shape[axis]) - max(low, 0))
        expected[(..., *index)] = window.amax((2, 3, 4))
    assert torch.equal(S3DMaxPool(kernel, stride)(x), expected)


def test_an_odd_number_of_frames_is_refused(s3d):
    with pytest.raises(RuntimeError):
        s3d(torch.rand(1, 7, 3, 64, 64))


@torch.inference_mode()
def test_the_faster_form_is_the_same_function(s3d):
    tiny = randomise(R2Plus1DModel(R2Plus1DConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 16, 24, 32))))
    for model, windows in ((tiny, torch.rand(2, 8, 3, 32, 32)), (s3d, torch.rand(1, 16, 3, 64, 64))):
        expected = model(windows).pooler_output
        folded = fold_batch_norm(PooledOnly(model))
        assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
        assert torch.allclose(folded(windows), expected, atol=1e-4 * expected.abs().max())
        flat = flatten_convolutions(folded)
        assert sum(isinstance(module, nn.Conv3d) for module in flat.modules()) <= 3  # first layer, strided shortcuts
        assert torch.allclose(flat(windows), expected, atol=1e-4 * expected.abs().max())


class PooledOnly(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, windows):
        return self.model(windows).pooler_output


# As Hub repositories

LOAD_WITHOUT_THE_PACKAGE = """
import sys
import torch
from transformers import AutoImageProcessor, AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
frames = list((torch.arange(16 * 70 * 90 * 3) % 251).to(torch.uint8).view(16, 70, 90, 3).numpy())
with torch.inference_mode():
    features = model(**processor([frames], return_tensors="pt")).mixed_5c
assert not any(name.split(".")[0] == "polyvid" for name in sys.modules)
torch.save(features, sys.argv[2])
"""


@pytest.mark.parametrize("model_type, model_class", [("s3d", S3DModel), ("r2plus1d", R2Plus1DModel)])
def test_the_auto_classes_know_the_networks(model_type, model_class):
    with torch.device("meta"):  # shapes only
        assert type(AutoModel.from_config(AutoConfig.for_model(model_type))) is model_class


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
def test_a_conversion_that_finds_the_disk_full_is_one_line_and_leaves_nothing(s3d_checkpoint, tmp_path):
    code = f"""
import resource, signal
from polyvid.train.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the limit of a file's size stands for the end of the disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
main(["convert-backbone", {str(s3d_checkpoint)!r}, {str(tmp_path / "out" / "s3d")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"error: Could not write {tmp_path / 'out' / 's3d'} ("), done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".s3d.lock"]


@pytest.mark.slow
def test_a_converted_checkpoint_is_a_repository_that_automodel_loads(s3d, s3d_checkpoint, tmp_path):
    from polyvid.train.extraction.convert import convert_backbone

    folder = tmp_path / "converted-s3d"
    convert_backbone(str(s3d_checkpoint), folder, num_frames=16, sha256=None, repo="someone/s3d")
    assert (folder / "model.safetensors").stat().st_mode & 0o044
    card = (folder / "README.md").read_text()
    assert "16 consecutive frames" in card and "someone/s3d" in card and "{" not in card.replace("{16", "")
    with pytest.raises(ValueError, match="not empty"):
        convert_backbone(str(s3d_checkpoint), folder)
    command = [sys.executable, "-c", LOAD_WITHOUT_THE_PACKAGE, str(folder), str(tmp_path / "features.pt")]
    subprocess.run(command, check=True, cwd=tmp_path, env={"HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin"})
    encoder = load_frame_encoder(str(folder), feature="mixed_5c")
    assert encoder.view.sampling.window == 16
    from transformers import AutoImageProcessor

    frames = list((torch.arange(16 * 70 * 90 * 3) % 251).to(torch.uint8).view(16, 70, 90, 3).numpy())
    inputs = AutoImageProcessor.from_pretrained(folder)([frames], return_tensors="pt")
    with torch.inference_mode():
        expected = s3d(**inputs).mixed_5c
    assert torch.allclose(torch.load(tmp_path / "features.pt"), expected, atol=1e-4)
