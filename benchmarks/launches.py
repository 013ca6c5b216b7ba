"""What one decode step costs to launch: kernel by kernel, and replayed as one CUDA graph.

python benchmarks/launches.py -o benchmarks/launches_h100.json     needs a GPU; about a minute

For each model and batch size: medians of the same step launched kernel by kernel ("eager"),
replayed ("graph"), and replayed with no kernel starting before the one ahead of it has ended
("graph, no overlap"); of the engine's whole steps with graphs and without; and one step of each as
a timeline.  Of transformers, the eager step.  Random weights, since only shapes cost time.

Medians are taken without a profiler.  Timelines are taken with one, which slows the host's launches
a little and leaves the kernels as they are.  A section that fails is named in the record under
"failed", the others are still written, and the exit code is 1.
"""

import argparse
import functools
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from litellama import LLM, SamplingParams
from litellama.bench import machine
from litellama.bench.peers import transformers_model
from litellama.course.tracing import spread, timed, timeline
from litellama.models.presets import PREFIX

CONTEXT, PROMPT = 512, 128  # the longest sequence, and the tokens of each prompt
Step = Callable[[], Any]


def main() -> int:
    """Measure, write the record, and say what failed; the exit code."""
    args = arguments()
    record: dict[str, Any] = {
        **machine.describe(torch.device(args.device)),
        "command": f"python launches.py {' '.join(args.models)}",
        "kind": "launches",
        "dtype": "bfloat16",
        "prompt_tokens": PROMPT,
        "steps": args.steps,
        "cases": [],
        "failed": [],
    }
    for model in args.models:
        try:
            measure_model(model, args, record)
        except Exception as error:  # out of memory, or a preset that is not there
            note(record, f"{model}: {error!r}")
            write(record, args.output)
    print(f"wrote {args.output}: {len(record['cases'])} cases")
    return int(bool(record["failed"]))


def write(record: dict[str, Any], path: str) -> None:
    """One line for each case."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    text = text.replace('{"model"', '\n{"model"').replace('"failed":', '\n"failed":')
    Path(path).write_text(text + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["smollm2-135m", "llama-3.2-1b"])
    parser.add_argument("-o", "--output", default="launches.json")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def note(record: dict[str, Any], problem: str) -> None:
    """Keep what failed, and show where."""
    record["failed"].append(problem[:300])
    print(f"FAILED {problem}", flush=True)
    traceback.print_exc(file=sys.stdout)


def measure_model(model: str, args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Every section of one model, each for itself."""
    llm = LLM(
        PREFIX + model,
        device=args.device,
        dtype="bfloat16",
        max_num_seqs=max(args.batches),
        max_seq_len=CONTEXT,
        prefix_caching=False,
    )
    for batch in args.batches:
        measure_batch(llm, model, batch, args, record)
    peer: list[Any] = []  # made once, by the first section that needs it

    def theirs(batch: int) -> None:
        if not peer:
            with torch.inference_mode(False):  # a model made in that mode does not run outside it
                peer.append(transformers_model(llm))
        record["cases"].append(transformers_steps(peer[0], model, batch, args.steps))

    run_sections(
        [(f"transformers, batch {b}", functools.partial(theirs, b)) for b in args.batches],
        model,
        args.output,
        record,
    )


def measure_batch(
    llm: LLM, model: str, batch: int, args: argparse.Namespace, record: dict[str, Any]
) -> None:
    """Everything about this package's step at one batch size."""
    steps = args.steps
    case: dict[str, Any] = {
        "model": model, "batch": batch, "peer": "litellama",
        "step_us": {}, "host_us": {}, "engine_us": {}, "timeline": {},
    }  # fmt: skip
    record["cases"].append(case)
    sections: list[tuple[str, Step]] = [
        ("the engine without graphs", lambda: engine_steps(llm, case, steps, False)),
        ("the engine", lambda: engine_steps(llm, case, steps, True)),
        ("one step", lambda: same_step(llm, case, steps)),
    ]
    run_sections(sections, f"{model}, batch {batch}", args.output, record)


def run_sections(
    sections: list[tuple[str, Step]], where: str, path: str, record: dict[str, Any]
) -> None:
    """One after the other, the record written after each: a run that is stopped keeps it."""
    for name, section in sections:
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                section()
            print(f"{where}, {name}: {time.perf_counter() - start:.1f} s", flush=True)
        except Exception as error:
            note(record, f"{where}, {name}: {error!r}")
        write(record, path)


