"""A tiny run from end to end: batches, losses, the combined folder, and who can open it."""

import json
import random
import shutil
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from litellama import LLM, SamplingParams
from litellama.checkpoints import resolve
from litellama.errors import CheckpointError
from litellama.images import ImageProcessor
from litellama.models import read_config
from litellama.shapes import card, evaluate, questions, scenes
from litellama.shapes.combine import combine
from litellama.shapes.lora import add_low_rank
from litellama.shapes.tower import IMAGE_TOKEN_ID, MEAN, STD, VISION
from litellama.shapes.train import (
    IGNORED,
    Dialogues,
    Eyes,
    Recipe,
    batches,
    patch_loss,
    patch_targets,
    train,
)
from tests.checkpoint_maker import roughen

pytestmark = pytest.mark.model
TINY = Recipe(steps=4, batch=3, texts=1, warmup=2, rank=2, sight_steps=3, sight_batch=4)


@pytest.fixture(scope="module")
def language(smollm2, tmp_path_factory) -> Path:
    """A small random Llama with SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
        max_position_embeddings=2048, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    roughen(model)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2 / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def tokenizer(language):
    return AutoTokenizer.from_pretrained(language)


def load(language: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(language, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def trained(language, tokenizer, tmp_path_factory) -> Path:
    """The tensors of a tiny run."""
    texts = [("Hello!", "Hi. How can I help?")]
    tensors, log = train(
        load(language), tokenizer, TINY, torch.device("cpu"), texts, report=lambda text: None
    )
    assert [entry["step"] for entry in log["losses"]] == [0, 3]
    assert [entry["step"] for entry in log["sight"]] == [0, 2]
    path = tmp_path_factory.mktemp("trained") / "weights.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def folder(language, trained, tmp_path_factory) -> Path:
    return combine(language, trained, tmp_path_factory.mktemp("combined"))


def test_a_row_is_what_the_chat_template_makes_and_only_answers_are_learnt(tokenizer):
    turns = [("How many?", "Two."), ("What is above the red star?", "A blue cross.")]
    for picture in (True, False):
        ids, labels = Dialogues(tokenizer).row(turns, picture)
        marker = "<empty_output>\n" if picture else ""
        messages = [
            {"role": "user", "content": marker + "How many?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "What is above the red star?"},
            {"role": "assistant", "content": "A blue cross."},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        expected = tokenizer.encode(text.rstrip("\n"), add_special_tokens=False)
        once = [i for n, i in enumerate(ids) if i != IMAGE_TOKEN_ID or ids[n - 1] != IMAGE_TOKEN_ID]
        assert once == expected
        assert ids.count(IMAGE_TOKEN_ID) == (VISION.num_image_tokens if picture else 0)
        learnt = [label for label in labels if label != IGNORED]
        assert tokenizer.decode(learnt) == "Two.<|im_end|>A blue cross.<|im_end|>"
        assert all(a in (IGNORED, b) for a, b in zip(labels, ids, strict=True))


def test_batches_are_repeatable_and_lists_come_last(tokenizer):
    recipe = Recipe(steps=2, batch=40, texts=2, turns=3)
    first, again = (list(batches(Dialogues(tokenizer), recipe, [("Hi", "Ho.")])) for _ in "ab")
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.ids, b.ids)
    assert not torch.equal(first[0].scenes.x, first[1].scenes.x)
    assert first[0].ids.shape[0] == 42
    assert (first[0].ids == IMAGE_TOKEN_ID).sum() == 40 * VISION.num_image_tokens
    for row in first[0].ids:
        text = tokenizer.decode(row)
        if "What is in the picture" in text:
            assert text.rindex("<|im_start|>user") < text.index("What is in the picture")


def test_patches_are_told_what_is_centred_in_them():
    drawn = scenes.draw_scenes(50, torch.Generator().manual_seed(0))
    targets = patch_targets(drawn)
    side = scenes.SIZE // VISION.patch_size
    for b in range(50):
        expected = torch.zeros(side * side, 3, dtype=torch.int64)
        for i in range(drawn.count[b]):
            at = int(drawn.y[b, i] // VISION.patch_size) * side + int(
                drawn.x[b, i] // VISION.patch_size
            )
            expected[at] = (
                torch.tensor([drawn.shape[b, i], drawn.colour[b, i], drawn.size[b, i]]) + 1
            )
        assert torch.equal(targets[b], expected)


def test_the_tower_learns_to_see():
    """A few steps of the patches' own task take its loss down by more than a fifth."""
    torch.manual_seed(0)
    eyes, generator = Eyes(VISION, 24), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(eyes.parameters(), lr=1e-3)
    losses = []
    for step in range(25):
        drawn = scenes.draw_scenes(12, generator)
        scores = eyes(scenes.paint(drawn, torch.device("cpu"), step))[1]
        loss = patch_loss(scores, patch_targets(drawn), eyes.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_everything_that_is_trained_moves_and_the_rest_does_not(language, tokenizer):
    model = load(language)
    before = {name: p.clone() for name, p in model.named_parameters()}
    tensors, _ = train(
        model, tokenizer, TINY, torch.device("cpu"), [("Hi", "Ho.")], report=lambda text: None
    )
    for name, parameter in before.items():
        changed = dict(model.named_parameters())
        now = changed.get(name, changed.get(name.replace(".weight", ".linear.weight")))
        assert torch.equal(now, parameter), name
    ups = [tensor for name, tensor in tensors.items() if name.endswith(".B")]
    assert len(ups) == 7 * 2
    assert all(tensor.any() for tensor in ups)


def test_a_low_rank_change_starts_at_nothing(language):
    model, ids = load(language), torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    assert len(add_low_rank(model, 3)) == 2 * 7 * 2
    assert torch.equal(model(ids).logits, before)


def test_the_changes_are_merged_into_the_weights(folder, trained, language):
    made, tensors = load_file(folder / "model.safetensors"), load_file(trained)
    original = load_file(language / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    change = (
        tensors[f"language_model.{name}.B"].float() @ tensors[f"language_model.{name}.A"].float()
    )
    assert change.abs().max() > 0
    torch.testing.assert_close(made[f"language_model.{name}"], original[name] + change)


def test_ours_and_transformers_open_the_folder_and_agree(folder):
    llm = LLM(folder, device="cpu")
    theirs = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    picture, _ = evaluate.sketch(random.Random(0), 3)
    message = [{"role": "user", "content": "What is in the picture?"}]
    out = llm.chat(
        message, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True), [picture]
    )
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt")
    ids = torch.tensor([out.prompt_token_ids])
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **pixels,
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=0,
    )
    assert out.token_ids == expected[0, ids.shape[1] :].tolist()
    assert llm.tokenizer.decode(out.prompt_token_ids).count("<image>") == VISION.num_image_tokens


