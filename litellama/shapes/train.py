"""Train shapes-llava: ``python -m litellama.shapes.train OUT`` on a GPU, in minutes.

A vision tower and a projector start from nothing and learn to say what SmolLM2 needs in order to
answer questions about drawn scenes.  SmolLM2 itself is frozen, but for low-rank changes
(``litellama.shapes.lora``); so that it chats as before where there is no picture, a part of every
batch is texts that the unchanged model wrote, to be said again.

Every picture comes with several questions, one turn each, and only the answers are learnt.  They
alone give a tower that sees nothing yet no hint what to look for.  So it first learns to see, with
no language model behind it: each patch's features must tell which object has its centre there.
Such a step is several times as quick, and the task stays, with a small weight, to the end.
"""

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import nn

from litellama import kernels
from litellama.config import VisionConfig
from litellama.models.clip import VisionTower
from litellama.models.llava import Projector
from litellama.shapes import questions, scenes
from litellama.shapes.lora import add_low_rank, low_rank_tensors
from litellama.shapes.tower import IMAGE_TOKEN_ID, MEAN, STD, VISION

IGNORED = -100  # the label of a token that is not learnt


@dataclass(frozen=True)
class Recipe:
    """What a run depends on.

    turns: questions about each picture.  rank: of the changes to the language model, 0 for none.
    texts: rows of each batch that repeat the unchanged model's texts.  sight_steps, sight_batch and
    sight_learning_rate: of the tower alone, before.  aux: the weight of the patches' task after it.
    """

    steps: int = 2400
    batch: int = 256
    sight_steps: int = 3000
    sight_batch: int = 512
    sight_learning_rate: float = 1e-3
    turns: int = 3
    texts: int = 24
    learning_rate: float = 4e-4
    language_learning_rate: float = 3e-4
    warmup: int = 200
    weight_decay: float = 0.05
    rank: int = 8
    aux: float = 0.1
    seed: int = 0


class Eyes(nn.Module):
    """The vision tower, the projector, and the head of the patches' own task."""

    def __init__(self, vision: VisionConfig, hidden_size: int) -> None:
        super().__init__()
        self.tower, self.projector = VisionTower(vision), Projector(vision, hidden_size)
        self.classes = (len(scenes.SHAPES) + 1, len(scenes.COLOURS) + 1, len(scenes.SIZES) + 1)
        self.patch_head = nn.Linear(vision.hidden_size, sum(self.classes))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(True)
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=min(0.02, parameter[0].numel() ** -0.5))
            else:
                nn.init.constant_(parameter, 0.0 if "class" in name else 1.0)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """pictures [B, 3, S, S] from 0 to 1 -> image tokens [B, T, hidden], class scores."""
        with kernels.use_backend("torch"):  # the Triton kernels have no backward
            features = self.tower((pictures - MEAN) / STD)
            tokens = self.projector(features.flatten(0, 1))
        return tokens.view(*features.shape[:2], -1), self.patch_head(features)

    def patch_scores(self, pictures: torch.Tensor) -> torch.Tensor:
        """pictures [B, 3, S, S] from 0 to 1 -> class scores [B, T, classes]."""
        with kernels.use_backend("torch"):
            return self.patch_head(self.tower((pictures - MEAN) / STD))