def engine_steps(llm: LLM, case: dict[str, Any], steps: int, graphs: bool) -> None:
    """Seconds of the engine's own steps: scheduling, inputs, the model, and tokens brought back."""
    runner, batch = llm._runner, case["batch"]
    kept = runner._graphs
    if not graphs:
        runner._graphs = None
    times: list[float] = []
    try:
        for count in (20, steps):  # the first compiles and captures
            times = []
            rng = random.Random(0)
            prompts = [[rng.randrange(1000) for _ in range(PROMPT)] for _ in range(batch)]
            params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
            requests = [llm._submit(prompt, [], params) for prompt in prompts]
            while any(r.finish_reason is None for r in requests):
                start = time.perf_counter()
                llm.engine.step()
                times.append(time.perf_counter() - start)
            for request in requests:
                llm.engine.take(request)
    finally:
        runner._graphs = kept
    # The first steps compute prompts, and the last ones have nothing left to launch.
    case["engine_us"]["graph" if graphs else "eager"] = spread(times[10:-2])


def same_step(llm: LLM, case: dict[str, Any], steps: int) -> None:
    """The step that the engine's graph holds, launched kernel by kernel and replayed."""
    graphs = llm._runner._graphs
    assert graphs is not None
    shape = next(shape for shape in reversed(list(graphs._graphs)) if shape.size == case["batch"])
    plain, overlapping = no_overlap(graphs, shape), graphs._graphs[shape]
    ways: dict[str, Step] = {
        "eager": lambda: graphs._step(shape),
        "graph": overlapping.replay,
        "graph, no overlap": plain.replay,
    }
    for turn in range(2):  # the first warms up
        for name, step in ways.items():
            case["step_us"][name], case["host_us"][name] = timed(step, steps if turn else 10)
    for name, step in ways.items():
        line = timeline(step)
        case["timeline"][name] = line
        case["kernels"] = len(line["kernels"])
        if case["batch"] == 32:  # its busy time is kept, and its kernels would only take room
            del line["kernels"], line["launches"], line["names"]


def no_overlap(graphs: Any, shape: Any) -> torch.cuda.CUDAGraph:
    """A graph of the same step in which every kernel waits for the end of the one before it."""
    inputs = (graphs._longs, graphs._ints)
    kept = [tensor.clone() for tensor in inputs]
    with without_overlap():
        graph = graphs._capture(shape)  # leaves padding in the inputs
    for tensor, values in zip(inputs, kept, strict=True):
        tensor.copy_(values)
    return graph


@contextmanager
def without_overlap() -> Iterator[None]:
    """Let the kernels' modules think that this GPU knows no programmatic dependent launch."""
    modules: list[Any] = [
        module
        for name, module in sys.modules.items()
        if name.startswith("litellama.kernels.") and hasattr(module, "can_overlap")
    ]
    kept = [module.can_overlap for module in modules]
    for module in modules:
        module.can_overlap = lambda device: False
    try:
        yield
    finally:
        for module, function in zip(modules, kept, strict=True):
            module.can_overlap = function


def transformers_steps(model: Any, name: str, batch: int, steps: int) -> dict[str, Any]:
    """transformers' eager decode step, greedy, with its dynamic cache."""
    from transformers import DynamicCache

    rng = random.Random(0)
    prompts = [[rng.randrange(1000) for _ in range(PROMPT)] for _ in range(batch)]
    cache = DynamicCache(config=model.config)
    ids = torch.tensor(prompts, device=model.device)
    state = {"ids": ids}

    def step() -> None:
        out = model(state["ids"], past_key_values=cache, use_cache=True, logits_to_keep=1)
        state["ids"] = out.logits[:, -1].argmax(-1, keepdim=True)

    for _ in range(10):  # the first reads the prompt
        step()
    step_us, host_us = timed(step, steps // 2)
    line = timeline(step)
    case = {
        "model": name, "batch": batch, "peer": "transformers", "kernels": len(line["kernels"]),
        "step_us": {"eager": step_us}, "host_us": {"eager": host_us}, "timeline": {"eager": line},
    }  # fmt: skip
    if batch != 1:
        del line["kernels"], line["launches"], line["names"]
    return case


if __name__ == "__main__":
    sys.exit(main())