def test_a_text_without_a_picture_is_answered_too(folder):
    out = LLM(folder, device="cpu").chat(
        [{"role": "user", "content": "Hello"}], SamplingParams(temperature=0, max_tokens=5)
    )
    assert len(out.token_ids) > 0


def test_the_evaluation_counts_what_is_exactly_right(folder):
    llm = LLM(folder, device="cpu", max_seq_len=256)
    asked = evaluate.held_out(6, "count", (1, 2)) + evaluate.other_program(6, "relation", (2, 3))
    result = evaluate.accuracy(llm, asked)
    assert (result["right"], result["questions"]) == (0.0, 12)
    assert result["mistakes"][0]["expected"] == asked[0][1].answer
    question = [{"role": "user", "content": asked[0][1].text}]
    greedy = SamplingParams(temperature=0, max_tokens=48)
    said = llm.chat(question, greedy, [asked[0][0]]).text.strip()
    echo = [(asked[0][0], evaluate.Question("count", asked[0][1].text, said))]
    assert evaluate.accuracy(llm, echo)["right"] == 1.0


def test_the_card_says_what_was_measured(tmp_path):
    result = {"right": 0.987, "commonest_answer": 0.25}
    both = {"scenes": result, "other_program": {**result, "right": 0.654}}
    evaluation = {"targets": dict.fromkeys(evaluate.TARGETS, both)} | {
        place: dict.fromkeys(questions.KINDS, both[place]) for place in both
    }
    losses = [{"step": step, "answers": 3 / (step + 1), "patches": 1.0} for step in (0, 20, 39)]
    training = {"recipe": asdict(TINY), "seconds": 90.0, "device": "a GPU", "losses": losses}
    training["sight"] = [{"step": step, "patches": 2.0} for step in (0, 2)]
    (tmp_path / "training.json").write_text(json.dumps(training))
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    card.main(tmp_path)
    text = (tmp_path / "MODEL_CARD.md").read_text()
    assert "| count up to five | 98.7% | 65.4% | 25.0% |" in text
    assert "4 steps of 3 pictures with 3 questions each: in all 1.5 minutes on one\na GPU" in text
    assert Image.open(tmp_path / "losses.png").width > 300


def test_a_folder_is_made_once_for_its_tensors(folder, language, trained, tmp_path):
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert combine(language, trained, folder.parent) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    other = tmp_path / "other.safetensors"
    save_file({**load_file(trained), "vision_tower.vision_model.extra": torch.ones(1)}, other)
    assert combine(language, other, folder.parent) != folder


def test_the_name_stands_for_smollm2_with_the_shipped_tensors(
    language, trained, tmp_path, monkeypatch
):
    monkeypatch.setenv("LITELLAMA_HOME", str(tmp_path))
    shutil.copytree(language, tmp_path / "models" / "smollm2")
    monkeypatch.setattr("litellama.shapes.combine.shipped_weights", lambda: trained)
    folder = resolve("shapes-llava")
    assert folder.parent == tmp_path / "models"
    assert read_config(folder).vision == VISION
    monkeypatch.undo()
    missing = files("litellama.shapes") / "weights.safetensors"
    if not Path(str(missing)).exists():
        with pytest.raises(CheckpointError, match="not part of this installation: train it"):
            resolve("shapes-llava")


def test_pictures_reach_the_tower_as_they_were_painted():
    """What training makes of a picture is what the processor makes of its file."""
    drawn = scenes.draw_scenes(1, torch.Generator().manual_seed(0))
    painted = scenes.paint(drawn, torch.device("cpu"), 0)[0]
    array = (painted.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    process = ImageProcessor(VISION, VISION.image_size, mean=(MEAN,) * 3, std=(STD,) * 3)
    pixels = process(Image.fromarray(array))
    torch.testing.assert_close(pixels, (painted - MEAN) / STD, atol=0.5 / 255 / STD, rtol=1e-3)
