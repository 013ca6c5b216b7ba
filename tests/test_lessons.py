"""What the lessons promise beyond running: their kernels are the package's, their links lead on."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
TITLE = re.compile(r"# (\d\d) · ")


def kernels_in(source: str) -> dict[str, str]:
    """The source of each @triton.jit function, decorator and all, by name; the last one wins."""
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        decorators = getattr(node, "decorator_list", [])
        if any(ast.unparse(decorator).startswith("triton.jit") for decorator in decorators):
            text = lines[decorators[0].lineno - 1 : node.end_lineno]
            found[node.name] = "\n".join(text)
    return found


PACKAGE: dict[str, set[str]] = {}  # the flash_attention files have functions of one name
for _path in (ROOT / "litellama" / "kernels").glob("*.py"):
    for _name, _text in kernels_in(_path.read_text(encoding="utf-8")).items():
        PACKAGE.setdefault(_name, set()).add(_text)


def cells(path: Path, kind: str) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_there_are_lessons_and_kernels():
    assert len(LESSONS) >= 3
    assert {"mul_kernel", "rms_norm_kernel", "skip_rms_norm_kernel"} <= set(PACKAGE)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lessons_final_kernels_are_the_packages(path):
    code = [cell for cell in cells(path, "code") if not cell.lstrip().startswith("%")]
    for name, text in kernels_in("\n\n".join(code)).items():
        if name in PACKAGE:
            assert text in PACKAGE[name], f"{name} differs from litellama/kernels"


@pytest.mark.parametrize(
    ("lesson", "kernels"),
    [
        ("01_first_triton_kernel", {"mul_kernel"}),
        ("02_softmax", {"softmax_kernel", "softmax_online_kernel"}),
        ("03_rmsnorm", {"rms_norm_kernel", "skip_rms_norm_kernel"}),
        ("04_rope", {"rope_kernel", "rotate_heads"}),
        ("05_swiglu", {"swiglu_kernel"}),
        ("06_matmul", {"matmul_kernel", "plain_matvec_kernel"}),
        (
            "08_flash_attention",
            {
                "flash_attention_v1_kernel",
                *("online_softmax", "load_rows", "attend_to_keys", "flash_attention_kernel"),
                *("load_keys", "flash_attention_varlen_kernel"),
            },
        ),
        ("09_flash_decoding", {"flash_decoding_kernel", "merge_splits_kernel"}),
        ("10_kv_cache", {"write_kv_kernel"}),
        ("14_sampling", {"splitmix64", "gumbel_noise", "key_of", "logit_of"}),
    ],
)
def test_a_lesson_builds_the_kernels_it_is_about(lesson, kernels):
    code = "\n\n".join(cells(ROOT / "notebooks" / f"{lesson}.ipynb", "code"))
    assert kernels <= set(kernels_in(code))


def methods_in(source: str, name: str) -> dict[str, str]:
    """The code of the methods of all classes of this name, docstrings aside; the last one wins."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    if ast.get_docstring(method):
                        del method.body[0]
                    found[method.name] = ast.unparse(method)
    return found


def test_lesson_10_builds_the_engines_block_manager():
    package = (ROOT / "litellama" / "engine" / "block_manager.py").read_text(encoding="utf-8")
    lesson = "\n\n".join(cells(ROOT / "notebooks" / "10_kv_cache.ipynb", "code"))
    built = methods_in(lesson, "BlockManager")
    assert "copy_on_write" in built
    assert built == methods_in(package, "BlockManager")


def test_lesson_16_builds_the_engines_scheduler():
    package = (ROOT / "litellama" / "engine" / "scheduler.py").read_text(encoding="utf-8")
    lesson = "\n\n".join(cells(ROOT / "notebooks" / "16_continuous_batching.ipynb", "code"))
    built, ours = methods_in(lesson, "Scheduler"), methods_in(package, "Scheduler")
    assert "restart" in ours
    assert {name: built[name] for name in ours} == ours  # the first rungs have a few more


def test_lesson_14_builds_the_packages_noise():
    package = (ROOT / "litellama" / "kernels" / "sample.py").read_text(encoding="utf-8")
    code = "\n\n".join(cells(ROOT / "notebooks" / "14_sampling.ipynb", "code"))
    for node in ast.parse(package).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("gumbel", "mix64", "shift_right"):
            assert ast.get_source_segment(package, node) in code, node.name


