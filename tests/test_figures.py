"""Figures are made by scripts, say what they show, and come out the same every time."""

import base64
import importlib.util
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from litellama.course import figures, scenes, widgets
from litellama.course.drawing import GROUND, LAYER, LOOP, engine_map
from tests.browser.screenshots import LARGEST, PICTURES

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "images"
SVG = "{http://www.w3.org/2000/svg}"
LESSONS = range(19)


def load_script(name="make_figures"):
    spec = importlib.util.spec_from_file_location(name, IMAGES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    load_script().main(folder)
    load_script("plot_benchmarks").main(folder)
    return folder


def test_the_stored_figures_are_what_the_script_draws(drawn):
    stored = {path.name for path in IMAGES.iterdir() if path.suffix == ".svg"}
    assert stored == {path.name for path in drawn.iterdir()}, "run `make figures`"
    for path in drawn.iterdir():
        assert path.read_bytes() == (IMAGES / path.name).read_bytes(), (
            f"{path.name}: `make figures`"
        )


def test_the_screenshots_are_those_that_the_readme_shows():
    """Their pixels differ between machines, so nothing compares those: `make screenshots`."""
    stored = {path.name: path.stat().st_size for path in IMAGES.glob("*.png")}
    assert stored.keys() == PICTURES.keys()
    assert max(stored.values()) <= LARGEST
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in PICTURES:
        assert len(re.search(rf"!\[([^\]]+)\]\(images/{re.escape(name)}\)", readme)[1]) > 80


def test_every_figure_is_valid_and_says_what_it_shows(drawn):
    for path in drawn.iterdir():
        root = ET.parse(path).getroot()
        assert len(root.get("aria-label")) > 40, path.name
        assert root.find(f"{SVG}title").text == root.get("aria-label"), path.name


def test_the_boxes_of_a_figure_stay_inside_it(drawn):
    for path in drawn.iterdir():
        root = ET.parse(path).getroot()
        for rect in root.findall(f"{SVG}rect"):
            x, y, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            assert x >= 0, path.name
            assert y >= 0, path.name
            assert x + w <= float(root.get("width")), path.name
            assert y + h <= float(root.get("height")), path.name


def test_every_lesson_has_a_place_on_the_map():
    placed = {lesson for *_, lessons in [*LOOP, *LAYER, *GROUND] for lesson in lessons}
    assert placed == set(LESSONS)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_map_lights_the_pieces_of_its_lesson(lesson):
    expected = sum(lesson in lessons for *_, lessons in [*LOOP, *LAYER, *GROUND])
    root = ET.fromstring(engine_map(lesson))
    assert len(root.findall(f"{SVG}rect[@class='lit']")) == expected
    assert f"built in lesson {lesson:02d}" in root.get("aria-label")


def test_the_map_of_no_lesson_lights_nothing():
    assert 'class="lit"' not in engine_map()


def test_a_chart_is_the_same_file_every_time():
    def chart():
        return figures.png(figures.bars({"a": 1.0, "b": 2.5}, "GB/s", limit=3.0))

    assert chart() == chart()
    assert chart() != figures.png(figures.bars({"a": 1.0, "b": 2.0}, "GB/s", limit=3.0))


def test_a_chart_is_small_and_carries_its_alt_text():
    figure = figures.roofline(3e12, 700e12, {"decode": 1.0, "prompt": 512.0}, "an H100")
    bundle, metadata = figures.image_bundle(figure, "A roofline.")
    assert metadata["image/png"]["alt"] == bundle["text/plain"] == "A roofline."
    assert len(base64.b64decode(bundle["image/png"])) < 40_000


COST = {
    "kernel": "mul", "shape": [16, 8], "dtype": "float32", "gpu": "Some GPU",
    "peer": "litellama", "median_us": 2.0, "gb_per_s": 90.0, "fraction_of_copy": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("shape", [[16, 8], [[16, 8], [16, 8]]], ids=["one-shape", "each-input"])
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"results": rows}])
def test_recorded_costs_are_read_and_the_largest_shape_shown(tmp_path, monkeypatch, shape, wrap):
    small = COST | {"shape": [2, 2], "gb_per_s": 10.0, "fraction_of_copy": 0.1}
    other = COST | {"kernel": "softmax"}
    rows = wrap([small, COST | {"shape": shape}, other])
    (tmp_path / "kernels_some.json").write_text(json.dumps(rows))
    recorded = figures.recorded("mul", tmp_path)
    assert [row["gb_per_s"] for row in recorded] == [10.0, 90.0]
    assert figures.recorded("mul", tmp_path, shape=(2, 2)) == [small]
    assert figures.recorded("mul", tmp_path, shape=(3, 3)) == []
    shown = []
    monkeypatch.setattr(figures, "show", lambda figure, alt: shown.append(alt))
    figures.show_costs(recorded, "recorded")
    expected = "mul of 16×8 float32 on Some GPU, recorded, in GB/s: litellama 90; a copy 100."
    assert shown == [expected]


