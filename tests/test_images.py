"""Pictures to pixels: bit for bit as transformers prepares them, and clear errors for the rest."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from litellama.errors import ConfigError, RequestError
from litellama.images import MAX_PIXELS, ImageProcessor, image_key
from litellama.models import presets

VISION = presets.preset_config("llava-1.5-7b").vision


def save_settings(folder: Path, **changes) -> Path:
    """Write the preprocessor_config.json of a tower for 336 x 336 pixels."""
    edge = 336
    CLIPImageProcessorPil(
        size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
    ).save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def both(folder: Path) -> tuple[ImageProcessor, CLIPImageProcessorPil]:
    """Our processor and transformers' of the settings in a folder."""
    return ImageProcessor.from_folder(folder, VISION), CLIPImageProcessorPil.from_pretrained(folder)


@pytest.fixture(scope="module")
def prepare(tmp_path_factory) -> ImageProcessor:
    folder = tmp_path_factory.mktemp("processor")
    save_settings(folder)
    return ImageProcessor.from_folder(folder, VISION)


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with noise on top, so that a wrong filter or shift shows."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + i) + i) + np.cos(y / (7 - i)) for i in range(3)]
    noise = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
    pixels = np.stack(waves, axis=-1) * 50 + 128 + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def pixels_of(processor: CLIPImageProcessorPil, image: Image.Image) -> torch.Tensor:
    return processor(image, return_tensors="pt").pixel_values[0]


@pytest.mark.parametrize(
    ("width", "height"),
    [(336, 336), (640, 480), (479, 641), (100, 31), (1, 1), (1, 40), (337, 336), (335, 400)],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_pixels_are_those_of_transformers_bit_for_bit(tmp_path, width, height, mode):
    save_settings(tmp_path)
    ours, theirs = both(tmp_path)
    image = picture(width, height, mode)
    assert torch.equal(ours(image), pixels_of(theirs, image))


SETTINGS = {
    "bilinear": {"resample": 2},
    "other_statistics": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.4, 0.3]},
    "old_style_sizes": {"size": 336, "crop_size": 336},
    "square_without_crop": {"size": {"height": 336, "width": 336}, "do_center_crop": False},
    "crop_smaller_than_size": {"size": {"shortest_edge": 384}},
    "other_scale": {"rescale_factor": 0.01},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_followed(tmp_path, name):
    save_settings(tmp_path, **SETTINGS[name])
    ours, theirs = both(tmp_path)
    image = picture(500, 411)
    assert torch.equal(ours(image), pixels_of(theirs, image))


def test_settings_inside_a_processor_config(tmp_path):
    path = save_settings(tmp_path)
    expected = ImageProcessor.from_folder(tmp_path, VISION)
    settings = {"image_processor": json.loads(path.read_text())}
    path.unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    assert ImageProcessor.from_folder(tmp_path, VISION) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "'SiglipImageProcessor' is not"),
        ({"do_normalize": False}, "do_normalize must be true"),
        ({"do_pad": True}, "do not fill the 336 x 336 pixels"),
        ({"crop_size": {"height": 224, "width": 224}}, "do not fill the 336 x 336 pixels"),
        ({"size": {"shortest_edge": 300}}, "do not fill the 336 x 336 pixels"),
        ({"do_center_crop": False}, "do not fill the 336 x 336 pixels"),
        ({"size": {"longest_edge": 336}}, "height is missing"),
        ({"image_mean": [0.5]}, r"image_mean must be three numbers, found \[0.5\]"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std must be three positive numbers"),
        ({"resample": "cubic"}, "resample must be Pillow's number of a filter"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_not_supported(tmp_path, changes, message):
    path = save_settings(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        ImageProcessor.from_folder(tmp_path, VISION)
    assert str(path) in str(caught.value)


def test_a_folder_without_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json"):
        ImageProcessor.from_folder(tmp_path, VISION)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_files_bytes_images_and_arrays_are_the_same_picture(prepare, tmp_path, kind):
    data = encoded(picture(350, 340), kind)
    path = tmp_path / "picture"
    path.write_bytes(data)
    opened = Image.open(path)
    expected = prepare(opened)
    for image in (str(path), path, data, np.asarray(opened.convert("RGB"))):
        assert torch.equal(prepare(image), expected)


def test_transparency_lies_over_white(prepare):
    """Half transparent black is mid grey, and what is hidden does not shine through."""
    red, clear = Image.new("RGBA", (336, 336), (255, 0, 0, 0)), (0, 0, 0, 128)
    assert torch.equal(prepare(red), prepare(Image.new("RGB", (336, 336), "white")))
    grey = Image.new("RGB", (336, 336), (127, 127, 127))
    assert torch.equal(prepare(Image.new("RGBA", (336, 336), clear)), prepare(grey))
    palette = Image.new("P", (336, 336), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    hidden = encoded(palette, "PNG", transparency=0)
    assert torch.equal(prepare(hidden), prepare(Image.new("RGB", (336, 336), "white")))
    assert torch.equal(prepare(palette), prepare(Image.new("RGB", (336, 336), "red")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_which_way_is_up(prepare, orientation):
    upright = picture(400, 336)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert torch.equal(prepare(encoded(stored, "PNG", exif=exif)), prepare(upright))


def test_sixteen_bits_of_grey_keep_their_shades(prepare):
    shades = np.linspace(0, 65535, 336 * 336).astype(np.uint16).reshape(336, 336)
    deep = Image.fromarray(shades)
    eight = Image.fromarray((shades >> 8).astype(np.uint8))
    assert torch.equal(prepare(encoded(deep, "PNG")), prepare(eight))
    assert torch.equal(prepare(deep.convert("I")), prepare(eight))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one row's worth of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the picture is not a picture: PNG, JPEG"),
        (b"hello world", "the picture is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        (png_header(20_000, 20_000), "pixels"),
        (png_header(10_000, 9_000), f"10000 x 9000 pixels, and {MAX_PIXELS} are the most"),
        (png_header(50, 50), "damaged or not supported"),
        (encoded(picture(60, 60), "JPEG")[:900], "damaged or not supported"),
        (encoded(Image.new("RGB", (1, 60_000)), "PNG"), "1 x 60000 pixels is too narrow"),
        (7, "must be a path, the bytes of a file.* got a int"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 of shape .* got uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4)), r"got float64 \[4, 4\]"),
        ("/nowhere/picture.png", "/nowhere/picture.png cannot be read: No such file"),
        ("/", "/ cannot be read: Is a directory"),
    ],
    ids=["empty", "text", "svg", "eps", "20000x20000", "90_million", "short_png", "cut_jpeg",
         "narrow", "number", "rgba_array", "floats", "no_file", "folder"],
)  # fmt: skip
def test_what_is_no_picture_or_too_large_is_refused(prepare, image, message):
    with pytest.raises(RequestError, match=message):
        prepare(image)


def test_a_key_stands_for_the_pixels(prepare):
    same, other = prepare(picture(400, 400)), prepare(picture(400, 400, seed=1))
    assert image_key(same) == image_key(prepare(picture(400, 400))) != image_key(other)
    assert len(image_key(same)) == 16
