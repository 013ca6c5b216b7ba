"""shapes-llava as it ships: who can open it, what its card claims, and that it still chats."""

import json
import random
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from litellama import LLM, SamplingParams
from litellama.checkpoints import resolve
from litellama.shapes import card, evaluate

pytestmark = pytest.mark.model
PACKAGE = Path(str(files("litellama.shapes")))
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def llm(smollm2):
    return LLM("shapes-llava", device="cpu", max_seq_len=256)


def test_transformers_opens_the_folder_and_says_the_same(llm):
    folder = resolve("shapes-llava")
    theirs = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    rng = random.Random(0)
    asked = ["What is in the picture?", "How many objects are there?"]
    for question in asked:
        picture, _ = evaluate.sketch(rng, 3)
        out = llm.chat([{"role": "user", "content": question}], GREEDY, [picture])
        ids = torch.tensor([out.prompt_token_ids])
        expected = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **processor(picture, return_tensors="pt"),
            do_sample=False,
            max_new_tokens=GREEDY.max_tokens,
        )
        assert out.token_ids == expected[0, ids.shape[1] :].tolist()


def test_a_few_new_answers_are_as_often_right_as_the_record_says(llm):
    record = json.loads((PACKAGE / "evaluation.json").read_text())
    for kind in ("count", "relation"):
        claimed = record["scenes"][kind]["right"]
        asked = evaluate.held_out(40, kind, (2, 3, 4, 5))
        right = evaluate.accuracy(llm, asked)["right"]
        # Four standard deviations of 40 answers, each right with the claimed probability.
        assert right >= claimed - 4 * (max(claimed * (1 - claimed), 0.01) / 40) ** 0.5


def test_the_card_is_of_these_records(tmp_path):
    training, record = (
        json.loads((PACKAGE / f"{name}.json").read_text()) for name in ("training", "evaluation")
    )
    assert card.card(training, record) == (PACKAGE / "MODEL_CARD.md").read_text()


def test_without_a_picture_it_chats(llm):
    out = llm.chat([{"role": "user", "content": "Write one sentence about the sea."}], GREEDY)
    assert len(set(out.text.split())) > 5
    assert "sea" in out.text or "ocean" in out.text or "water" in out.text
