"""A model is filled from exactly the tensors it needs, or not at all."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from litellama.checkpoints import load_weights
from litellama.checkpoints.safetensors_files import NewTensor, write_checkpoint
from litellama.errors import CheckpointError


class Fused(nn.Module):
    """A fused matrix, a plain vector, and a name that may be ignored."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.full((8, 3), torch.nan, dtype=dtype))
        self.norm = nn.Parameter(torch.full((5,), torch.nan, dtype=dtype))

    def checkpoint_layout(self):
        return {
            "qkv": [("q", (4, 3)), ("k", (2, 3)), ("v", (2, 3))],
            "norm": [("n", (5,))],
        }

    def ignored_checkpoint_names(self):
        return ["tied.weight", re.compile(r".*rotary_emb\.inv_freq")]

    def checkpoint_name(self, name):
        return name.removeprefix("older.")


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    shapes = {"q": (4, 3), "k": (2, 3), "v": (2, 3), "n": (5,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def save(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16], ids=str)
def test_fills_fused_and_plain_parameters(tensors, tmp_path, stored, wanted):
    tensors = {name: tensor.to(stored) for name, tensor in tensors.items()}
    model = Fused(wanted)
    storages = [p.data_ptr() for p in model.parameters()]
    load_weights(model, save(tensors, tmp_path))
    fused = torch.cat([tensors["q"], tensors["k"], tensors["v"]])
    assert torch.equal(model.qkv, fused.to(wanted))
    assert torch.equal(model.norm, tensors["n"].to(wanted))
    assert [p.data_ptr() for p in model.parameters()] == storages, "filled in place"


def test_a_checkpoint_may_use_another_spelling_but_not_both(tensors, tmp_path):
    renamed = {("older.q" if name == "q" else name): tensor for name, tensor in tensors.items()}
    model = Fused()
    load_weights(model, save(renamed, tmp_path))
    assert torch.equal(model.qkv, torch.cat([tensors["q"], tensors["k"], tensors["v"]]))
    save(tensors | {"older.q": tensors["q"].clone()}, tmp_path)
    with pytest.raises(CheckpointError, match=r"has both '(older\.)?q' and '(older\.)?q'"):
        load_weights(Fused(), tmp_path)


def test_parts_of_one_parameter_may_be_in_different_shards(tensors, tmp_path):
    new = [NewTensor(n, "F32", tuple(t.shape), lambda t=t: t) for n, t in tensors.items()]
    write_checkpoint(tmp_path, new, lambda count: None, max_shard=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    model = Fused()
    load_weights(model, tmp_path)
    assert torch.equal(model.qkv, torch.cat([tensors["q"], tensors["k"], tensors["v"]]))


def test_a_parameter_that_is_not_contiguous_is_filled_too(tensors, tmp_path):
    model = Fused()
    model.qkv = nn.Parameter(torch.full((3, 8), torch.nan).t())
    load_weights(model, save(tensors, tmp_path))
    assert torch.equal(model.qkv, torch.cat([tensors["q"], tensors["k"], tensors["v"]]))


def test_ignored_names_are_left_alone_whatever_they_are(tensors, tmp_path):
    extra = {
        "tied.weight": torch.zeros(1),
        "layers.7.rotary_emb.inv_freq": torch.zeros(9, dtype=torch.int8),
    }
    load_weights(Fused(), save(tensors | extra, tmp_path))


def missing(tensors):
    del tensors["k"]
    return "lacks 1 of the 4 tensors.*k"


def all_missing(tensors):
    tensors.clear()
    return r"lacks 4 of the 4 tensors.*k, n, q, \.\.\. \(4 in all\)"


def extra(tensors):
    tensors["prefix.tied.weight"] = torch.zeros(1)
    return "1 tensors that its config.json leaves no place for: prefix.tied.weight"


def transposed(tensors):
    tensors["q"] = tensors["q"].t().contiguous()
    return r"q is \[3, 4\] and must be \[4, 3\]"


def one_row_more(tensors):
    tensors["n"] = torch.zeros(6)
    return r"n is \[6\] and must be \[5\]"


def int8(tensors):
    tensors["q"] = tensors["q"].to(torch.int8)
    return "q is stored as I8, and only F32, F16, BF16"


def fp8(tensors):
    tensors["v"] = tensors["v"].to(torch.float8_e4m3fn)
    return "v is stored as F8_E4M3.*quantised"


def float64(tensors):
    tensors["v"] = tensors["v"].double()
    return "v is stored as F64"


@pytest.mark.parametrize(
    "damage", [missing, all_missing, extra, transposed, one_row_more, int8, fp8, float64]
)
def test_a_checkpoint_that_does_not_fit_is_refused_untouched(tensors, tmp_path, damage):
    message = damage(tensors)
    model = Fused()
    with pytest.raises(CheckpointError, match=message) as error:
        load_weights(model, save(tensors, tmp_path))
    assert str(tmp_path) in str(error.value)
    assert all(parameter.isnan().all() for parameter in model.parameters())


class Uncovered(Fused):
    def checkpoint_layout(self):
        return {"norm": [("n", (5,))]}


class Unstackable(Fused):
    def checkpoint_layout(self):
        return super().checkpoint_layout() | {"qkv": [("q", (4, 3)), ("k", (2, 3))]}


@pytest.mark.parametrize("model", [Uncovered(), Unstackable(), Fused().to("meta")])
def test_a_model_whose_own_layout_is_wrong_is_loud(tensors, tmp_path, model):
    with pytest.raises(CheckpointError, match="qkv"):
        load_weights(model, save(tensors, tmp_path))
