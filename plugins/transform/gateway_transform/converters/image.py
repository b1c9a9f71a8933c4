"""Images resized and converted by Pillow; turned as the camera says, without the camera's data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_transform.api import BadInput, BadOptions, Needs, Option, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, making, matching, shown
from gateway_transform.converters.options import number, text
from gateway_transform.converters.pixels import MAX_PIXELS, READABLE, opened, upright_frames
from gateway_transform.converters.versions import versions

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE = 30_000
MAX_PIXELS_HELD = 120_000_000
"""Of all frames of one animation or document together."""

WIDTH = Option("width", "Width in pixels; empty: as the height asks for", free_input=True)
HEIGHT = Option("height", "Height in pixels; empty: as the width asks for", free_input=True)
FIT = Option(
    "fit",
    "If the proportions differ",
    default="inside",
    values={
        "inside": "Fit into width and height",
        "shrink": "Fit into width and height, never enlarge",
        "cover": "Fill width and height, cut the rest off",
        "stretch": "Stretch to width and height",
    },
)
FORMAT = Option(
    "format",
    "Format",
    default="png",
    values={
        "png": "PNG",
        "jpg": "JPEG (.jpg)",
        "jpeg": "JPEG (.jpeg)",
        "webp": "WebP",
        "avif": "AVIF",
        "gif": "GIF",
        "tiff": "TIFF",
        "bmp": "BMP",
        "pdf": "PDF",
    },
)
QUALITY = Option("quality", "Quality of JPEG, WebP and AVIF, 1 to 100", default="85", free_input=True)

_FORMATS = {**READABLE, ".pdf": "PDF"}
_MOVING = frozenset({"GIF", "WEBP", "AVIF", "PNG"})
_PAGED = frozenset({"TIFF", "PDF"})
_OPAQUE = frozenset({"JPEG", "BMP", "PDF"})
_KEEPS_ICC = frozenset({"JPEG", "PNG", "WEBP", "TIFF", "AVIF"})
_NEEDS = Needs(modules=("PIL",), preload=("PIL.Image", "PIL.ImageOps", "PIL.JpegImagePlugin", "PIL.PngImagePlugin"))
_KINDS = "PNG, JPEG, WebP, GIF, TIFF, BMP and AVIF"


@transformation(
    label="Resize images",
    help=f"Every image ({_KINDS}) in another size: a-resized.jpg. Animations and pages are kept; what the camera "
    "wrote, such as the place, is not.",
    options=(FILES, WIDTH, HEIGHT, FIT, QUALITY),
    needs=_NEEDS,
    deterministic=True,
    version=versions("Pillow"),
)
def image_resize(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.jpg`` gives ``a-resized.jpg``."""
    width, height = number(options, WIDTH, low=1, high=MAX_SIDE), number(options, HEIGHT, low=1, high=MAX_SIDE)
    if width is None and height is None:
        raise BadOptions("width: a width, a height or both are needed")
    fit = text(options, FIT)
    quality = number(options, QUALITY, low=1, high=100) or 85

    def resized(frame: Image) -> Image:
        return _resized(frame, (width, height), fit)

    def convert(path: Path) -> list[Path]:
        return _converted(path, path.suffix, quality, tag="-resized", change=resized)

    convert_each(working_dir, logger, _images(working_dir, options), convert=convert)


