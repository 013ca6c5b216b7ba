"""Pictures: files to the pixels that a vision tower takes, as transformers prepares them.

A picture is turned upright, put over white where it is transparent, resized so that its shorter
edge fits, cut to the square in its middle, and normalised.  Its size is known from the header, and
one that is too large is refused before it is decoded.
"""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from litellama.config import ConfigReader, VisionConfig, is_number, read_json
from litellama.engine.pictures import Picture
from litellama.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

# The most pixels that are decoded, or made by resizing: a quarter of a gigabyte as RGB.
MAX_PIXELS = 89_478_485
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil")
BICUBIC = 3  # Pillow's number, as in preprocessor_config.json
WHITE = (255, 255, 255, 255)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageProcessor:
    """Pictures to pixels, by a checkpoint's ``preprocessor_config.json``, and into prompts.

    vision: the tower; the square that it takes is cut from the middle.  resize: the shorter edge,
    or (height, width), before that.  Values are multiplied by ``scale``, then ``mean`` is
    subtracted and the rest divided by ``std``, for each of red, green and blue.  resample: Pillow's
    number of a filter.
    """

    vision: VisionConfig
    resize: int | tuple[int, int]
    scale: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resample: int = BICUBIC

    @classmethod
    def from_folder(cls, folder: Path, vision: VisionConfig) -> "ImageProcessor":
        """Of a checkpoint whose tower is ``vision``.

        Raises ConfigError for a file that is missing, asks for what is not supported, or makes
        pictures of another size than the tower takes.
        """
        reader = open_settings(folder)
        kind = reader.config.get("image_processor_type", PROCESSORS[0])
        if kind not in PROCESSORS:
            reader.refuse(f"image_processor_type {kind!r} is not supported, only {PROCESSORS[0]}")
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if reader.config.get(step, True) is not True:
                reader.refuse(f"{step} must be true")
        resize, side = read_size(reader, "size"), vision.image_size
        made = resize
        if reader.config.get("do_center_crop", True):
            made = read_size(reader, "crop_size")
            made = (made, made) if isinstance(made, int) else made
        if reader.config.get("do_pad") or made != (side, side) or smallest(resize) < side:
            reader.refuse(
                f"size {resize}, crop_size {made} and do_pad {reader.config.get('do_pad', False)} "
                f"do not fill the {side} x {side} pixels that the vision tower of config.json takes"
            )
        return cls(
            vision,
            resize,
            scale=reader.positive("rescale_factor", default=1 / 255),
            mean=read_channels(reader, "image_mean", CLIP_MEAN),
            std=read_channels(reader, "image_std", CLIP_STD, positive=True),
            resample=read_resample(reader),
        )

    def __call__(self, image: Any) -> torch.Tensor:
        """float32 [3, S, S] of a path, the bytes of a file, a Pillow image, or uint8 [H, W]
        or [H, W, 3]; RequestError for what is not a picture or too large."""
        picture = load_image(image)
        height, width = self.resized(picture.height, picture.width)
        if height * width > MAX_PIXELS:
            raise RequestError(
                f"a picture of {picture.width} x {picture.height} pixels is too narrow: with its "
                f"shorter edge at {min(height, width)} pixels it would be {width} x {height}"
            )
        if (height, width) != (picture.height, picture.width):
            picture = picture.resize((width, height), resample=self.resample)
        size = self.vision.image_size
        top, left = (height - size) // 2, (width - size) // 2
        pixels = np.asarray(picture)[top : top + size, left : left + size]
        # Through float64, as transformers does, so that the bits are the same.
        scaled = (pixels.astype(np.float64) * self.scale).astype(np.float32)
        normed = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(normed.transpose(2, 0, 1)))

    def expand(self, ids: Sequence[int]) -> list[int]:
        """A prompt with as many image tokens for each that it has as a picture has features."""
        v = self.vision
        return [i for t in ids for i in [t] * (v.num_image_tokens if t == v.image_token_id else 1)]

    def place(self, ids: list[int], num_images: int) -> list[int]:
        """A prompt with room for its pictures; it may already have it.

        RequestError unless it has an image token for each picture.
        """
        count = ids.count(self.vision.image_token_id)
        if count == num_images * self.vision.num_image_tokens:
            return ids
        if count != num_images:
            raise RequestError(
                f"the prompt has {count} image token(s) and {num_images} image(s): give one for "
                "each picture, in its place among the words"
            )
        return self.expand(ids)

    def pictures(self, ids: Sequence[int], images: Sequence[Any]) -> list[Picture]:
        """The prepared pictures of a prompt that ``place`` made."""
        size = self.vision.num_image_tokens
        starts = [i for i, t in enumerate(ids) if t == self.vision.image_token_id][::size]
        prepared = [self(image) for image in images]
        return [
            Picture(pixels, start, size, image_key(pixels))
            for pixels, start in zip(prepared, starts, strict=True)
        ]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing."""
        if isinstance(self.resize, tuple):
            return self.resize
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)


def check_images(images: Sequence[Any] | None) -> Sequence[Any]:
    """A list of pictures, empty for None; RequestError for a picture that is not in a list."""
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        raise RequestError(f"images must be a list of pictures, got a {type(images).__name__}")
    return images


def image_key(pixels: torch.Tensor) -> bytes:
    """16 bytes that stand for a prepared picture."""
    return hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()


def load_image(image: Any) -> "Image":
    """A decoded Pillow image, upright and in RGB, of anything that ``ImageProcessor`` takes.

    RequestError for what is not a picture, is damaged, or has more than ``MAX_PIXELS``.
    """
    if find_spec("PIL") is None:
        raise RequestError("pictures need the package Pillow: pip install 'litellama[images]'")
    return upright_rgb(open_image(image))


def open_image(image: Any) -> "Image":
    """A Pillow image of anything that ``ImageProcessor`` takes, not decoded yet."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, Image.Image):
        return image
    name = str(image) if isinstance(image, str | Path) else "the picture"
    if hasattr(image, "__array__"):
        return image_of_array(np.asarray(image))
    if not isinstance(image, str | Path | bytes):
        raise RequestError(
            "a picture must be a path, the bytes of a file, a Pillow image or an array, got a "
            f"{type(image).__name__}"
        )
    source = io.BytesIO(image) if isinstance(image, bytes) else Path(image).expanduser()
    try:
        with warnings.catch_warnings():  # of sizes that ``upright_rgb`` refuses
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise RequestError(f"{name} is not a picture: {', '.join(FORMATS)} are read") from None
    except OSError as error:
        raise RequestError(f"{name} cannot be read: {error.strerror or error}") from error
    except (Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise RequestError(f"{name} cannot be opened as a picture: {error}") from error


def upright_rgb(image: "Image") -> "Image":
    """Decode: turned as its EXIF data says, transparency over white, 16 bits to 8; mode RGB."""
    from PIL import Image, ImageOps

    name = getattr(image, "filename", "") or "the picture"
    if image.width * image.height > MAX_PIXELS:
        raise RequestError(
            f"{name} has {image.width} x {image.height} pixels, and {MAX_PIXELS} are the most that "
            "are decoded: make it smaller first"
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, which convert would cut off at 255
            grey = (np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        raise RequestError(f"{name} is damaged or not supported: {error}") from error


def image_of_array(array: np.ndarray) -> "Image":
    """uint8 [H, W] or [H, W, 3]."""
    from PIL import Image

    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise RequestError(
            "an array must be uint8 of shape [height, width] or [height, width, 3], got "
            f"{array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(array)


def open_settings(folder: Path) -> ConfigReader:
    """``preprocessor_config.json``, or the part of ``processor_config.json`` that replaced it."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        return ConfigReader(read_json(path), str(path))
    newer = folder / "processor_config.json"
    if newer.exists() and "image_processor" in (whole := read_json(newer)):
        return ConfigReader(whole, str(newer)).section("image_processor")
    raise ConfigError(
        f"{folder} has no preprocessor_config.json, which says how pictures are prepared"
    )


def read_size(reader: ConfigReader, key: str) -> int | tuple[int, int]:
    """A number, {"shortest_edge": n}, or {"height": h, "width": w}; 224 as in CLIP if missing."""
    value = reader.config.get(key, 224)
    if isinstance(value, int):
        return reader.size(key, default=224)
    size = reader.section(key)
    if "shortest_edge" in size.config:
        return size.size("shortest_edge")
    return size.size("height"), size.size("width")


def smallest(size: int | tuple[int, int]) -> int:
    """The shorter edge of a size."""
    return size if isinstance(size, int) else min(size)


def read_resample(reader: ConfigReader) -> int:
    """Pillow's number of a filter: 0 nearest, 2 bilinear, 3 bicubic, and so on."""
    value = reader.config.get("resample", BICUBIC)
    if value not in range(6):
        reader.refuse(f"resample must be Pillow's number of a filter, 0 to 5, found {value!r}")
    return value


def read_channels(
    reader: ConfigReader, key: str, default: tuple[float, ...], positive: bool = False
) -> tuple[float, ...]:
    """A number for each of red, green and blue."""
    value = reader.config.get(key, default)
    listed = isinstance(value, list | tuple) and len(value) == 3 and all(map(is_number, value))
    if not listed or (positive and min(value) <= 0):
        kind = "positive numbers" if positive else "numbers"
        reader.refuse(f"{key} must be three {kind}, found {value!r}")
    return tuple(map(float, value))