def test_recorded_costs_carry_the_date_of_their_record(tmp_path):
    record = {"date": "2026-11-22", "results": [COST]}
    (tmp_path / "kernels_some.json").write_text(json.dumps(record))
    assert figures.recorded("mul", tmp_path) == [COST | {"date": "2026-11-22"}]


def test_of_two_shapes_as_large_only_one_is_shown():
    rows = [COST, COST | {"shape": [128, 1], "gb_per_s": 10.0}]
    assert figures.largest(rows) == [COST]


def test_without_recorded_costs_the_lesson_says_so(tmp_path, capsys):
    figures.show_costs(figures.recorded("mul", tmp_path), "recorded")
    assert "No figures are recorded" in capsys.readouterr().out


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **how: shown.append((data, how)))
    return shown


def explore_lanes():
    n, block = widgets.Slider(1, 24, 20), widgets.Choice((2, 4, 8, 16), 8)
    widgets.explore(scenes.lanes, scenes.lanes_alt, n=n, BLOCK=block)


def test_without_ipywidgets_the_starting_picture_stands_in(displayed, monkeypatch):
    monkeypatch.setattr(widgets, "find_spec", lambda name: None)
    explore_lanes()
    ((bundle, how),) = displayed
    assert set(bundle) == {"image/png", "text/plain"}
    assert how["metadata"]["image/png"]["alt"] == scenes.lanes_alt(20, 8)


def test_a_live_widget_keeps_the_picture_for_readers_elsewhere(displayed):
    pytest.importorskip("ipywidgets")
    explore_lanes()
    ((bundle, _),) = displayed
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
    assert bundle["text/plain"] == scenes.lanes_alt(20, 8)


@pytest.mark.parametrize("control", [widgets.Slider(1, 24, 20), widgets.Choice((2, 4), 4)])
def test_the_name_of_a_control_is_not_cut_off(control):
    pytest.importorskip("ipywidgets")
    assert control.widget("temperature").style.description_width == "initial"


def test_moving_a_slider_draws_again():
    pytest.importorskip("ipywidgets")
    controls = {"n": widgets.Slider(1, 24, 20), "BLOCK": widgets.Choice((2, 4, 8, 16), 8)}
    box = widgets.live_box(scenes.lanes, scenes.lanes_alt, controls)
    row, picture = box.children
    assert "3 programs × 8 lanes = 24 lanes: 20 used, 4 masked (17%)" in picture.value
    row.children[0].value = 5
    assert "1 program × 8 lanes = 8 lanes: 5 used, 3 masked (38%)" in picture.value


def test_the_norm_scene_shows_the_norm():
    torch = pytest.importorskip("torch")
    x, y = scenes.normed(7.0, 1e-3, 0.1)
    expected = torch.nn.functional.rms_norm(torch.tensor(x), (4,), eps=1e-3)
    torch.testing.assert_close(torch.tensor(y), expected)
    assert figures.png(scenes.norm(7.0, 1e-3, 0.1)).startswith(b"\x89PNG")


def test_a_stored_chart_opens():
    image = pytest.importorskip("PIL.Image")
    opened = image.open(io.BytesIO(figures.png(scenes.lanes(20, 8))))
    assert opened.width == 7.5 * 96 * 1.75
