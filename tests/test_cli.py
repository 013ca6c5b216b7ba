"""The command line: options, errors, exit codes, and what each command prints."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner, Result

from litellama import LLM, SamplingParams, checkpoints, kernels
from litellama.cli import app, canary, doctor
from litellama.errors import CheckpointError
from tests.fake_record import kernel_record

ROOT = Path(__file__).parents[1]
COMMANDS = ["chat", "generate", "bench", "pull", "convert", "doctor", "course"]


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("LITELLAMA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f" {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help").exit_code == 0


def test_help_does_not_load_the_engine() -> None:
    """Only what `import litellama` itself needs may be imported before a command runs."""
    program = "import sys, litellama; before = set(sys.modules); import litellama.cli; "
    program += "print([m for m in ('transformers', 'prompt_toolkit', 'litellama.llm') "
    program += "if m in sys.modules and m not in before])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["nonsense"], ["generate"], ["generate", "--warmth", "1"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "1.7"], "top_p"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int3"], "int3"),
        (["--prompt", ""], "the prompt is empty"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_1(
    tiny_llama: Path, home: Path, arguments: list[str], message: str
) -> None:
    result = run("generate", "--prompt", "hello", "--model", tiny_llama, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert "Traceback" not in result.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Path:
        raise KeyError("a bug")

    monkeypatch.setattr(checkpoints, "pull", broken)
    assert isinstance(run("pull", "smollm2").exception, KeyError)


# generate

GREEDY = ["--temperature", "0", "--max-tokens", "12"]


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> LLM:
    return LLM(tiny_llama, device="cpu")


def test_generate_streams_what_the_engine_makes(tiny: LLM, tiny_llama: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=12)
    expected = tiny.generate("hello", params)[0].text + "\n"
    result = run("generate", "-p", "hello", "-m", tiny_llama, "--device", "cpu", *GREEDY)
    assert result.exit_code == 0, result.output
    assert result.stdout == expected
    piped = run("generate", "-p", "-", "-m", tiny_llama, "--device", "cpu", *GREEDY, stdin="hello")
    assert piped.stdout == expected


def test_generate_in_the_chat_template(tiny: LLM, tiny_llama: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=12)
    expected = tiny.chat([{"role": "user", "content": "hello"}], params).text
    result = run("generate", "-p", "hello", "--chat", "-m", tiny_llama, "--device", "cpu", *GREEDY)
    assert result.stdout == expected + "\n"


def test_generate_json(tiny: LLM, tiny_llama: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=12)
    expected = tiny.generate("hello", params)[0]
    result = run("generate", "-p", "hello", "--json", "-m", tiny_llama, "--device", "cpu", *GREEDY)
    record = json.loads(result.stdout)
    assert record.pop("seconds") >= 0
    assert record == {
        "text": expected.text,
        "finish_reason": expected.finish_reason,
        "prompt_token_ids": expected.prompt_token_ids,
        "token_ids": expected.token_ids,
    }


def test_the_same_seed_gives_the_same_text(tiny_llama: Path) -> None:
    def text(seed: int) -> str:
        options = ["--temperature", "1", "--top-p", "1", "--seed", seed, "--ignore-eos"]
        return run("generate", "-p", "hello", "-m", tiny_llama, *options).stdout

    assert text(1) == text(1) != text(2)


def test_stop_strings_are_passed_on(tiny_llama: Path) -> None:
    whole = run("generate", "-p", "hello", "-m", tiny_llama, *GREEDY, "--ignore-eos").stdout
    stop = whole[4]
    cut = run("generate", "-p", "hello", "-m", tiny_llama, *GREEDY, "--ignore-eos", "--stop", stop)
    assert cut.stdout == whole[: whole.index(stop)] + "\n"


# pull and convert


def test_pull_says_where_the_model_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "pull", lambda name: tmp_path / name)
    result = run("pull", "smollm2")
    assert result.stdout == f"smollm2 is in {tmp_path / 'smollm2'}\n"


def test_pull_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(name: str) -> Path:
        raise CheckpointError("there is no network")

    monkeypatch.setattr(checkpoints, "pull", no_network)
    result = run("pull", "OWNER/NAME")
    assert (result.exit_code, result.stderr) == (1, "Error: there is no network\n")


def test_convert(tiny_llama: Path, tmp_path: Path, home: Path) -> None:
    result = run("convert", tiny_llama, tmp_path / "converted")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "converted" / "config.json").is_file()
    again = run("convert", tiny_llama, tmp_path / "converted")
    assert again.exit_code == 1
    assert "already exists" in again.stderr


# bench


def test_bench_prints_a_table_and_writes_the_record(tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    sizes = ["--prompt-tokens", 8, "--new-tokens", 4, "--repeats", 2]
    result = run("bench", "-m", tiny_llama, "--device", "cpu", *sizes, "-o", output)
    assert result.exit_code == 0, result.output
    assert "litellama" in result.stdout
    assert "transformers" in result.stdout
    assert "2 the same" in result.stdout
    record = json.loads(output.read_text())
    assert record["work"]["new_tokens"] == 4
    assert "repetition 2 of 2" in result.stderr


def test_bench_fails_when_the_tokens_differ(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from litellama.bench import engine

    honest = engine.Litellama.generate

    def wrong(self: engine.Litellama, prompts: list, n: int) -> list:
        return [[*row[:-1], (row[-1] + 1) % 100] for row in honest(self, prompts, n)]

    monkeypatch.setattr(engine.Litellama, "generate", wrong)
    sizes = ["--prompt-tokens", 8, "--new-tokens", 4, "--repeats", 1]
    result = run("bench", "-m", tiny_llama, "--device", "cpu", "--dtype", "float32", *sizes)
    assert result.exit_code == 1
    assert "different tokens in float32 from transformers" in result.stderr


def test_bench_alone(tiny_llama: Path) -> None:
    sizes = ["--prompt-tokens", 8, "--new-tokens", 4, "--repeats", 1]
    result = run("bench", "-m", tiny_llama, "--device", "cpu", *sizes, "--against", "none")
    assert result.exit_code == 0, result.output
    assert "litellama" in result.stdout
    assert "transformers" not in result.stdout


def test_bench_queue_prints_and_writes(tiny_llama: Path, tmp_path: Path) -> None:
    sizes = ["--requests", 3, "--shortest", 2, "--longest", 5, "--repeats", 1]
    output = tmp_path / "queue.json"
    result = run("bench", "queue", "-m", tiny_llama, "--device", "cpu", *sizes, "-o", output)
    assert result.exit_code == 0, result.output
    assert "3 requests of 2 to 5 prompt" in result.stdout
    assert "output tokens/s" in result.stdout
    assert json.loads(output.read_text())["kind"] == "queue"


def test_bench_prefix_prints_and_writes(tiny_llama: Path, tmp_path: Path) -> None:
    sizes = ["--requests", 2, "--prefix-tokens", 40, "--own-tokens", 3, "--repeats", 1]
    output = tmp_path / "prefix.json"
    result = run("bench", "prefix", "-m", tiny_llama, "--device", "cpu", *sizes, "-o", output)
    assert result.exit_code == 0, result.output
    for words in ("40 shared tokens and 3 more", "in the cache", "2 at once"):
        assert words in " ".join(result.stdout.split())
    assert json.loads(output.read_text())["kind"] == "prefix"


def test_bench_refuses_an_unwritable_output_first(tiny_llama: Path, tmp_path: Path) -> None:
    result = run("bench", "-m", tiny_llama, "-o", tmp_path / "nowhere" / "record.json")
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr
    assert "warm-up" not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bench_kernels_refuses_a_cpu() -> None:
    result = run("bench", "kernels", "mul")
    assert result.exit_code == 1
    assert "timed on a GPU" in result.stderr


def bench_kernels_with(record: dict, monkeypatch: pytest.MonkeyPatch, *options: object) -> Result:
    """With a made record in place of a GPU."""
    from litellama.bench import kernels as bench_kernels

    def fake_run(*args: object, save: Callable, **settings: object) -> dict:
        save(record)
        return record

    monkeypatch.setattr(bench_kernels, "run", fake_run)
    return run("bench", "kernels", *options)


def test_bench_kernels_prints_and_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = kernel_record()
    result = bench_kernels_with(record, monkeypatch, "-o", tmp_path / "again.json")
    assert result.exit_code == 0, result.output
    for row in record["results"]:
        assert row["case"] in result.stdout
    assert "…" not in result.stdout, "a column is cut at 80 characters"
    assert "rms_norm 16384×4096" in result.stdout
    assert "SDPA flash 2100" in result.stdout, "of many peers the best is named"
    assert "1.14" in result.stdout  # 80% over 70%
    assert json.loads((tmp_path / "again.json").read_text()) == record


def test_bench_kernels_updates_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from litellama.bench import kernels as bench_kernels
    from litellama.bench import machine

    path, older = tmp_path / "record.json", kernel_record()
    path.write_text(json.dumps(older))
    again = kernel_record(date="tomorrow")
    again["results"] = [
        row | {"median_us": 2.0} for row in again["results"] if row["kernel"] == "mul"
    ]
    monkeypatch.setattr(bench_kernels, "the_gpu", lambda: torch.device("cuda"))
    monkeypatch.setattr(machine, "describe", lambda device: older)
    result = bench_kernels_with(again, monkeypatch, "mul", "--update", path)
    assert result.exit_code == 0, result.output
    for row, was in zip(json.loads(path.read_text())["results"], older["results"], strict=True):
        changed = {"median_us": 2.0, "date": "tomorrow"} if was["kernel"] == "mul" else {}
        assert row == was | changed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no JSON", "is no record of litellama bench kernels"),
        ("[]", "is no record of litellama bench kernels"),
        (json.dumps(kernel_record(gpu="Another GPU")), "is of Another GPU, torch 2"),
        (json.dumps(kernel_record(versions={"torch": "1", "triton": "3"})), "Some GPU, torch 1"),
    ],
)
def test_bench_kernels_refuses_another_record_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, complaint: str
) -> None:
    from litellama.bench import kernels as bench_kernels
    from litellama.bench import machine

    monkeypatch.setattr(bench_kernels, "the_gpu", lambda: torch.device("cuda"))
    monkeypatch.setattr(machine, "describe", lambda device: kernel_record())
    path = tmp_path / "record.json"
    path.write_text(text)
    result = bench_kernels_with(kernel_record(), monkeypatch, "--update", path)
    assert result.exit_code == 1
    assert complaint in " ".join(result.stderr.split())
    assert "litellama" not in result.stdout, "nothing was measured"
    assert path.read_text() == text


def test_bench_kernels_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = {"kernel": "matvec", "case": "big", "dtype": "float32", "error": "E: no memory"}
    record = kernel_record(failed=[failure | {"peer": "cuBLAS"}], absent=["Liger-Kernel"])
    result = bench_kernels_with(record, monkeypatch)
    assert result.exit_code == 0, "a peer's failure is told, and is not ours"
    assert "matvec big float32 cuBLAS: E: no memory" in result.stderr
    assert "pip install liger-kernel" in result.stderr

    record["failed"].append(failure | {"peer": "litellama"})
    result = bench_kernels_with(record, monkeypatch)
    assert result.exit_code == 1
    assert "1 of litellama's own cases could not be measured" in result.stderr


# doctor


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two kernels, so that the interpreter is not kept long."""
    names = ("mul", "rms_norm")
    monkeypatch.setattr(canary, "CASES", {name: canary.CASES[name] for name in names})