def patch_targets(s: scenes.Scenes) -> torch.Tensor:
    """int64 [B, patches, 3]: shape, colour and size of the object centred in a patch; 0 is none."""
    side = scenes.SIZE // VISION.patch_size
    batch = len(s.count)
    targets = torch.zeros(batch, side * side, 3, dtype=torch.int64)
    column, row = (s.x // VISION.patch_size).long(), (s.y // VISION.patch_size).long()
    patch = row.clamp(0, side - 1) * side + column.clamp(0, side - 1)
    named = torch.stack([s.shape, s.colour, s.size], dim=-1) + 1
    for i in range(scenes.MAX_OBJECTS):
        there = (i < s.count).nonzero()[:, 0]
        targets[there, patch[there, i]] = named[there, i]
    return targets


def patch_loss(scores: torch.Tensor, targets: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Cross-entropy of the patches' shape, colour and size, objects weighing more than nothing."""
    losses = []
    for part, target in zip(scores.split(list(classes), -1), targets.unbind(-1), strict=True):
        weight = torch.ones(part.shape[-1], device=part.device)
        weight[0] = 0.2
        losses.append(F.cross_entropy(part.flatten(0, 1).float(), target.flatten(), weight))
    return torch.stack(losses).mean()


class Dialogues:
    """Token ids of questions and answers, as the chat template writes them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        said = [("user", "QUESTION"), ("assistant", "ANSWER"), ("user", "QUESTION")]
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in said],
            tokenize=False,
            add_generation_prompt=True,
        )
        before, self.asked, _ = text.split("QUESTION")
        self.asked, between = self.asked.split("ANSWER")
        self.start = self._piece(before)
        # A turn ends with a token of its own; what follows it opens the next question.
        self.end = tokenizer.convert_ids_to_tokens(self._piece(between)[0])
        self.next = between.removeprefix(self.end)
        self.image = [IMAGE_TOKEN_ID] * VISION.num_image_tokens
        self.piece = lru_cache(maxsize=None)(self._piece)

    def _piece(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def row(self, turns: Sequence[tuple[str, str]], picture: bool) -> tuple[list[int], list[int]]:
        """Token ids, and the labels: the answers' tokens and their ends, else ``IGNORED``."""
        ids = [*self.start, *self.image] if picture else list(self.start)
        labels = [IGNORED] * len(ids)
        for number, (question, answer) in enumerate(turns):
            opened = self.next if number else "\n" if picture else ""
            asked = self.piece(opened + question + self.asked)
            said = self.piece(answer + self.end)
            ids += [*asked, *said]
            labels += [*[IGNORED] * len(asked), *said]
        return ids, labels


@dataclass(frozen=True)
class Batch:
    """ids, labels: int64 [B + texts, L]; scenes and patches: of the first B rows."""

    ids: torch.Tensor
    labels: torch.Tensor
    scenes: scenes.Scenes
    patches: torch.Tensor


def choose_turns(
    things: list[questions.Thing], rng: random.Random, count: int
) -> list[tuple[str, str]]:
    """Different questions; a list of all there is comes last, for it gives the rest away."""
    asked = {q.text: q for q in (questions.ask_any(things, rng) for _ in range(count))}
    ordered = sorted(asked.values(), key=lambda q: q.kind == "list")
    return [(q.text, q.answer) for q in ordered]


def batches(
    dialogues: Dialogues, recipe: Recipe, texts: Sequence[tuple[str, str]]
) -> Iterator[Batch]:
    """The run's batches, the same for the same seed."""
    generator, rng = torch.Generator().manual_seed(recipe.seed), random.Random(recipe.seed)
    for _ in range(recipe.steps):
        drawn = scenes.draw_scenes(recipe.batch, generator)
        rows = [
            dialogues.row(choose_turns(things, rng, recipe.turns), picture=True)
            for things in questions.things_of(drawn)
        ]
        if texts:
            rows += [dialogues.row([rng.choice(texts)], False) for _ in range(recipe.texts)]
        length = -(-max(len(ids) for ids, _ in rows) // 16) * 16  # few lengths: few compilations
        padded = [(i + [0] * (length - len(i)), l + [IGNORED] * (length - len(l))) for i, l in rows]
        ids, labels = (torch.tensor(x) for x in zip(*padded, strict=True))
        yield Batch(ids, labels, drawn, patch_targets(drawn))


def answer_loss(
    language: Any, batch: Batch, image_tokens: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Cross-entropy of the answers' tokens; the head runs on those rows only."""
    ids, targets = batch.ids.to(device), batch.labels[:, 1:].flatten()
    learnt = (targets != IGNORED).nonzero()[:, 0]  # found on the CPU: the device need not wait
    embeddings = language.get_input_embeddings()(ids)
    embeddings = embeddings.masked_scatter(
        (ids == IMAGE_TOKEN_ID)[..., None], image_tokens.to(embeddings.dtype)
    )
    hidden = language.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[:, :-1]
    logits = language.lm_head(hidden.flatten(0, 1)[learnt.to(device)])
    return F.cross_entropy(logits.float(), targets[learnt].to(device))


def rate(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate: up over the warm-up, then down along a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


class Steps:
    """An optimiser with its schedule."""

    def __init__(self, groups: list[dict[str, Any]], steps: int, recipe: Recipe) -> None:
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(
            groups,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=self.parameters[0].is_cuda,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate(step, steps, recipe.warmup)
        )

    def take(self, loss: torch.Tensor) -> None:
        """One step down the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()


def learn_to_see(
    eyes: Eyes, recipe: Recipe, device: torch.device, report: Any
) -> list[dict[str, float]]:
    """Train the tower on the patches' own task; the losses of every 20th step."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    parts = [*eyes.tower.parameters(), *eyes.patch_head.parameters()]
    groups = [{"params": parts, "lr": recipe.sight_learning_rate}]
    steps, log, start = Steps(groups, recipe.sight_steps, recipe), [], time.perf_counter()

    def draw() -> tuple[scenes.Scenes, torch.Tensor]:
        drawn = scenes.draw_scenes(recipe.sight_batch, generator)
        return drawn, patch_targets(drawn)

    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(draw)
        for step in range(recipe.sight_steps):
            drawn, targets = coming.result()
            coming = worker.submit(draw)
            pictures = scenes.paint(drawn, device, seed=recipe.seed - 1 - step)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                scores = eyes.patch_scores(pictures)
            loss = patch_loss(scores, targets.to(device), eyes.classes)
            steps.take(loss)
            if step % 20 == 0 or step + 1 == recipe.sight_steps:
                log.append({"step": step, "patches": loss.item()})
            if step % 500 == 0 or step + 1 == recipe.sight_steps:
                seconds = time.perf_counter() - start
                report(f"learning to see, step {step}: {log[-1]}, {seconds:.0f} s")
    return log


def train(
    language: Any,
    tokenizer: Any,
    recipe: Recipe,
    device: torch.device,
    texts: Sequence[tuple[str, str]] = (),
    compiled: bool = False,
    report: Any = print,
) -> tuple[dict[str, torch.Tensor], dict[str, list[dict[str, float]]]]:
    """Train; returns the tensors (see ``tensors_of``) and the losses of every 20th step.

    The losses of learning to see are under "sight", those of what follows under "losses".

    language: transformers' decoder, on the device; changed in place when ``recipe.rank`` is set.
    compiled: run its layers through torch.compile, which fuses what lies between the products.
    """
    torch.manual_seed(recipe.seed)
    language.requires_grad_(False)
    changes = add_low_rank(language, recipe.rank) if recipe.rank else []
    if compiled:
        for layer in language.model.layers:  # all alike: one compilation serves them all
            layer.compile()
    eyes = Eyes(VISION, language.config.hidden_size).to(device)
    groups: list[dict[str, Any]] = [
        {"params": list(eyes.parameters()), "lr": recipe.learning_rate},
        {"params": changes, "lr": recipe.language_learning_rate, "weight_decay": 0.0},
    ]
    sight = learn_to_see(eyes, recipe, device, report)
    steps = Steps(groups, recipe.steps, recipe)
    source, log, start = batches(Dialogues(tokenizer), recipe, texts), [], time.perf_counter()
    with ThreadPoolExecutor(1) as worker:  # the next batch is made while the device works
        coming = worker.submit(next, source)
        for step in range(recipe.steps):
            batch = coming.result()
            if step + 1 < recipe.steps:
                coming = worker.submit(next, source)
            pictures = scenes.paint(batch.scenes, device, seed=recipe.seed + step)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                image_tokens, scores = eyes(pictures)
                answers = answer_loss(language, batch, image_tokens, device)
            patches = patch_loss(scores, batch.patches.to(device), eyes.classes)
            steps.take(answers + recipe.aux * patches)
            if step % 20 == 0 or step + 1 == recipe.steps:
                log.append({"step": step, "answers": answers.item(), "patches": patches.item()})
            if step % 200 == 0 or step + 1 == recipe.steps:
                seconds = time.perf_counter() - start
                report(f"step {step}: {log[-1]}, {seconds:.0f} s")
    return tensors_of(eyes, language), {"sight": sight, "losses": log}


def tensors_of(eyes: Eyes, language: nn.Module) -> dict[str, torch.Tensor]:
    """What was trained, in bfloat16 on the CPU, with the names of a LLaVA checkpoint.

    A low-rank change has the name of its weight with ".A" and ".B" after it.
    """
    trained = {}
    for name, pieces in eyes.tower.checkpoint_layout().items():
        parts = eyes.tower.get_parameter(name).split([shape[0] for _, shape in pieces])
        for (theirs, _), part in zip(pieces, parts, strict=True):
            trained[f"vision_tower.vision_model.{theirs}"] = part
    for name, parameter in eyes.projector.named_parameters():
        trained[f"multi_modal_projector.{name}"] = parameter
    for name, tensor in low_rank_tensors(language).items():
        trained[f"language_model.{name}"] = tensor
    return {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous().clone()
        for name, tensor in trained.items()
    }


TOPICS = (
    "the moon", "bread", "rivers", "Python", "music", "the heart", "bees", "history", "chess",
    "winter", "gravity", "tea", "Paris", "sleep", "volcanoes", "money", "dogs", "the sea",
    "poetry", "bridges", "football", "atoms", "kindness", "trains", "gardens", "France", "Egypt",
    "Japan", "Brazil", "Kenya", "Canada", "India", "the sun", "stars", "rain", "salt", "glass",
    "paper", "cats", "horses", "whales", "birds", "trees", "mountains", "deserts", "islands",
    "cities", "farms", "markets", "schools", "books", "letters", "numbers", "clocks", "maps",
    "painting", "dance", "theatre", "films", "cooking", "rice", "apples", "coffee", "chocolate",
    "cheese", "running", "swimming", "bicycles", "ships", "aeroplanes", "computers", "robots",
    "the internet", "electricity", "light", "sound", "heat", "water", "air", "soil", "medicine",
    "dreams", "memory", "friendship", "courage", "work", "holidays", "families", "children",
    "old age", "language", "law", "peace", "voting", "trade", "castles", "pyramids", "dinosaurs",
)  # fmt: skip
PROMPTS = (
    "Tell me about {}.",
    "What is interesting about {}?",
    "Write a short poem about {}.",
    "Explain {} to a child in two sentences.",
    "List three facts about {}.",
    "Hello! Can we talk about {}?",
    "Why do people like {}?",
    "Write one sentence about {}.",
    "What should I know about {}?",
    "What is the first thing you think of when you hear of {}?",
    "Give me a question about {}, and its answer.",
    "How did {} change the world?",
    "Write an email to a friend about {}.",
    "What is the most famous example of {}?",
    "Where can I learn more about {}?",
    "Is it true that everybody knows {}?",
)


def own_texts(folder: Path, device: torch.device, tokens: int = 80) -> list[tuple[str, str]]:
    """What the unchanged model says to ``PROMPTS`` about ``TOPICS``: (question, answer).

    Over a thousand of them: a few hundred, each said again hundreds of times, would be learnt by
    heart, and the rest of what the model knows would fade.
    """
    from litellama import LLM, SamplingParams

    llm = LLM(
        folder, device=device.type, max_num_seqs=256, max_seq_len=256, kv_cache_tokens=256 * 256
    )
    asked = [prompt.format(topic) for prompt in PROMPTS for topic in TOPICS]
    ids = [llm.chat_prompt([{"role": "user", "content": text}]) for text in asked]
    params = SamplingParams(temperature=0.7, top_p=0.95, max_tokens=tokens, seed=0)
    answers = llm.generate(ids, params)
    ended = [(q, a.text) for q, a in zip(asked, answers, strict=True) if a.finish_reason == "stop"]
    cut = [(q, a.text) for q, a in zip(asked, answers, strict=True) if a.finish_reason != "stop"]
    # A text that was cut off has no end to learn; up to its last sentence it has.
    return ended + [(q, t[: t.rindex(".") + 1]) for q, t in cut if "." in t]


def main(
    out: Annotated[Path, typer.Argument(help="Where the tensors and the losses are written.")],
    model: Annotated[str, typer.Option(help="The language model.")] = "smollm2",
    device: str = "cuda",
    steps: int = Recipe.steps,
    sight_steps: int = Recipe.sight_steps,
    batch: int = Recipe.batch,
    rank: int = Recipe.rank,
    learning_rate: float = Recipe.learning_rate,
    seed: int = 0,
    compiled: Annotated[bool, typer.Option(help="Run the layers through torch.compile.")] = True,
) -> None:
    """Train shapes-llava, and write weights.safetensors and training.json."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from litellama.checkpoints import resolve

    start, folder, where = time.perf_counter(), resolve(model), torch.device(device)
    recipe = Recipe(
        steps=steps,
        batch=batch,
        sight_steps=sight_steps,
        rank=rank,
        learning_rate=learning_rate,
        seed=seed,
    )
    texts = own_texts(folder, where) if rank else []
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    language: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    language = language.to(where).eval()
    tensors, log = train(
        language, AutoTokenizer.from_pretrained(folder), recipe, where, texts, compiled
    )
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "weights.safetensors")
    record = {
        "recipe": asdict(recipe),
        "seconds": round(time.perf_counter() - start, 1),
        "device": torch.cuda.get_device_name() if where.type == "cuda" else "CPU",
        "torch": torch.__version__,
        **log,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