@transformation(
    label="Convert images",
    help=f"Every image ({_KINDS}) in another format beside it; those that have it already are left alone. Animations "
    "are kept where the format has them, pages of a TIFF too, else each becomes a file. What the camera wrote, such as "
    "the place, is not kept.",
    options=(FILES, FORMAT, QUALITY),
    needs=_NEEDS,
    deterministic=True,
    version=versions("Pillow"),
)
def image_convert(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.png`` gives ``a.jpg``."""
    extension = f".{text(options, FORMAT)}"
    quality = number(options, QUALITY, low=1, high=100) or 85
    paths = []
    for path in _images(working_dir, options):
        if READABLE[path.suffix.lower()] == _FORMATS[extension]:
            logger.info("%s has that format already", shown(path, working_dir))
        else:
            paths.append(path)

    def convert(path: Path) -> list[Path]:
        return _converted(path, extension, quality)

    convert_each(working_dir, logger, paths, convert=convert)


def _images(working_dir: str, options: dict[str, Any]) -> list[Path]:
    return matching(working_dir, options, READABLE, expected="image")


def _converted(
    path: Path,
    extension: str,
    quality: int,
    *,
    tag: str = "",
    change: Callable[[Image], Image] = lambda frame: frame,
) -> list[Path]:
    """Files of ``extension`` made of the frames of ``path``, each turned upright and ``change``d."""
    target_format = _FORMATS[extension.lower()]
    with opened(path) as image:
        paged = image.format == "TIFF" and getattr(image, "n_frames", 1) > 1
        together = target_format in (_PAGED if paged else _MOVING) and image.format != "MPO"
        frames = upright_frames(image, every=paged or together)
        changed = (change(_in_mode_for(target_format, frame)) for frame in frames)
        settings = _settings(image, target_format, quality)
        if paged and not together:
            numbered = enumerate(changed, 1)
            return [_saved([frame], beside(path, extension, f"{tag}-{page}"), settings) for page, frame in numbered]
        return [_saved(_held(changed), beside(path, extension, tag), settings)]


def _held(frames: Iterable[Image]) -> list[Image]:
    """All frames of a file, which Pillow wants together in memory."""
    held = []
    pixels = 0
    for frame in frames:
        pixels += frame.width * frame.height
        if pixels > MAX_PIXELS_HELD:
            raise BadInput(f"its frames have more than {MAX_PIXELS_HELD} pixels together")
        held.append(frame)
    return held


def _saved(frames: Sequence[Image], target: Path, settings: Mapping[str, Any]) -> Path:
    first, *others = frames
    more: dict[str, Any] = {}
    if others:
        durations = [frame.info.get("duration", 100) for frame in frames]
        more = {"save_all": True, "append_images": others, "duration": durations}
    for frame in frames:
        frame.info = {}
    with making(target):
        first.save(target, **settings, **more)
    return target


def _in_mode_for(target_format: str, frame: Image) -> Image:
    """``frame`` with colours that the format can hold and that can be resized; on white where it has no alpha."""
    from PIL import Image

    if frame.mode.startswith("I"):
        frame = frame if target_format in {"PNG", "TIFF"} else frame.convert("I").point(lambda value: value / 256)
        return frame if target_format in {"PNG", "TIFF"} else frame.convert("L")
    if frame.mode == "CMYK" and target_format in {"JPEG", "TIFF", "PDF"}:
        return frame
    if frame.has_transparency_data:
        frame = frame.convert("RGBA")
        if target_format not in _OPAQUE:
            return frame
        white = Image.new("RGBA", frame.size, "white")
        return Image.alpha_composite(white, frame).convert("RGB")
    return frame.convert("L" if frame.mode in {"1", "L", "F"} else "RGB")


def _resized(frame: Image, wanted: tuple[int | None, int | None], fit: str) -> Image:
    from PIL import ImageOps
    from PIL.Image import Resampling

    width, height = wanted
    if width and height and fit in {"cover", "stretch"}:
        size = width, height
    else:
        scale = min(length / side for length, side in zip(wanted, frame.size, strict=True) if length)
        scale = min(scale, 1.0) if fit == "shrink" else scale
        size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    if size[0] * size[1] > MAX_PIXELS:
        raise BadInput(f"would have {size[0]} x {size[1]} pixels, that is too many")
    if fit == "cover":
        return ImageOps.fit(frame, size, Resampling.LANCZOS)
    return frame.resize(size, Resampling.LANCZOS)


def _settings(image: Image, target_format: str, quality: int) -> dict[str, Any]:
    """How Pillow saves: colour profile and resolution go along, all else that the image knew stays behind."""
    settings: dict[str, Any] = {"format": target_format}
    if target_format in {"JPEG", "WEBP", "AVIF", "PDF"}:
        settings["quality"] = quality
    if target_format == "TIFF":
        settings["compression"] = "tiff_deflate"
    if target_format == "PDF":
        settings |= {"title": None, "creationDate": None, "modDate": None}
    profile = image.info.get("icc_profile")
    if profile and target_format in _KEEPS_ICC and (image.mode != "CMYK" or target_format in {"JPEG", "TIFF"}):
        settings["icc_profile"] = profile
    dpi = image.info.get("dpi")
    if dpi and target_format in {"JPEG", "PNG", "TIFF", "BMP", "PDF"} and all(1 <= each <= 10_000 for each in dpi):
        settings["dpi"] = tuple(float(each) for each in dpi)
    if "loop" in image.info and target_format in {"GIF", "WEBP", "PNG"}:
        settings["loop"] = image.info["loop"]
    if target_format == "GIF":
        settings["disposal"] = 2
    return settings
