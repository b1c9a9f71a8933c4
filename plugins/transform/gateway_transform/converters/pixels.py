"""Images through Pillow, within limits: listed formats only, no bombs, no half-read files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gateway_transform.api import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 90_000_000
"""Of one image; in memory four bytes each."""
READABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
"""Extension to Pillow's name of the format. Whatever the extension, the file may be any of these, and no other."""


@contextmanager
def bounded_pixels() -> Iterator[None]:
    """Pillow, whoever calls it, opens no image of more than ``MAX_PIXELS`` in this block.

    And takes no truncated one for whole, as weasyprint makes it do.
    """
    from PIL import Image, ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = MAX_PIXELS, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """The image in ``path``, loaded, within ``bounded_pixels``; ``BadInput`` if it is too big, or damaged.

    Also where the block finds that out, for later frames are read as they are needed.
    """
    from PIL import Image, UnidentifiedImageError

    with bounded_pixels():
        try:
            with Image.open(path, formats=sorted(set(READABLE.values()))) as image:
                image.load()
                yield image
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadInput(f"has more than {MAX_PIXELS} pixels") from error
        except UnidentifiedImageError as error:
            raise BadInput("is damaged, or no image of a known format") from error
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BadInput(f"is damaged: {error}") from error


def upright_frames(image: Image, *, every: bool) -> Iterator[Image]:
    """The frames or pages of an opened image, or only the first, as copies turned as the camera says."""
    from PIL import ImageOps

    for index in range(getattr(image, "n_frames", 1) if every else 1):
        image.seek(index)
        yield ImageOps.exif_transpose(image)