def test_lesson_15_builds_the_engines_decode_graphs():
    code = "\n\n".join(cells(ROOT / "notebooks" / "15_cuda_graphs.ipynb", "code"))
    engine = (ROOT / "litellama" / "engine" / "graphs.py").read_text(encoding="utf-8")
    course = (ROOT / "litellama" / "course" / "graphs.py").read_text(encoding="utf-8")
    assert methods_in(code, "DecodeGraphs") == methods_in(engine, "DecodeGraphs")
    assert methods_in(code, "Graph") == methods_in(course, "Graph")
    for source, names in (
        (engine, ("resolve_ids", "round_up", "Shape")),
        (course, ("asks_host", "flash_decoding")),
    ):
        parts = {
            getattr(n, "name", ""): ast.get_source_segment(source, n)
            for n in ast.parse(source).body
        }
        assert all(parts[name] in code for name in names)


def without_hints(source: str) -> str:
    """Code without the type hints of its functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.unparse(tree)


def test_lesson_11_builds_the_packages_decoder():
    """All but the engine's second way, for few rows on a GPU, and the fork that leads there."""
    lesson = without_hints("\n\n".join(cells(ROOT / "notebooks" / "11_llama.ipynb", "code")))
    left_out = {"forward_few"}
    for file, names in (
        ("decoder.py", ["RMSNorm", "Attention", "MLP", "DecoderLayer", "Decoder"]),
        ("llama.py", ["LlamaForCausalLM"]),
    ):
        package = without_hints((ROOT / "litellama" / "models" / file).read_text(encoding="utf-8"))
        for name in names:
            built, ours = methods_in(lesson, name), methods_in(package, name)
            assert set(ours) - left_out == set(built)
            if name == "Decoder":
                assert built.pop("forward") != ours["forward"]  # else say so in the lesson
            assert built == {method: ours[method] for method in built}


def test_lesson_12_builds_the_packages_qwens():
    lesson = "\n\n".join(cells(ROOT / "notebooks" / "12_qwen.ipynb", "code"))
    for file, names in (
        ("qwen2.py", ["Qwen2ForCausalLM"]),
        ("qwen3.py", ["Qwen3Attention", "Qwen3ForCausalLM"]),
    ):
        package = (ROOT / "litellama" / "models" / file).read_text(encoding="utf-8")
        for name in names:
            built = methods_in(without_hints(lesson), name)
            assert "read_config" in built or "head_norms" in built
            assert built == methods_in(without_hints(package), name)


def test_lesson_13_builds_the_packages_eyes():
    """All but the list of tensors that a checkpoint may have and the tower does not need."""
    lesson = without_hints("\n\n".join(cells(ROOT / "notebooks" / "13_llava.ipynb", "code")))
    for file, names in (
        ("clip.py", ["PatchEmbeddings", "VisionAttention", "VisionMLP", "VisionLayer"]),
        ("clip.py", ["VisionTower"]),
        ("llava.py", ["Projector"]),
    ):
        package = (ROOT / "litellama" / "models" / file).read_text(encoding="utf-8")
        package = without_hints(package.replace(": Activation =", " ="))
        for name in names:
            ours = methods_in(package, name)
            ours.pop("ignored_checkpoint_names", None)
            assert "forward" in ours
            assert methods_in(lesson, name) == ours


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_links_and_pictures_exist(path):
    targets = [target for cell in cells(path, "markdown") for target in LINK.findall(cell)]
    assert targets
    for target in targets:
        assert (path.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(path):
    text = "\n".join(cells(path, "markdown"))
    number = TITLE.match(text).group(1)
    assert number == path.stem[:2]
    assert re.search(r"\.\./images/map(_\d\d)?\.svg", text), "the map of the engine"
    for part in ("**The question.**", "## Recap", "**Try.**", "**Next:**", "**Sources.**"):
        assert part in text, part
    if number not in ("00", "17"):  # the first and the last have none
        assert "**Exercises:**" in text
    recap = text.split("## Recap")[1].split("**Try.**")[0]
    assert recap.count("\n- ") <= 5, "a recap has at most five points"
