"""From a file's bytes to an RGB picture. The bytes are a stranger's: nothing they say is believed."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tercet.media.errors import PictureError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The libraries behind the others have seen less of the world."""

MAX_RATIO = 100
MAX_SCANS = 100
"""Of a JPEG as large as may be, more of a smaller one: each goes over the whole picture, be it empty, and a file of 16
MB has room for hours of them."""
MAX_EXIF_PIECES = 300
"""Of a JPEG's EXIF data, up to 64 KiB each."""
_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"
"""What no picture's own data hold: there a zero follows each ff."""

_RUN_LENGTHS = (1, 2)
"""Of 8 bits and of 4, as a BMP says it."""

# Pillow's own bound would refuse what a wider one of ours, which is looked at first, allows.
Image.MAX_IMAGE_PIXELS = None

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
"""By EXIF's orientation: what turns a picture upright."""


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Return the picture (the first frame of a moving one), upright, without transparency, in RGB.

    Its size is read from the header and checked before a pixel is unpacked; so is its shape, since what scales the
    shorter side up to a model's size would make an immense picture of a very long one. Raises PictureError.
    """
    # To every piece those before are copied.
    if data.startswith(_JPEG) and data.count(b"Exif\0\0") > MAX_EXIF_PIECES:
        raise PictureError(f"EXIF data in more than {MAX_EXIF_PIECES} pieces")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise PictureError(f"{width} x {height} pixels: at most {max_pixels} are decoded")
            if max(width, height) > MAX_RATIO * min(width, height):
                raise PictureError(f"{width} x {height} pixels: one side is over {MAX_RATIO} times the other")
            if data.startswith(_JPEG) and data.count(_SCAN) * width * height > MAX_SCANS * max_pixels:
                raise PictureError(f"{data.count(_SCAN)} scans of {width} x {height} pixels: far more than any needs")
            if picture.format == "BMP" and picture.info.get("compression") in _RUN_LENGTHS:
                # They are unpacked by a loop of Python, pixel by pixel, and nothing else runs meanwhile.
                raise PictureError("a BMP that is run-length encoded: send a PNG")
            # A PNG without its last bytes unpacks without complaint: its chunks are counted first.
            picture.verify()
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            picture.load()
            return _flat(_eight_bits(_upright(picture)))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture in one of the formats {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders meet broken files with errors of any kind
        raise PictureError(f"broken or cut off: {error or type(error).__name__}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Return it as its EXIF data says that it stands. Where those are damaged the picture itself need not be.

    ImageOps.exif_transpose writes them anew, too, which fails on more of them than reading does.
    """
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - its readers meet damage with errors of any kind
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return it with 8 bits a channel: of 16 bits of grey Pillow would make everything but the darkest 255 white."""
    if not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    clear = picture.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _flat(picture: Image.Image) -> Image.Image:
    """Return it in RGB; what shines through is white, as on a page."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page
