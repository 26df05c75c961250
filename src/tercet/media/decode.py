"""From a file's bytes to an RGB picture. The bytes are a stranger's: nothing they say is believed."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from tercet.media.errors import PictureError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The libraries behind the others have seen less of the world."""

MAX_RATIO = 100


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Return the picture (the first frame of a moving one), upright, without transparency, in RGB.

    Its size is read from the header and checked before a pixel is unpacked; so is its shape, since what scales the
    shorter side up to a model's size would make an immense picture of a very long one. Raises PictureError.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise _too_many(f"{width} x {height}", max_pixels)
            if max(width, height) > MAX_RATIO * min(width, height):
                raise PictureError(f"{width} x {height} pixels: one side is over {MAX_RATIO} times the other")
            # A PNG without its last bytes unpacks without complaint: its chunks are counted first.
            picture.verify()
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            picture.load()
            return _flat(ImageOps.exif_transpose(picture))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise _too_many("too many", max_pixels) from error
    except Exception as error:  # decoders meet broken files with errors of any kind
        raise PictureError(f"broken or cut off: {error or type(error).__name__}") from error


def _flat(picture: Image.Image) -> Image.Image:
    """Return it in RGB; what shines through is white, as on a page."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page


def _too_many(found: str, most: int) -> PictureError:
    return PictureError(f"{found} pixels: at most {most} are decoded")