def test_doctor_finds_nothing_wrong(home: Path) -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert f"torch {torch.__version__}" in result.stdout
    tried = next(line for line in result.stdout.splitlines() if "right in float32" in line)
    assert tried.endswith("flash_decoding, sample: right in float32, float16 and bfloat16")
    assert "smollm2 is not here yet" in result.stdout
    assert "litellama pull smollm2" in result.stdout
    assert "free for the cache" in result.stdout


def zeros(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return torch.zeros_like(x)


def slightly_off(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return kernels.rms_norm(x, weight, eps) * 1.001


def not_a_number(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return x * float("nan")


def crash(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    raise RuntimeError("0 active drivers")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (zeros, "rms_norm in float32 returned all zeros"),
        (slightly_off, "rms_norm in float32 is wrong by"),
        (not_a_number, "rms_norm in bfloat16 returned NaN"),
        (crash, "rms_norm in float16 raised RuntimeError: 0 active drivers"),
    ],
)
def test_doctor_reports_a_broken_kernel(
    home: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable, problem: str
) -> None:
    fake = SimpleNamespace(mul=kernels.mul, rms_norm=broken, use_backend=kernels.use_backend)
    monkeypatch.setattr(canary, "kernels", fake)
    result = run("doctor")
    assert result.exit_code == 1
    assert problem in result.stdout
    assert "constraints.txt" in result.stdout, "it does not say what to do"


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        ("matvec", lambda out: out * 1.1, "is wrong by"),
        ("flash_attention", lambda out: out.flip(2), "is wrong by"),
        ("flash_attention_varlen", lambda out: out[:-1], "returned torch.float32 (20, 4, 64), not"),
        ("flash_decoding", lambda out: out.flip(0), "is wrong by"),
        ("sample", lambda out: out + 1, "returned ["),
        ("sample", lambda out: out.int(), "returned torch.int32 (3,), not torch.int64 (3,)"),
    ],
)
def test_the_canary_notices(
    monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable, problem: str
) -> None:
    """In torch: what is looked at here is the comparison, and that the inputs tell."""
    fake = {name: lambda *args: spoil(getattr(kernels, name)(*args))}
    monkeypatch.setattr(canary, "kernels", SimpleNamespace(**fake, use_backend=kernels.use_backend))
    monkeypatch.setattr(canary, "CASES", {name: canary.CASES[name]})
    (first, *others) = canary.run(torch.device("cpu"), backend="torch")
    assert problem in first.problem
    assert all(verdict.problem for verdict in others)


@pytest.mark.usefixtures("quick")
def test_doctor_reports_half_a_model(home: Path) -> None:
    folder = home / "models" / "smollm2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    result = run("doctor")
    assert result.exit_code == 1
    assert "has no model.safetensors" in result.stdout
    (folder / "model.safetensors").touch()
    assert "smollm2 is in" in run("doctor").stdout


@pytest.mark.usefixtures("quick")
def test_doctor_reports_a_full_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    result = run("doctor")
    assert result.exit_code == 1
    assert "0.1 GB free" in result.stdout
    assert "LITELLAMA_HOME" in result.stdout


def test_doctor_without_triton(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from litellama.kernels import backend

    monkeypatch.setattr(backend, "HAS_TRITON", False)
    result = run("doctor")
    assert result.exit_code == 0
    assert "kernels run as their torch references" in result.stdout
